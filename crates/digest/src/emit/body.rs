//! The body that is hashed on its way.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tower_stream_core::{
    BoxError, Cause, FaultKind, Observation, Observe, ObservedBody, StreamEnd, StreamError,
    Switched,
};

use super::{Sent, future::Call};
use crate::{Announce, DigestValue, Later, Placement, Segments, hasher::Hasher, replay::Replay};

/// Hashes what passes, and tells how it went.
pub(super) struct Tee {
    hash: Hash,
    bytes: u64,
    declared: Option<u64>,
    pub(super) plan: Placement,
    /// The body is being polled, or has given out its trailers: what ends now ends with ours.
    trailing: bool,
    later: Later<Sent>,
    call: Box<Call>,
}

enum Hash {
    /// Not hashed, or not begun.
    None,
    Running(Hasher),
    Done(DigestValue, Option<Segments>),
}

impl Tee {
    pub(super) fn new(call: Box<Call>, declared: Option<u64>) -> Self {
        Self {
            hash: Hash::None,
            bytes: 0,
            declared,
            plan: Placement::Unannounced,
            trailing: false,
            later: Later::new(),
            call,
        }
    }

    /// Where the outcome will be found.
    pub(super) fn later(&self) -> Later<Sent> {
        self.later.clone()
    }

    /// Hashes what passes from now on.
    pub(super) fn hash_with(&mut self, hasher: Hasher) {
        self.hash = Hash::Running(hasher);
    }

    /// Hashes a body that is all there, before its frames pass. `None` when it is not as long as declared.
    pub(super) fn hash_ahead<'a>(
        &mut self,
        mut hasher: Hasher,
        data: impl Iterator<Item = &'a Bytes>,
    ) -> Option<DigestValue> {
        let mut bytes = 0;
        for data in data {
            hasher.update(data);
            bytes += data.len() as u64;
        }
        if self.declared.is_some_and(|declared| declared != bytes) {
            return None;
        }
        let (digest, segments) = hasher.finish();
        self.hash = Hash::Done(digest, segments);
        Some(digest)
    }

    /// The digest of the whole body, when it has ended as it should.
    fn digest(&self) -> Option<DigestValue> {
        match self.hash {
            Hash::Done(digest, _)
                if self.declared.is_none_or(|declared| declared == self.bytes) =>
            {
                Some(digest)
            }
            _ => None,
        }
    }
}

impl Observe for Tee {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len() as u64;
            if let Hash::Running(hasher) = &mut self.hash {
                hasher.update(data);
            }
        }
    }

    fn ended(&mut self) {
        self.hash = match std::mem::replace(&mut self.hash, Hash::None) {
            Hash::Running(hasher) => {
                let (digest, segments) = hasher.finish();
                Hash::Done(digest, segments)
            }
            other => other,
        };
    }

    fn end(&mut self, end: &StreamEnd) {
        let digest = self.digest().filter(|_| *end == StreamEnd::Complete);
        let placement = match self.plan {
            Placement::Trailer if digest.is_none() || !self.trailing => Placement::Unannounced,
            plan => plan,
        };
        let Call {
            config,
            method,
            uri,
            ..
        } = &mut *self.call;
        config.counts.add(placement);
        let segments = match &mut self.hash {
            Hash::Done(_, segments) => segments.take(),
            Hash::None | Hash::Running(_) => None,
        };
        self.later.tell(config.on_sent.as_ref(), || Sent {
            method: std::mem::take(method),
            uri: std::mem::take(uri),
            digest,
            segments: segments.filter(|_| digest.is_some()),
            bytes: self.bytes,
            placement,
            end: end.clone(),
        });
    }
}

/// The body is not as long as its head said, before that was taken out of the head: with `Content-Length` the server would
/// have cut the connection, as chunks it would look whole.
fn wrong_length(observation: &Observation<Tee>, ended: bool) -> Option<StreamError> {
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
        fields: Announce,
        overwrite: bool,
        /// chunked although the length was known: nobody else will notice a wrong one
        chunked: bool,
    },
}

/// The body that [`DigestLayer`](super::DigestLayer) makes. One that is not hashed passes as it is.
pub type DigestBody<B> = Switched<B, Box<HashedBody<B>>>;

/// A body that is hashed on its way, and its digest announced.
pub struct HashedBody<B> {
    inner: ObservedBody<Replay<B>, Tee>,
    announced: Announced,
    /// The trailers were given out, or an error in their place.
    over: bool,
}

impl<B> HashedBody<B> {
    pub(super) fn new(inner: ObservedBody<Replay<B>, Tee>, announced: Announced) -> Self {
        Self {
            inner,
            announced,
            over: false,
        }
    }
}

impl<B> Body for HashedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut inner = Pin::new(&mut this.inner);
        let Announced::Trailers {
            fields,
            overwrite,
            chunked,
        } = this.announced
        else {
            return inner.poll_frame(cx);
        };
        if this.over {
            return Poll::Ready(None);
        }
        inner.as_mut().observation_mut().observer_mut().trailing = true;
        let polled = inner.as_mut().poll_frame(cx);
        let observation = inner.observation_mut();
        observation.observer_mut().trailing = false;
        let wrong_length = |ended| match chunked {
            true => wrong_length(observation, ended),
            false => None,
        };
        // data is framed again, for a `Frame` that is moved whole costs more: see `ObservedBody`
        let (error, mut trailers) = match ready!(polled).transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => match wrong_length(false) {
                None => return Poll::Ready(Some(Ok(Frame::data(data)))),
                error => (error, HeaderMap::new()),
            },
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => (wrong_length(true), trailers),
                Err(other) => return Poll::Ready(Some(Ok(other))),
            },
            None => (wrong_length(true), HeaderMap::new()),
        };
        this.over = true;
        if let Some(error) = error {
            return Poll::Ready(Some(Err(error.into())));
        }
        if observation.fault().cause().is_none()
            && let Some(digest) = observation.observer().digest()
        {
            let fields = match overwrite {
                true => fields,
                false => fields.missing_in(&trailers),
            };
            fields.write(&digest, &mut trailers);
            observation.observer_mut().trailing = true;
        }
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match self.announced {
            Announced::Nowhere => self.inner.is_end_stream(),
            // the trailers are still to come
            Announced::Trailers { .. } => self.over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        match self.announced {
            Announced::Trailers { chunked: true, .. } => {
                // an exact hint would become a Content-Length, and then h1 drops the trailers
                let mut hint = SizeHint::new();
                hint.set_lower(inner.lower());
                hint
            }
            _ => inner,
        }
    }
}

impl<B> fmt::Debug for HashedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashedBody")
            .field("inner", &self.inner)
            .field("announced", &self.announced)
            .finish_non_exhaustive()
    }
}
