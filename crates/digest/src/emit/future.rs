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
use tower_stream_core::{
    BoxError, Delivery, ExpectedDigest, Fault, Observation, ObservedBody, digests_changed,
};

use super::{
    DigestBody, HashedBody,
    body::{Announced, Tee},
    layer::Config,
};
use crate::{
    Algorithm, Announce, Announcements, Placement, fields,
    hasher::Hasher,
    replay::{Ahead, Replay},
};

pin_project! {
    /// The future of [`DigestService`](super::DigestService).
    pub struct DigestFuture<F, D> {
        #[pin]
        inner: F,
        // `None`: the layer is off; boxed, for then every request would move its room about
        call: Option<Box<Call>>,
        algorithm: PhantomData<fn() -> D>,
    }
}

impl<F, D> DigestFuture<F, D> {
    pub(super) fn new(inner: F, call: Option<Box<Call>>) -> Self {
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
            None => response.map(DigestBody::off),
        }))
    }
}

/// What a response must know of its request.
pub(super) struct Call {
    pub(super) config: Arc<Config>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    fault: Fault,
    /// The algorithm for `Content-Digest`; `None`: the client refuses.
    wanted: Option<&'static str>,
    version: Version,
    /// Whether trailers arrive.
    trailers: bool,
}

impl Call {
    pub(super) fn new<D: Algorithm>(
        config: Arc<Config>,
        request: &mut Request<impl Sized>,
    ) -> Self {
        let headers = request.headers();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            wanted: match config.negotiate {
                true => fields::wanted(headers, Hasher::<D>::KEYS),
                false => Some(D::KEY),
            },
            version: request.version(),
            trailers: match request.version() {
                Version::HTTP_09 | Version::HTTP_10 => false,
                Version::HTTP_11 => fields::te_trailers(headers),
                _ => true,
            },
            fault: Fault::of(request.extensions_mut()),
            config,
        }
    }

    fn respond<B, D>(
        mut self: Box<Self>,
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
            return Response::from_parts(head, DigestBody::off(body));
        }

        let promise = head.extensions.get::<ExpectedDigest>();
        if promise.is_some_and(|promise| !promise.holds_for(&head.headers)) {
            digests_changed(&mut head.headers);
        }
        let config = Arc::clone(&self.config);
        if !config.wants(&head) {
            return Response::from_parts(head, DigestBody::off(body));
        }
        let (key, fields) = self.choose::<D>(&head.headers);
        if fields.is_empty() && config.segment_size.is_none() && config.on_sent.is_none() {
            return Response::from_parts(head, DigestBody::off(body));
        }

        let declared = delivery.declared_length();
        let (version, trailers, fault) = (self.version, self.trailers, self.fault.clone());
        let tee = Tee::new(self, declared);
        head.extensions.insert(tee.later());
        let mut body = Replay::new(body);
        // after the body, so that it is dropped before it: observers report from the outside in
        let mut observation = Observation::new(tee, fault);
        let ahead = observation.run(|| body.look_ahead(cx, config.look_ahead, declared));

        let hasher = Hasher::<D>::new(key, config.segment_size);
        let mut announced = Announced::Nowhere;
        if ahead == Ahead::Whole && observation.fault().cause().is_none() {
            let tee = observation.observer_mut();
            if let Some(digest) = tee.hash_ahead(hasher, body.data_ahead()) {
                fields.write(&digest, &mut head.headers);
                tee.write_segments(&mut head.headers);
                if !fields.is_empty() {
                    tee.plan = Placement::Header;
                }
            }
        } else if trailers && ahead != Ahead::Failed && !fields.is_empty() {
            let chunked = version == Version::HTTP_11;
            announce_trailers(&config, fields, chunked, &mut head.headers);
            announced = Announced::Trailers {
                fields,
                overwrite: config.overwrite,
                chunked,
            };
            let tee = observation.observer_mut();
            tee.hash_with(hasher);
            tee.plan = Placement::Trailer;
        } else if config.hash_unannounced {
            observation.observer_mut().hash_with(hasher);
        }
        let body = ObservedBody::new(body, observation, delivery);
        Response::from_parts(
            head,
            DigestBody::on(Box::new(HashedBody::new(body, announced))),
        )
    }

    /// The algorithm, and the fields that will announce it.
    fn choose<D: Algorithm>(&self, head: &HeaderMap) -> (&'static str, Announcements) {
        let mut fields = self.config.announce;
        if !self.config.overwrite {
            fields = fields.missing_in(head);
        }
        let mut key = D::KEY;
        if fields.contains(Announce::ContentDigest) {
            match self.wanted {
                Some(wanted) => key = wanted,
                None => fields = fields.without(Announce::ContentDigest),
            }
        }
        (key, fields.for_algorithm(key))
    }
}

/// Makes the head true of a body whose digest comes in the trailers.
fn announce_trailers(config: &Config, fields: Announcements, chunked: bool, head: &mut HeaderMap) {
    if config.overwrite {
        fields.remove(head);
    }
    if chunked {
        head.remove(header::CONTENT_LENGTH);
    }
    // h2 does not need it, but a recipient does that has to know before the body whether to hash it (RFC 9110 section 6.6.2)
    head.append(header::TRAILER, fields.names());
    if config.announce_segments && config.segment_size.is_some() {
        let name = HeaderValue::from_name(fields::X_SEGMENT_DIGEST);
        head.append(header::TRAILER, name);
    }
}
