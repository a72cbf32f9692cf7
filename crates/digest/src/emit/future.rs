//! Deciding where the digest goes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version, header, response::Parts};
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
    Announce, Placement,
    algorithm::ErasedAlgorithm,
    fields,
    hasher::Hasher,
    replay::{Ahead, Replay},
};

pin_project! {
    /// The future of [`DigestService`](super::DigestService).
    pub struct DigestFuture<F> {
        #[pin]
        inner: F,
        // `None`: the layer is off; boxed, for then every request would move its room about
        call: Option<Box<Call>>,
    }
}

impl<F> DigestFuture<F> {
    pub(super) fn new(inner: F, call: Option<Box<Call>>) -> Self {
        Self { inner, call }
    }
}

impl<F> fmt::Debug for DigestFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestFuture").finish_non_exhaustive()
    }
}

impl<F, B, E> Future for DigestFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<DigestBody<B>>, E>;

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
    /// The algorithm for `Content-Digest` and `Repr-Digest`; `None`: the client refuses.
    wanted: Option<ErasedAlgorithm>,
    version: Version,
    /// Whether trailers arrive.
    trailers: bool,
}

impl Call {
    pub(super) fn new(config: Arc<Config>, request: &mut Request<impl Sized>) -> Self {
        let headers = request.headers();
        let wish = match config.announce.contains(Announce::CONTENT_DIGEST) {
            true => &fields::WANT_CONTENT_DIGEST,
            false => &fields::WANT_REPR_DIGEST,
        };
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            wanted: match config.negotiate {
                true => fields::wanted(headers, wish, &config.algorithms),
                false => Some(config.algorithms[0]),
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

    fn respond<B>(
        mut self: Box<Self>,
        response: Response<B>,
        cx: &mut Context<'_>,
    ) -> Response<DigestBody<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
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
        let (algorithm, fields) = self.choose(&head);
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

        let hasher = Hasher::new(algorithm, config.algorithms[0], config.segment_size);
        let mut announced = Announced::Nowhere;
        if ahead == Ahead::Whole && observation.fault().cause().is_none() {
            let tee = observation.observer_mut();
            if let Some(digest) = tee.hash_ahead(hasher, body.data_ahead()) {
                fields.write(&digest, &mut head.headers);
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
    fn choose(&self, head: &Parts) -> (ErasedAlgorithm, Announce) {
        let mut fields = self.config.announce;
        if !fields::is_whole(head.status, &head.headers) {
            fields -= Announce::REPR_DIGEST;
        }
        if !self.config.overwrite {
            fields = fields.missing_in(&head.headers);
        }
        let mut algorithm = self.config.algorithms[0];
        let negotiated = Announce::CONTENT_DIGEST | Announce::REPR_DIGEST;
        if fields.intersects(negotiated) {
            match self.wanted {
                Some(wanted) => algorithm = wanted,
                None => fields -= negotiated,
            }
        }
        (algorithm, fields.for_algorithm(algorithm.key))
    }
}

/// Makes the head true of a body whose digest comes in the trailers.
fn announce_trailers(config: &Config, fields: Announce, chunked: bool, head: &mut HeaderMap) {
    if config.overwrite {
        fields.remove_from(head);
    }
    if chunked {
        head.remove(header::CONTENT_LENGTH);
    }
    // h2 does not need it, but a recipient does that has to know before the body whether to hash it (RFC 9110 section 6.6.2)
    head.append(header::TRAILER, fields.names());
}
