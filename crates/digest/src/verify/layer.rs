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

/// Checks each response body against the digest that the handler promised, so that a corrupt body never looks whole.
///
/// The handler promises a digest by `X-Content-MD5` (hex), `Content-MD5` (base64, RFC 1864) or a member of `Content-Digest`
/// (RFC 9530), in the head or in trailers that `Trailer` announces; [`repr_digest`](Self::repr_digest) adds `Repr-Digest`.
/// The fields pass on, and the layer leaves an [`ExpectedDigest`](tower_stream_core::ExpectedDigest) in the response
/// extensions. A response without such a field is not touched.
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
#[derive(Clone, Default)]
pub struct VerifyDigestLayer(Arc<Config>);

/// What to do with a promise that is malformed, or contradicted by another one.
///
/// Only promises by the layer's own algorithms are read: what `Content-Digest` says by another one is skipped. Where one
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

    /// What is promised of a body, by each algorithm that has to be computed; `None`: nothing to be checked. `whole` says
    /// that the message holds the whole representation.
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

    /// Why a message is refused, for a promise that cannot be read.
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

    /// Whether a message is refused for a promise that cannot be read.
    fn refuses(&self, bad: BadPromise, place: &str, uri: &Uri) -> bool {
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

impl VerifyDigestLayer {
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

    /// Checks promises by this algorithm too. A body is hashed once for each algorithm by which something is promised of
    /// it, and by all of them when a promise is still to come in the trailers. It is [`Verdict::Verified`] when it is what
    /// each of them says.
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

    /// Whether `Repr-Digest` (RFC 9530 section 3) is a promise too. Off by default. It is read where the response holds
    /// the whole representation: not in a 206, nor beside `Content-Range`.
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

    /// How many bytes of a body may be held back to decide before the head is sent; 64 KiB by default, at most 256 KiB,
    /// which is what one poll may hash. Only a body for an HTTP/1.0 client, of unknown length, is waited for.
    pub fn buffer_up_to(self, bytes: usize) -> Self {
        self.set(|config| config.buffer = bytes.min(SLICE) as u64)
    }

    /// Hashes every body, in case a digest comes in trailers that `Trailer` did not announce. Off by default.
    pub fn expect_trailers(self, expect: bool) -> Self {
        self.set(|config| config.expect_trailers = expect)
    }

    /// What to do with promises that cannot be read; [`OnBadPromise::Refuse`] by default.
    pub fn on_bad_promise(self, policy: OnBadPromise) -> Self {
        self.set(|config| config.on_bad_promise = policy)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn counts(&self) -> Arc<VerdictCounts> {
        Arc::clone(&self.0.counts)
    }

    /// Calls this once for each body that something was promised of, when the outcome is known for sure: when the body is
    /// polled after its end or dropped. The same is found as a [`DigestHandle<Verification>`](crate::DigestHandle) in the response
    /// extensions.
    ///
    /// It runs on the server's task, so it must not block. A panic in it is swallowed.
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
