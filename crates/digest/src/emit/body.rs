//! The body that is hashed on its way.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{
    BoxError, Cause, FaultKind, Observation, Observe, ObservedBody, StreamEnd, StreamError,
};

use super::{Sent, layer::Config};
use crate::{
    Algorithm, Announcements, DigestValue, Later, Placement, Segments, fields::X_SEGMENT_DIGEST,
    hasher::Hasher, replay::Replay,
};

/// Hashes what passes, and tells how it went.
pub(super) struct Tee<D: Algorithm> {
    hasher: Option<Hasher<D>>,
    done: Option<(DigestValue, Option<Segments>)>,
    bytes: u64,
    declared: Option<u64>,
    pub(super) plan: Placement,
    /// The body is being polled, or has given out its trailers: what ends now ends with ours.
    trailing: bool,
    method: Method,
    uri: Uri,
    later: Later<Sent>,
    config: Arc<Config>,
}

impl<D: Algorithm> Tee<D> {
    pub(super) fn new(
        hasher: Hasher<D>,
        later: Later<Sent>,
        (method, uri): (Method, Uri),
        declared: Option<u64>,
        config: Arc<Config>,
    ) -> Self {
        Self {
            hasher: Some(hasher),
            done: None,
            bytes: 0,
            declared,
            plan: Placement::Unannounced,
            trailing: false,
            method,
            uri,
            later,
            config,
        }
    }

    /// Hashes a body that is all there, before its frames pass. `None` when it is not as long as declared.
    pub(super) fn hash_ahead<'a>(
        &mut self,
        data: impl Iterator<Item = &'a Bytes>,
    ) -> Option<DigestValue> {
        let mut hasher = self.hasher.take()?;
        let mut bytes = 0;
        for data in data {
            hasher.update(data);
            bytes += data.len() as u64;
        }
        self.done = Some(hasher.finish())
            .filter(|_| self.declared.is_none_or(|declared| declared == bytes));
        self.done.as_ref().map(|(digest, _)| *digest)
    }

    /// Announces the segments, when that is asked for and they are few.
    pub(super) fn write_segments(&self, fields: &mut HeaderMap) {
        let segments = self
            .done
            .as_ref()
            .and_then(|(_, segments)| segments.as_ref());
        let value = segments
            .filter(|_| self.config.announce_segments)
            .and_then(Segments::field_value);
        if let Some(value) = value {
            fields.insert(X_SEGMENT_DIGEST, value);
        }
    }

    pub(super) fn do_not_hash(&mut self) {
        self.hasher = None;
    }

    /// The digest of the whole body, when it has ended as it should.
    fn digest(&self) -> Option<&DigestValue> {
        let right = self.declared.is_none_or(|declared| declared == self.bytes);
        self.done
            .as_ref()
            .filter(|_| right)
            .map(|(digest, _)| digest)
    }
}

impl<D: Algorithm> Observe for Tee<D> {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(data);
            }
        }
    }

    fn ended(&mut self) {
        if let Some(hasher) = self.hasher.take() {
            self.done = Some(hasher.finish());
        }
    }

    fn end(&mut self, end: &StreamEnd) {
        let digest = self
            .digest()
            .filter(|_| *end == StreamEnd::Complete)
            .copied();
        let done = self.done.as_mut().filter(|_| digest.is_some());
        let segments = done.and_then(|(_, segments)| match self.config.announce_segments {
            // the trailers are still to be written
            true => segments.clone(),
            false => segments.take(),
        });
        let placement = match self.plan {
            Placement::Trailer if digest.is_none() || !self.trailing => Placement::Unannounced,
            plan => plan,
        };
        self.config.counts.add(placement);
        let sent = Sent {
            method: self.method.clone(),
            uri: self.uri.clone(),
            digest,
            segments,
            bytes: self.bytes,
            placement,
            end: end.clone(),
        };
        self.later.set(sent.clone());
        if let Some(on_sent) = &self.config.on_sent {
            on_sent(&sent);
        }
    }
}

/// The body is not as long as its head said, before that was taken out of the head: with `Content-Length` the server would
/// have cut the connection, as chunks it would look whole.
fn wrong_length<D: Algorithm>(
    observation: &Observation<Tee<D>>,
    ended: bool,
) -> Option<StreamError> {
    let tee = observation.observer();
    let declared = tee.declared?;
    let kind = match tee.bytes {
        bytes if bytes > declared => FaultKind::Other,
        bytes if bytes < declared && ended => FaultKind::ShortBody,
        _ => return None,
    };
    let cause = Cause::new(
        kind,
        format!("the body has {} bytes and declared {declared}", tee.bytes),
    );
    observation.fault().record(cause.clone());
    Some(cause.into())
}

/// Where the digest of a streamed body is announced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Announced {
    Nowhere,
    Trailers {
        fields: Announcements,
        overwrite: bool,
        /// chunked although the length was known: nobody else will notice a wrong one
        chunked: bool,
    },
}

pin_project! {
    /// The body that [`DigestLayer`](super::DigestLayer) makes.
    pub struct DigestBody<B, D: Algorithm> {
        #[pin]
        kind: Kind<B, D>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B, D: Algorithm> {
        Untouched { #[pin] inner: B },
        // boxed: a response that is not hashed should not carry its size about
        Hashed { inner: Box<ObservedBody<Replay<B>, Tee<D>>>, announced: Announced, over: bool },
    }
}

impl<B, D: Algorithm> DigestBody<B, D> {
    pub(super) fn untouched(inner: B) -> Self {
        Self {
            kind: Kind::Untouched { inner },
        }
    }

    pub(super) fn hashed(inner: ObservedBody<Replay<B>, Tee<D>>, announced: Announced) -> Self {
        Self {
            kind: Kind::Hashed {
                inner: Box::new(inner),
                announced,
                over: false,
            },
        }
    }
}

impl<B, D> Body for DigestBody<B, D>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (mut inner, announced, over) = match self.project().kind.project() {
            KindProjection::Untouched { inner } => return inner.poll_frame(cx).map_err(Into::into),
            KindProjection::Hashed {
                inner,
                announced,
                over,
            } => (Pin::new(&mut **inner), *announced, over),
        };
        let Announced::Trailers {
            fields,
            overwrite,
            chunked,
        } = announced
        else {
            return inner.poll_frame(cx);
        };
        if *over {
            return Poll::Ready(None);
        }
        inner.as_mut().observation_mut().observer_mut().trailing = true;
        let polled = inner.as_mut().poll_frame(cx);
        let observation = inner.observation_mut();
        observation.observer_mut().trailing = false;
        let polled = ready!(polled).transpose()?;
        let frame = polled.map_or(Ok(HeaderMap::new()), Frame::into_trailers);
        if chunked && let Some(error) = wrong_length(observation, frame.is_ok()) {
            *over = true;
            return Poll::Ready(Some(Err(error.into())));
        }
        let mut trailers = match frame {
            Ok(trailers) => trailers,
            Err(data) => return Poll::Ready(Some(Ok(data))),
        };
        *over = true;
        if observation.fault().cause().is_none()
            && let Some(digest) = observation.observer().digest()
        {
            let fields = if overwrite {
                fields
            } else {
                fields.missing_in(&trailers)
            };
            fields.write(digest, &mut trailers);
            observation.observer().write_segments(&mut trailers);
            observation.observer_mut().trailing = true;
        }
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { inner } => inner.is_end_stream(),
            Kind::Hashed {
                inner,
                announced: Announced::Nowhere,
                ..
            } => inner.is_end_stream(),
            // the trailers are still to come
            Kind::Hashed { over, .. } => *over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { inner } => inner.size_hint(),
            Kind::Hashed {
                inner,
                announced: Announced::Trailers { chunked: true, .. },
                ..
            } => {
                // an exact hint would become a Content-Length, and then h1 drops the trailers
                let mut hint = SizeHint::new();
                hint.set_lower(inner.size_hint().lower());
                hint
            }
            Kind::Hashed { inner, .. } => inner.size_hint(),
        }
    }
}

impl<B: fmt::Debug, D: Algorithm> fmt::Debug for DigestBody<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Untouched { inner } => f.debug_tuple("DigestBody").field(inner).finish(),
            Kind::Hashed {
                inner, announced, ..
            } => f
                .debug_struct("DigestBody")
                .field("inner", inner)
                .field("announced", announced)
                .finish_non_exhaustive(),
        }
    }
}
