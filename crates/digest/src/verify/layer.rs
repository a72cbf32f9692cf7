//! The layer and its options.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::BoxError;

use super::{Verification, VerifyBody, VerifyDigestFuture, future::Call, outcome::VerdictCounts};
use crate::{
    Algorithm, Md5,
    fields::{self, BadPromise, Promised},
    later::Callback,
    layer::{Layered, Setup},
    replay::SLICE,
};

/// Checks each response body against the digest that the handler promised, so that a corrupt body never looks whole.
///
/// A promise is `X-Content-MD5` (hex), `Content-MD5` (base64, RFC 1864) or a member of `Content-Digest` (RFC 9530), in the
/// head or in trailers that `Trailer` announces. It passes on, and leaves a
/// [`ExpectedDigest`](tower_stream_core::ExpectedDigest) in the response extensions. A response that promises nothing is not touched.
///
/// | the body | when it is not what was promised |
/// |---|---|
/// | ends within 64 KiB without being pending once | the head becomes a **502** (`application/problem+json`) |
/// | has a declared length | the frame that completes it is withheld, for an error: h1 is cut short, h2 reset |
/// | has none | everything passes, and an error comes in place of the end: no last chunk, no END_STREAM |
/// | has none, and the client speaks HTTP/1.0 | it is buffered to be checked; beyond 64 KiB it is reported as unverifiable |
///
/// The frame that completes the declared length is judged in the poll that gives it out, because an h1 server does not poll
/// again after it. No frame waits for another: a stream is not delayed. A body of another length than declared is
/// corrupt too. An error of the body itself passes as it is.
///
/// Put it inside of every layer that changes bytes, next to the handler.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stream_digest::{Verdict, VerifyDigestLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(VerifyDigestLayer::md5().buffer_up_to(64 * 1024).on_outcome(|outcome| {
///         assert_eq!(outcome.verdict, Verdict::Mismatch);
///     }))
///     .service(service_fn(|_: Request<()>| async {
///         let corrupt = Response::builder()
///             .header("x-content-md5", "5d41402abc4b2a76b9719d911017c592")
///             .body(Full::new(Bytes::from("hell0")));
///         Ok::<_, std::convert::Infallible>(corrupt.unwrap())
///     }));
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
/// # }
/// ```
pub struct VerifyDigestLayer<D = md5::Md5>(Setup<Config, D>);

/// What to do with a promise that is malformed, or contradicted by another one.
///
/// Only promises by the layer's own algorithm are read: what `Content-Digest` says by another one is skipped. Where one
/// promise is malformed and another can be read, the body is checked against that one, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadPromise {
    /// Ignore that promise. Without another one the message passes unchecked.
    Ignore,
    /// Ignore that promise and log a warning. Without another one the message passes unchecked.
    Warn,
    /// Refuse the message: 502 for a response, 400 for a request. When the promise is in the trailers of a body whose head
    /// is sent, the body ends with a [`DigestError`](crate::DigestError).
    #[default]
    Refuse,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) on: bool,
    pub(crate) buffer: u64,
    pub(crate) expect_trailers: bool,
    pub(crate) on_bad_promise: OnBadPromise,
    pub(crate) on_outcome: Option<Callback<Verification>>,
    pub(super) counts: Arc<VerdictCounts>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            on: true,
            buffer: 64 * 1024,
            expect_trailers: false,
            on_bad_promise: OnBadPromise::default(),
            on_outcome: None,
            counts: Arc::default(),
        }
    }
}

impl Config {
    /// What is promised of a body; `None`: nothing to be checked.
    pub(crate) fn promise<D: Algorithm>(&self, head: &HeaderMap) -> Option<Promised> {
        if !self.on {
            return None;
        }
        let promised = fields::promise::<D>(head);
        let in_trailers = || self.expect_trailers || fields::announces_digest_trailer(head);
        (promised != Promised::default() || in_trailers()).then_some(promised)
    }

    /// Whether a message is refused for a promise that cannot be read.
    pub(crate) fn refuses(&self, bad: BadPromise, place: &str, uri: &Uri) -> bool {
        if self.on_bad_promise == OnBadPromise::Warn {
            // without the query, which may hold credentials
            tracing::warn!(
                path = uri.path(),
                "the digest in the {place} is {}",
                bad.as_str()
            );
        }
        self.on_bad_promise == OnBadPromise::Refuse
    }
}

impl VerifyDigestLayer<Md5> {
    /// Checks MD5 promises, by the faster of [`kernel::Md5`](crate::kernel::Md5) and `md5::Md5` on this architecture.
    pub fn md5() -> Self {
        Self::new()
    }
}

impl<D: Algorithm> VerifyDigestLayer<D> {
    /// Checks promises made by this algorithm, and no other.
    pub fn new() -> Self {
        Self(Setup::new(Config::default()))
    }

    /// A layer of the same type that does nothing.
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Whether it does anything.
    pub fn enabled(self, on: bool) -> Self {
        Self(self.0.set(|config| config.on = on))
    }

    /// How many bytes of a body may be held back to decide before the head is sent; 64 KiB by default, at most 256 KiB,
    /// which is what one poll may hash. Only a body for an HTTP/1.0 client, of unknown length, is waited for.
    pub fn buffer_up_to(self, bytes: usize) -> Self {
        Self(self.0.set(|config| config.buffer = bytes.min(SLICE) as u64))
    }

    /// Hashes every body, in case a digest comes in trailers that `Trailer` did not announce. Off by default.
    pub fn expect_trailers(self, expect: bool) -> Self {
        Self(self.0.set(|config| config.expect_trailers = expect))
    }

    /// What to do with promises that cannot be read; [`OnBadPromise::Refuse`] by default.
    pub fn on_bad_promise(self, policy: OnBadPromise) -> Self {
        Self(self.0.set(|config| config.on_bad_promise = policy))
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn counts(&self) -> Arc<VerdictCounts> {
        Arc::clone(&self.0.config().counts)
    }

    /// Calls this once for each body that something was promised of, when the outcome is known for sure: when the body is
    /// polled after its end or dropped. The same is found as a [`Later<Verification>`](crate::Later) in the response
    /// extensions.
    ///
    /// It runs on the server's task, so it must not block. A panic in it is swallowed.
    pub fn on_outcome(self, callback: impl Fn(&Verification) + Send + Sync + 'static) -> Self {
        Self(
            self.0
                .set(|config| config.on_outcome = Some(Arc::new(callback))),
        )
    }
}

impl<D: Algorithm> Default for VerifyDigestLayer<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Clone for VerifyDigestLayer<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D> fmt::Debug for VerifyDigestLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyDigestLayer").field(&self.0).finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.on)
            .field("buffer", &self.buffer)
            .field("expect_trailers", &self.expect_trailers)
            .field("on_bad_promise", &self.on_bad_promise)
            .finish_non_exhaustive()
    }
}

impl<S, D> Layer<S> for VerifyDigestLayer<D> {
    type Service = VerifyDigestService<S, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Layered {
            inner,
            layer: self.clone(),
        }
    }
}

/// What [`VerifyDigestLayer`] makes of a service.
pub type VerifyDigestService<S, D = md5::Md5> = Layered<S, VerifyDigestLayer<D>>;

impl<S, D, ReqBody, ResBody> Service<Request<ReqBody>> for VerifyDigestService<S, D>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
    D: Algorithm,
{
    type Response = Response<VerifyBody<ResBody, D>>;
    type Error = S::Error;
    type Future = VerifyDigestFuture<S::Future, ResBody, D>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = self.layer.0.config();
        let call = config
            .on
            .then(|| Box::new(Call::new(Arc::clone(config), &mut request)));
        VerifyDigestFuture::new(self.inner.call(request), call)
    }
}
