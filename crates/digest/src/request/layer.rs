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

/// Checks each request body (an upload) against the digest that the client declared.
///
/// The digest is declared as for [`VerifyDigestLayer`](crate::VerifyDigestLayer): `X-Content-MD5`, `Content-MD5` or
/// `Content-Digest`, in the head or in trailers that `Trailer` lists. If the digest does not match, the body that the
/// handler reads ends with a [`DigestError`](crate::DigestError), and the response becomes a **400** problem document
/// `BadDigest`, whatever the handler returns. If a declared digest cannot be used, the layer responds with a **400**
/// `InvalidDigest` without calling the handler, unless [`on_bad_promise`](Self::on_bad_promise) says otherwise.
///
/// **A handler must not commit an upload before the end of its body**: write it to a temporary file, and rename the
/// file after the last frame. Data read before the end is not verified yet.
///
/// A response whose head was sent before the request body ended cannot be replaced any more. In every case, the outcome
/// is in a [`DigestHandle<Verification>`](crate::DigestHandle) in the request extensions.
///
/// Put this layer outside of a layer that decompresses requests: the digest is of the body as it was sent.
///
/// The layer has a service of its own, because it changes the type of the request body, which a
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
    /// Checks MD5 digests only.
    pub fn md5() -> Self {
        Self::new::<Md5>()
    }

    /// Checks SHA-256 digests only.
    #[cfg(feature = "sha2")]
    pub fn sha256() -> Self {
        Self::new::<sha2::Sha256>()
    }

    /// Checks digests by every algorithm of this crate: MD5 and, with the feature `sha2`, SHA-256 and SHA-512.
    pub fn all() -> Self {
        Self(Arc::new(Config::default().with(ErasedAlgorithm::ALL)))
    }

    /// Checks digests by this algorithm only.
    pub fn new<D: Algorithm>() -> Self {
        Self(Arc::new(Config::of::<D>()))
    }

    /// Also checks digests by this algorithm, see [`VerifyDigestLayer::and`](crate::VerifyDigestLayer::and).
    pub fn and<D: Algorithm>(self) -> Self {
        self.set(|config| config.add(ErasedAlgorithm::of::<D>()))
    }

    /// Sets whether to check `Repr-Digest` (RFC 9530 section 3) too. Off by default. It is ignored beside
    /// `Content-Range`, where the request contains only a part of the representation.
    pub fn repr_digest(self, read: bool) -> Self {
        self.set(|config| config.repr = read)
    }

    /// A disabled layer of the same type.
    pub fn off() -> Self {
        Self::md5().enabled(false)
    }

    /// Enables or disables the layer.
    pub fn enabled(self, on: bool) -> Self {
        self.set(|config| config.on = on)
    }

    /// Hashes every body, because a digest may arrive in trailers that `Trailer` did not list. Off by default.
    pub fn expect_trailers(self, expect: bool) -> Self {
        self.set(|config| config.expect_trailers = expect)
    }

    /// Sets what to do if a declared digest cannot be used; [`OnBadPromise::Refuse`] by default.
    pub fn on_bad_promise(self, policy: OnBadPromise) -> Self {
        self.set(|config| config.on_bad_promise = policy)
    }

    /// Sets a callback that runs once for each body with a declared digest, when it has been read to its end or
    /// dropped. Its panics are caught and ignored.
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
        // Any method whose response always has a body works here: only the declared length is needed.
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
            // A handler has no reason to poll an empty body.
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

/// Reports the outcome of an upload that the handler does not see. A panic of the callback is caught and ignored.
fn report(checker: &mut Checker) {
    let _ = catch_unwind(AssertUnwindSafe(|| checker.report()));
}
