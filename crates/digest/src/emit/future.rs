//! Deciding where the digest goes.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_stream_body::{
    BoxError, Delivery, Fault, Observation, ObservedBody, Promise, digests_changed,
};

use super::{
    DigestBody,
    body::{Announced, Tee},
    layer::Config,
};
use crate::{
    Algorithm, Announce, Announcements, Later, Placement,
    fields::{self, Want},
    hasher::Hasher,
    replay::{Ahead, Replay},
};

pin_project! {
    /// The future of [`DigestService`](super::DigestService).
    pub struct DigestFuture<F, D> {
        #[pin]
        inner: F,
        // `None`: the layer is off
        call: Option<Call>,
        algorithm: PhantomData<fn() -> D>,
    }
}

impl<F, D> DigestFuture<F, D> {
    pub(super) fn new(inner: F, call: Option<Call>) -> Self {
        Self {
            inner,
            call,
            algorithm: PhantomData,
        }
    }
}

impl<F, D> fmt::Debug for DigestFuture<F, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestFuture").finish_non_exhaustive()
    }
}

impl<F, B, E, D> Future for DigestFuture<F, D>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    type Output = Result<Response<DigestBody<B, D>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => call.respond(response, cx),
            None => response.map(DigestBody::untouched),
        }))
    }
}

/// What a response must know of its request.
pub(super) struct Call {
    config: Arc<Config>,
    method: Method,
    uri: Uri,
    version: Version,
    te_trailers: bool,
    want: Option<Want>,
    fault: Fault,
}

impl Call {
    pub(super) fn new<B>(config: Arc<Config>, request: &mut Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            te_trailers: fields::te_trailers(request.headers()),
            want: if config.negotiate {
                Want::of(request.headers())
            } else {
                None
            },
            fault: Fault::of(request.extensions_mut()),
            config,
        }
    }

    fn respond<B, D>(
        mut self,
        response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Response<DigestBody<B, D>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
        D: Algorithm,
    {
        let (mut head, body) = response.into_parts();
        self.fault.join(&mut head.extensions);
        let delivery = Delivery::new(&self.method, head.status, &head.headers, &body);
        if delivery.is_bodiless() {
            return Response::from_parts(head, DigestBody::untouched(body));
        }

        if head
            .extensions
            .get::<Promise>()
            .is_some_and(|promise| !promise.holds_for(&head.headers))
        {
            digests_changed(&mut head.headers);
        }
        if !self.config.wants(&head) {
            return Response::from_parts(head, DigestBody::untouched(body));
        }
        let (key, fields) = self.choose::<D>(&head.headers);
        if fields.is_empty() && self.config.segment_size.is_none() && self.config.on_sent.is_none()
        {
            return Response::from_parts(head, DigestBody::untouched(body));
        }

        let later = Later::new();
        head.extensions.insert(later.clone());
        let declared = delivery.declared_length();
        let hasher = Hasher::<D>::new(key, self.config.segment_size);
        let tee = Tee::new(
            hasher,
            later,
            (self.method, self.uri),
            declared,
            Arc::clone(&self.config),
        );
        let mut observation = Observation::new(tee, self.fault);
        let mut body = Replay::new(body);
        let ahead = observation.run(|| body.look_ahead(cx, self.config.look_ahead, declared));

        let trailers = match self.version {
            Version::HTTP_09 | Version::HTTP_10 => false,
            Version::HTTP_11 => self.te_trailers,
            _ => true,
        };
        let mut announced = Announced::Nowhere;
        if ahead == Ahead::Whole && observation.fault().cause().is_none() {
            let tee = observation.observer_mut();
            if let Some(digest) = tee.hash_ahead(body.data_ahead()) {
                fields.write(&digest, &mut head.headers);
                tee.write_segments(&mut head.headers);
                if !fields.is_empty() {
                    tee.plan = Placement::Header;
                }
            }
        } else if trailers && ahead != Ahead::Failed && !fields.is_empty() {
            if self.config.overwrite {
                fields
                    .iter()
                    .for_each(|field| drop(head.headers.remove(field.field())));
            }
            let chunked = self.version == Version::HTTP_11;
            if chunked {
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.append(header::TRAILER, names(fields));
                if self.config.announce_segments && self.config.segment_size.is_some() {
                    let name = HeaderValue::from_name(fields::X_SEGMENT_DIGEST);
                    head.headers.append(header::TRAILER, name);
                }
            }
            observation.observer_mut().plan = Placement::Trailer;
            announced = Announced::Trailers {
                fields,
                overwrite: self.config.overwrite,
                chunked,
            };
        } else if !self.config.hash_unannounced {
            observation.observer_mut().do_not_hash();
        }
        let body = ObservedBody::new(body, observation, delivery);
        Response::from_parts(head, DigestBody::hashed(body, announced))
    }

    /// The algorithm, and the fields that will announce it.
    fn choose<D: Algorithm>(&self, head: &HeaderMap) -> (&'static str, Announcements) {
        let mut fields = self.config.announce;
        if !self.config.overwrite {
            fields = fields.missing_in(head);
        }
        let mut key = D::KEY;
        if let (Some(want), true) = (&self.want, fields.contains(Announce::ContentDigest)) {
            match want.choose(Hasher::<D>::KEYS) {
                Some(wanted) => key = wanted,
                None => fields = fields.without(Announce::ContentDigest),
            }
        }
        (key, fields.for_algorithm(key))
    }
}

fn names(fields: Announcements) -> HeaderValue {
    let names: Vec<_> = fields
        .iter()
        .map(|field| field.field().as_str().to_owned())
        .collect();
    crate::value::header_value(names.join(", "))
}
