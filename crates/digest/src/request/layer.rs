//! The layer, its service and its future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, Delivery, Fault, FaultKind, Observation, RequestId};

use crate::{
    Algorithm, Md5,
    algorithm::ErasedAlgorithm,
    fields,
    layer::Layered,
    replay::Replay,
    verify::{
        self, Checker, Config, OnBadPromise, Verification, VerifyBody, bad_promise, instead_of,
        problem,
    },
};

/// Checks each request body, an upload, against the digest that the client promised.
///
/// A promise is made as for [`VerifyDigestLayer`](crate::VerifyDigestLayer): `X-Content-MD5`, `Content-MD5` or
/// `Content-Digest`, in the head or in announced trailers. When the bytes are not those promised, the body that the handler
/// reads ends with a [`DigestError`](crate::DigestError) instead of looking whole, and the response, whatever the
/// handler makes of that, becomes a **400** problem document `BadDigest`. An upload whose promise cannot be read is answered
/// with a **400** `InvalidDigest` before the handler is called, unless [`on_bad_promise`](Self::on_bad_promise) says otherwise.
///
/// **A handler must not commit an upload before the end of its body**: write to a temporary file, rename it after the last
/// frame. Pieces that were read before the end are not verified yet.
///
/// A response whose head is sent before the request body was read to its end cannot be replaced any more. The outcome is
/// a [`Later<Verification>`](crate::Later) in the request extensions.
///
/// Put it outside of a layer that decompresses requests: what is promised is the body as it was sent.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stream_digest::{VerifyBody, VerifyRequestDigestLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new().layer(VerifyRequestDigestLayer::md5()).service(service_fn(
///     |request: Request<VerifyBody<Full<Bytes>>>| async {
///         let stored = request.into_body().collect().await?.to_bytes();
///         Ok::<_, tower::BoxError>(Response::new(Full::new(stored)))
///     },
/// ));
/// let upload = |body: &'static str| {
///     let md5 = "5d41402abc4b2a76b9719d911017c592";
///     Request::put("/").header("x-content-md5", md5).body(Full::new(Bytes::from(body))).unwrap()
/// };
/// assert_eq!(service.clone().oneshot(upload("hello")).await.unwrap().status(), StatusCode::OK);
/// assert_eq!(service.oneshot(upload("hell0")).await.unwrap().status(), StatusCode::BAD_REQUEST);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct VerifyRequestDigestLayer(Arc<Config>);

impl VerifyRequestDigestLayer {
    /// Checks promises by MD5, and no others.
    pub fn md5() -> Self {
        Self::new::<Md5>()
    }

    /// Checks promises by SHA-256, and no others.
    #[cfg(feature = "sha2")]
    pub fn sha256() -> Self {
        Self::new::<sha2::Sha256>()
    }

    /// Checks promises by each algorithm of this crate: MD5 and, with the feature `sha2`, SHA-256 and SHA-512.
    pub fn all() -> Self {
        Self(Arc::new(Config::default().with(ErasedAlgorithm::ALL)))
    }

    /// Checks promises by this algorithm, and no others.
    pub fn new<D: Algorithm>() -> Self {
        Self(Arc::new(Config::of::<D>()))
    }

    /// Checks promises by this algorithm too, see [`VerifyDigestLayer::and`](crate::VerifyDigestLayer::and).
    pub fn and<D: Algorithm>(self) -> Self {
        self.set(|config| config.add(ErasedAlgorithm::of::<D>()))
    }

    /// Whether `Repr-Digest` (RFC 9530 section 3) is a promise too. Off by default. It is read where the request holds the
    /// whole representation: not beside `Content-Range`.
    pub fn repr_digest(self, read: bool) -> Self {
        self.set(|config| config.repr = read)
    }

    /// A layer of the same type that does nothing.
    pub fn off() -> Self {
        Self::md5().enabled(false)
    }

    /// Whether it does anything.
    pub fn enabled(self, on: bool) -> Self {
        self.set(|config| config.on = on)
    }

    /// Hashes every body, in case a digest comes in trailers that `Trailer` did not announce. Off by default.
    pub fn expect_trailers(self, expect: bool) -> Self {
        self.set(|config| config.expect_trailers = expect)
    }

    /// What to do with promises that cannot be read; [`OnBadPromise::Refuse`] by default.
    pub fn on_bad_promise(self, policy: OnBadPromise) -> Self {
        self.set(|config| config.on_bad_promise = policy)
    }

    /// Calls this once for each body that something was promised of, when it is read to its end or dropped. A panic in it
    /// is swallowed.
    pub fn on_outcome(self, callback: impl Fn(&Verification) + Send + Sync + 'static) -> Self {
        self.set(|config| config.on_outcome = Some(Arc::new(callback)))
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Debug for VerifyRequestDigestLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyRequestDigestLayer")
            .field(&self.0)
            .finish()
    }
}

impl<S> Layer<S> for VerifyRequestDigestLayer {
    type Service = VerifyRequestDigestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Layered {
            inner,
            layer: self.clone(),
        }
    }
}

/// What [`VerifyRequestDigestLayer`] makes of a service.
pub type VerifyRequestDigestService<S> = Layered<S, VerifyRequestDigestLayer>;

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for VerifyRequestDigestService<S>
where
    S: Service<Request<VerifyBody<ReqBody>>, Response = Response<ResBody>>,
    ReqBody: Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
{
    type Response = Response<VerifyBody<ResBody>>;
    type Error = S::Error;
    type Future = VerifyRequestDigestFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let step = match self.layer.check(request) {
            Ok((request, upload)) => Step::Called {
                inner: self.inner.call(request),
                upload,
            },
            Err(answer) => Step::Refused {
                answer: Some(answer),
            },
        };
        VerifyRequestDigestFuture { step }
    }
}

/// An upload that is being read.
struct Upload {
    /// of the request body, which is not the response's
    fault: Fault,
    id: Option<RequestId>,
}

impl Upload {
    /// The answer, if the bytes were not those promised.
    fn bad_digest(&self) -> Option<Response<Bytes>> {
        let cause = self
            .fault
            .cause()
            .filter(|cause| cause.kind() == FaultKind::DigestMismatch)?;
        Some(problem(
            StatusCode::BAD_REQUEST,
            "BadDigest",
            cause.message(),
            self.id.as_ref(),
        ))
    }
}

type Checked<B> = (Request<VerifyBody<B>>, Option<Box<Upload>>);

impl VerifyRequestDigestLayer {
    fn check<B>(&self, request: Request<B>) -> Result<Checked<B>, Box<Response<Bytes>>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let config = &self.0;
        let whole = fields::is_whole(StatusCode::OK, request.headers());
        let Some(promised) = config.promised(request.headers(), whole) else {
            return Ok((request.map(VerifyBody::off), None));
        };

        let facts = verify::Request::of(&request);
        let upload = Upload {
            fault: Fault::new(),
            id: facts.id.clone(),
        };
        let (mut head, body) = request.into_parts();
        // a method whose response always has a body: what is asked for is the length
        let delivery = Delivery::new(&Method::POST, StatusCode::OK, &head.headers, &body);
        let mut checker = Checker::new(&promised, whole, delivery.declared_length(), facts, config);
        head.extensions.insert(checker.later());
        if let Some(bad) = config.refused(&promised, "request head", &head.uri) {
            let answer = bad_promise(StatusCode::BAD_REQUEST, bad, upload.id.as_ref());
            // its drop reports the outcome
            drop(Observation::new(checker, upload.fault));
            return Err(Box::new(answer));
        }
        if body.is_end_stream() || delivery.declared_length() == Some(0) {
            // a handler has no reason to poll it
            if let Err(error) = checker.judge_ahead(std::iter::empty(), None) {
                upload.fault.record(error.cause().clone());
            }
        }
        let observation = Observation::new(checker, upload.fault.clone());
        if let Some(answer) = upload.bad_digest() {
            return Err(Box::new(answer));
        }
        let body = verify::checked(Replay::new(body), observation, delivery);
        Ok((Request::from_parts(head, body), Some(Box::new(upload))))
    }
}

pin_project! {
    /// The future of [`VerifyRequestDigestService`].
    pub struct VerifyRequestDigestFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<F> {
        Called { #[pin] inner: F, upload: Option<Box<Upload>> },
        Refused { answer: Option<Box<Response<Bytes>>> },
    }
}

impl<F> fmt::Debug for VerifyRequestDigestFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyRequestDigestFuture")
            .finish_non_exhaustive()
    }
}

impl<F, B, E> Future for VerifyRequestDigestFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<VerifyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().step.project() {
            StepProjection::Refused { answer } => {
                let answer = answer.take().expect("not polled after it was ready");
                Ok(answer.map(verify::answer))
            }
            StepProjection::Called { inner, upload } => {
                let answered = ready!(inner.poll(cx));
                match upload.as_ref().and_then(|upload| upload.bad_digest()) {
                    None => answered.map(|response| response.map(VerifyBody::off)),
                    // also when the handler failed over it
                    Some(answer) => Ok(match answered {
                        Err(_) => answer.map(verify::answer),
                        Ok(response) => {
                            let (head, document) = instead_of(response.into_parts().0, answer);
                            Response::from_parts(head, verify::answer(document))
                        }
                    }),
                }
            }
        })
    }
}
