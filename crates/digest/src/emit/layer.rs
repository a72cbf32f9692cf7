//! The layer and its options.

use std::{fmt, sync::Arc};

use http::{Method, Request, Uri, response::Parts};
use tower_layer::Layer;
use tower_stream_core::{
    Exchange, StreamEnd,
    wrapper::{Begin, Hook, Wrapped},
};

use super::DigestStage;
use crate::{
    Algorithm, Announce, DigestValue, Md5, Placement, Placements, Segments,
    algorithm::ErasedAlgorithm, announce::Counts, handle::Callback, replay::SLICE,
};

/// Announces the digest of each response body, computed from the bytes that are sent.
///
/// Frames pass unchanged. The body and the protocol decide where the digest is announced:
///
/// | the body | the digest |
/// |---|---|
/// | ends within 64 KiB, before the first `Pending` | in the head |
/// | continues, over HTTP/2 | in the trailers; `Trailer` is added, `Content-Length` stays |
/// | continues, over HTTP/1.1 to a client that sent `TE: trailers` | in the trailers; `Trailer` is added, `Content-Length` is removed |
/// | continues, over HTTP/1.x to any other client | not sent, because the server would drop the trailers; it is in [`Sent`] |
/// | fails, panics, is dropped, or is shorter or longer than declared | not announced |
///
/// Polling ahead never delays a body: at the first `Pending`, everything that is ready is sent. Trailers of the body
/// are kept, and the digest is added to them. A digest field that the response already has is not replaced, unless
/// [`overwrite`](Self::overwrite) is set, or the response has an [`ExpectedDigest`](tower_stream_core::ExpectedDigest)
/// that was made for another content coding.
///
/// A response without a body (HEAD, 1xx, 204, 304, CONNECT) is not changed. A 206 gets the digest of its part.
///
/// Put this layer outside of every layer that changes bytes, compression in particular. The body that is polled ahead
/// may be an encoder, which keeps reading as long as its input is ready: `tower_stream::CompressionSlot` limits that,
/// and removes the digests of the uncompressed bytes that the handler declared.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stream_digest::{Announce, DigestLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(DigestLayer::md5().announce(Announce::CONTENT_DIGEST | Announce::X_CONTENT_MD5))
///     .service(service_fn(|_: Request<()>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
///     }));
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.headers()["x-content-md5"], "5d41402abc4b2a76b9719d911017c592");
/// assert_eq!(response.headers()["content-digest"], "md5=:XUFAKrxLKna5cZ2REBfFkg==:");
/// # }
/// ```
#[derive(Clone)]
pub struct DigestLayer(Arc<Config>);

type OnlyIf = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) on: bool,
    /// The layer's own algorithm, then the others that a client may prefer.
    pub(super) algorithms: Vec<ErasedAlgorithm>,
    pub(super) only_if: Option<OnlyIf>,
    pub(super) announce: Announce,
    pub(super) overwrite: bool,
    pub(super) negotiate: bool,
    pub(super) look_ahead: u64,
    pub(super) segment_size: Option<u64>,
    pub(super) hash_unannounced: bool,
    pub(super) on_sent: Option<Callback<Sent>>,
    pub(super) counts: Arc<Counts>,
}

impl Config {
    pub(super) fn wants(&self, head: &Parts) -> bool {
        self.only_if.as_ref().is_none_or(|wanted| wanted(head))
    }
}

impl DigestLayer {
    /// Announces MD5, by `Content-Digest` and `X-Content-MD5`.
    pub fn md5() -> Self {
        Self::new::<Md5>()
    }

    /// Announces SHA-256, by `Content-Digest`.
    #[cfg(feature = "sha2")]
    pub fn sha256() -> Self {
        Self::new::<sha2::Sha256>()
    }

    /// Announces a digest by this algorithm: MD5 in `Content-Digest` and `X-Content-MD5`, any other in
    /// `Content-Digest`.
    pub fn new<D: Algorithm>() -> Self {
        let own = ErasedAlgorithm::of::<D>();
        let others = ErasedAlgorithm::ALL.iter();
        let others = others.filter(|other| other.key != own.key);
        Self(Arc::new(Config {
            on: true,
            algorithms: std::iter::once(own).chain(others.copied()).collect(),
            only_if: None,
            announce: Announce::CONTENT_DIGEST | Announce::X_CONTENT_MD5,
            overwrite: false,
            negotiate: true,
            look_ahead: 64 * 1024,
            segment_size: None,
            hash_unannounced: true,
            on_sent: None,
            counts: Arc::default(),
        }))
    }

    /// A disabled layer of the same type.
    pub fn off() -> Self {
        Self::md5().enabled(false)
    }

    /// Enables or disables the layer.
    pub fn enabled(self, on: bool) -> Self {
        self.set(|config| config.on = on)
    }

    /// Announces digests only for responses for which `wanted` returns true. Use it, for example, to skip endless event
    /// streams:
    ///
    /// ```
    /// use tower_stream_core::StreamKind;
    /// use tower_stream_digest::DigestLayer;
    ///
    /// let layer = DigestLayer::md5().only_if(|head| StreamKind::of(&head.headers) == StreamKind::Other);
    /// # drop(layer);
    /// ```
    pub fn only_if(self, wanted: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.set(|config| config.only_if = Some(Arc::new(wanted)))
    }

    /// Sets the fields that announce the digest. Fields that cannot carry the layer's algorithm are ignored.
    pub fn announce(self, fields: Announce) -> Self {
        self.set(|config| config.announce = fields)
    }

    /// Replaces digest fields with these names if the response already has them. Off by default.
    pub fn overwrite(self, overwrite: bool) -> Self {
        self.set(|config| config.overwrite = overwrite)
    }

    /// Lets the client choose another algorithm for `Content-Digest` by `Want-Content-Digest` (RFC 9530 section 4): MD5
    /// and, with the feature `sha2`, SHA-256 and SHA-512. On by default. If the client refuses the layer's algorithm
    /// (`md5=0`) and prefers no known one, the response has no `Content-Digest`.
    pub fn negotiate(self, negotiate: bool) -> Self {
        self.set(|config| config.negotiate = negotiate)
    }

    /// Sets how many bytes of a ready body may be held back in order to announce the digest in the head. 64 KiB by
    /// default, and at most 256 KiB, the limit of what one poll hashes. With 0, only an empty body is announced in the
    /// head.
    pub fn look_ahead(self, bytes: usize) -> Self {
        self.set(|config| config.look_ahead = bytes.min(SLICE) as u64)
    }

    /// Also hashes each segment of `size` bytes, for [`Sent::segments`]. With MD5 this costs a few per cent, because
    /// both digests are computed in one pass, see [`Md5`]. The digests are kept until the end of the body: 16 bytes per
    /// segment with MD5. Segments are always hashed with the layer's own algorithm, even if the client chose another
    /// one for the whole body.
    ///
    /// # Panics
    ///
    /// Panics if `size` is 0.
    pub fn segments(self, size: u64) -> Self {
        assert!(size > 0, "a segment holds at least one byte");
        self.set(|config| config.segment_size = Some(size))
    }

    /// Sets whether to hash a body whose digest cannot be sent to the client. On by default, for [`Sent`]. When off,
    /// the layer does not touch such a body, and [`Sent::digest`] is `None`.
    pub fn hash_unannounced(self, hash: bool) -> Self {
        self.set(|config| config.hash_unannounced = hash)
    }

    /// Sets a callback that runs once for each hashed body, after it has ended and before it is dropped; see [`Sent`].
    ///
    /// The callback runs on the server's task, usually while the body is dropped, so it must not block. Its panics are
    /// caught and ignored.
    pub fn on_sent(self, callback: impl Fn(&Sent) + Send + Sync + 'static) -> Self {
        self.set(|config| config.on_sent = Some(Arc::new(callback)))
    }

    /// Counts, over all clones of this layer, where digests were announced.
    pub fn placements(&self) -> Placements {
        self.0.counts.read()
    }

    fn set(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }
}

impl Default for DigestLayer {
    fn default() -> Self {
        Self::md5()
    }
}

impl fmt::Debug for DigestLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DigestLayer").field(&self.0).finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.on)
            .field("algorithms", &self.algorithms)
            .field("announce", &self.announce)
            .field("overwrite", &self.overwrite)
            .field("negotiate", &self.negotiate)
            .field("look_ahead", &self.look_ahead)
            .field("segment_size", &self.segment_size)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DigestLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for DigestLayer {
    type Stage = DigestStage;

    fn is_off(&self) -> bool {
        !self.0.on
    }

    fn on_request<B: 'static>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<DigestStage> {
        match self.0.on {
            true => Begin::Follow(DigestStage::new(&self.0, request)),
            false => Begin::Pass,
        }
    }
}

/// What was sent in one response. Reported once for each hashed body: to [`on_sent`](DigestLayer::on_sent), and as a
/// [`DigestHandle<Sent>`](crate::DigestHandle) in the response extensions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sent {
    /// The method of the request.
    pub method: Method,
    /// The URI of the request.
    pub uri: Uri,
    /// The digest of the whole body; `None` unless `end` is [`StreamEnd::Complete`].
    pub digest: Option<DigestValue>,
    /// The digests of the segments, if [`DigestLayer::segments`] is set and the body is complete.
    pub segments: Option<Segments>,
    /// Number of body bytes passed to the server.
    pub bytes: u64,
    /// Where the digest was announced.
    pub placement: Placement,
    /// How the body ended.
    pub end: StreamEnd,
}
