//! The layer and its options.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Request, Uri};
use tower_layer::Layer;
use tower_stream_core::{
    Exchange,
    wrapper::{Begin, Hook, Wrapped},
};

use super::{Verification, VerifyDigestStage, outcome::VerdictCounts};
use crate::{
    Algorithm, Md5,
    algorithm::ErasedAlgorithm,
    fields::{self, BadPromise, Promised},
    handle::Callback,
    replay::SLICE,
};

/// Checks each response body against the digest that the handler declared, so that a corrupt body never looks complete.
///
/// The handler declares a digest in `X-Content-MD5` (hex), `Content-MD5` (base64, RFC 1864) or a member of
/// `Content-Digest` (RFC 9530), either in the head or in trailers that `Trailer` lists.
/// [`repr_digest`](Self::repr_digest) adds `Repr-Digest`. The layer passes these fields on, and inserts an
/// [`ExpectedDigest`](tower_stream_core::ExpectedDigest) into the response extensions. A response without such a field
/// is not touched.
///
/// | the body | if it does not match |
/// |---|---|
/// | ends within 64 KiB, before the first `Pending` | the head becomes a **502** (`application/problem+json`) |
/// | has a declared length | the last frame is replaced by an error: h1 closes the connection early, h2 resets the stream |
/// | has no declared length | all frames pass, and an error replaces the end: no last chunk, no END_STREAM |
/// | has none, and the client uses HTTP/1.0 | it is buffered and checked before it is sent; if it is longer than 64 KiB it is sent and reported as unverifiable |
///
/// The frame that completes the declared length is checked in the same poll in which it arrives, because an h1 server
/// does not poll again after it. No frame waits for another one, so streams are not delayed. A body whose length is not
/// the declared one is corrupt too. An error of the body itself is passed on unchanged.
///
/// Put this layer inside of every layer that changes bytes, next to the handler.
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
#[derive(Clone, Default)]
pub struct VerifyDigestLayer(Arc<Config>);

/// What to do if a declared digest is malformed or contradicts another one.
///
/// Only digests by the layer's own algorithms are read; other members of `Content-Digest` are skipped. If one declared
/// digest is malformed but another one can be parsed, the body is checked against that one, whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadPromise {
    /// Ignore the malformed digest. If there is no other one, the message passes unchecked.
    Ignore,
    /// Ignore the malformed digest and log a warning. If there is no other one, the message passes unchecked.
    Warn,
    /// Reject the message: 502 for a response, 400 for a request. If the digest is in the trailers, the body ends with
    /// a [`DigestError`](crate::DigestError), because its head has already been sent.
    #[default]
    Refuse,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) on: bool,
    pub(crate) algorithms: Vec<ErasedAlgorithm>,
    pub(crate) repr: bool,
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
            algorithms: vec![ErasedAlgorithm::of::<Md5>()],
            repr: false,
            buffer: 64 * 1024,
            expect_trailers: false,
            on_bad_promise: OnBadPromise::default(),
            on_outcome: None,
            counts: Arc::default(),
        }
    }
}

impl Config {
    pub(crate) fn of<D: Algorithm>() -> Self {
        Self::default().with(&[ErasedAlgorithm::of::<D>()])
    }

    pub(crate) fn with(self, algorithms: &[ErasedAlgorithm]) -> Self {
        Self {
            algorithms: algorithms.to_vec(),
            ..self
        }
    }

    pub(crate) fn add(&mut self, algorithm: ErasedAlgorithm) {
        if self
            .algorithms
            .iter()
            .all(|known| known.key != algorithm.key)
        {
            self.algorithms.push(algorithm);
        }
    }

    /// Returns the declared digests for each algorithm that must be computed, or `None` if there is nothing to check.
    /// `whole` says that the message contains the whole representation.
    pub(crate) fn promised(&self, head: &HeaderMap, whole: bool) -> Option<Vec<Promised>> {
        if !self.on {
            return None;
        }
        let repr = self.repr && whole;
        let mut promised = fields::promised(head, &self.algorithms, repr);
        if self.expect_trailers || fields::announces_digest_trailer(head, repr) {
            for algorithm in &self.algorithms {
                if promised.iter().all(|by| by.algorithm.key != algorithm.key) {
                    promised.push(Promised::nothing(*algorithm));
                }
            }
        }
        (!promised.is_empty()).then_some(promised)
    }

    /// Returns why a message with such a digest is rejected.
    pub(crate) fn refused(
        &self,
        promised: &[Promised],
        place: &str,
        uri: &Uri,
    ) -> Option<BadPromise> {
        let bad = promised.iter().filter_map(|promised| promised.bad);
        bad.fold(None, |refused, bad| {
            let refuses = self.refuses(bad, place, uri);
            refused.or(refuses.then_some(bad))
        })
    }

    /// Returns whether a message with such a digest is rejected.
    fn refuses(&self, bad: BadPromise, place: &str, uri: &Uri) -> bool {
        if self.on_bad_promise == OnBadPromise::Warn {
            // The query may contain credentials, so only the path is logged.
            tracing::warn!(
                target: "tower_stream_digest",
                path = uri.path(),
                "the digest in the {place} is {}",
                bad.as_str()
            );
        }
        self.on_bad_promise == OnBadPromise::Refuse
    }
}

impl VerifyDigestLayer {
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

    /// Also checks digests by this algorithm. A body is hashed once for each algorithm with a declared digest, or with
    /// all of them if the digest is in the trailers. The verdict is [`Verdict::Verified`] only if all declared digests
    /// match.
    ///
    /// ```
    /// # #[cfg(feature = "sha2")] {
    /// use tower_stream_digest::{Sha256, VerifyDigestLayer};
    ///
    /// let layer = VerifyDigestLayer::md5().and::<Sha256>();
    /// # drop(layer);
    /// # }
    /// ```
    ///
    /// [`Verdict::Verified`]: crate::Verdict::Verified
    pub fn and<D: Algorithm>(self) -> Self {
        self.set(|config| config.add(ErasedAlgorithm::of::<D>()))
    }

    /// Sets whether to check `Repr-Digest` (RFC 9530 section 3) too. Off by default. It is ignored in a 206 and beside
    /// `Content-Range`, where the response contains only a part of the representation.
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

    /// Sets how many bytes of a body may be held back in order to check it before the head is sent. 64 KiB by default,
    /// and at most 256 KiB, the limit of what one poll hashes. The layer never waits for a body, except for a body of
    /// unknown length to an HTTP/1.0 client.
    pub fn buffer_up_to(self, bytes: usize) -> Self {
        self.set(|config| config.buffer = bytes.min(SLICE) as u64)
    }

    /// Hashes every body, because a digest may arrive in trailers that `Trailer` did not list. Off by default.
    pub fn expect_trailers(self, expect: bool) -> Self {
        self.set(|config| config.expect_trailers = expect)
    }

    /// Sets what to do if a declared digest cannot be used; [`OnBadPromise::Refuse`] by default.
    pub fn on_bad_promise(self, policy: OnBadPromise) -> Self {
        self.set(|config| config.on_bad_promise = policy)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn counts(&self) -> Arc<VerdictCounts> {
        Arc::clone(&self.0.counts)
    }

    /// Sets a callback that runs once for each body with a declared digest, when the outcome is final: when the body is
    /// polled after its end, or dropped. The outcome is also in a [`DigestHandle<Verification>`](crate::DigestHandle)
    /// in the response extensions.
    ///
    /// The callback runs on the server's task, so it must not block. Its panics are caught and ignored.
    pub fn on_outcome(self, callback: impl Fn(&Verification) + Send + Sync + 'static) -> Self {
        self.set(|config| config.on_outcome = Some(Arc::new(callback)))
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Debug for VerifyDigestLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyDigestLayer").field(&self.0).finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.on)
            .field("algorithms", &self.algorithms)
            .field("repr", &self.repr)
            .field("buffer", &self.buffer)
            .field("expect_trailers", &self.expect_trailers)
            .field("on_bad_promise", &self.on_bad_promise)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for VerifyDigestLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for VerifyDigestLayer {
    type Stage = VerifyDigestStage;

    fn is_off(&self) -> bool {
        !self.0.on
    }

    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        _: &Exchange,
    ) -> Begin<VerifyDigestStage> {
        match self.0.on {
            true => Begin::Follow(VerifyDigestStage::new(&self.0, request)),
            false => Begin::Pass,
        }
    }
}
