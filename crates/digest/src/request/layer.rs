//! The layer and its options.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tower_layer::Layer;
use tower_stream_core::{BoxError, Delivery, Exchange, RequestId};

use super::{VerifyBody, VerifyRequestDigest, service::Upload};
use crate::{
    Algorithm, Md5,
    algorithm::ErasedAlgorithm,
    fields,
    verify::{self, Checker, Config, OnBadPromise, Verification, bad_promise},
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
/// a [`DigestHandle<Verification>`](crate::DigestHandle) in the request extensions.
///
/// Put it outside of a layer that decompresses requests: what is promised is the body as it was sent.
///
/// It has a service of its own, because it changes the type of the request's body, which a
/// [`Wrapped`](tower_stream_core::wrapper::Wrapped) does not.
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
    type Service = VerifyRequestDigest<S>;

    fn layer(&self, inner: S) -> Self::Service {
        VerifyRequestDigest {
            inner,
            layer: self.clone(),
        }
    }
}

type Checked<B> = (Request<VerifyBody<B>>, Option<Box<Upload>>);

impl VerifyRequestDigestLayer {
    pub(super) fn check<B>(&self, request: Request<B>) -> Result<Checked<B>, Box<Response<Bytes>>>
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
            exchange: Exchange::new(),
            id: RequestId::of(request.extensions()).cloned(),
        };
        let (mut head, body) = request.into_parts();
        // a method whose response always has a body: what is asked for is the length
        let delivery = Delivery::new(&Method::POST, StatusCode::OK, &head.headers, &body);
        let declared = delivery.declared_length();
        let mut checker = Checker::new(&promised, whole, declared, facts, config);
        head.extensions.insert(checker.handle());
        if let Some(bad) = config.refused(&promised, "request head", &head.uri) {
            report(&mut checker);
            let answer = bad_promise(StatusCode::BAD_REQUEST, bad, upload.id.as_ref());
            return Err(Box::new(answer));
        }
        if body.is_end_stream() || declared == Some(0) {
            // a handler has no reason to poll it
            if let Err(error) = checker.judge_ahead(std::iter::empty(), None) {
                upload.exchange.record(error.cause().clone());
            }
        }
        if let Some(answer) = upload.bad_digest() {
            report(&mut checker);
            return Err(Box::new(answer));
        }
        let body = VerifyBody::checked(body, checker, upload.exchange.clone());
        Ok((Request::from_parts(head, body), Some(Box::new(upload))))
    }
}

/// Tells the outcome of an upload that the handler will not see. A panic of the callback is swallowed.
fn report(checker: &mut Checker) {
    let _ = catch_unwind(AssertUnwindSafe(|| checker.report()));
}
