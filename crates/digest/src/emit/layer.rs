//! The layer and its options.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, response::Parts};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, StreamEnd};

use super::{DigestBody, DigestFuture, future::Call};
use crate::{
    Algorithm, Announce, Announcements, DigestValue, Md5, Placement, Placements, Segments,
    announce::Counts,
    later::Callback,
    layer::{Layered, Setup},
    replay::SLICE,
};

/// Announces the digest of each response body: the digest of the bytes that are really sent.
///
/// Frames pass as they are. Where the digest goes is decided by what will arrive:
///
/// | the body | the digest |
/// |---|---|
/// | ends within 64 KiB without being pending once | in the head |
/// | goes on, over HTTP/2 | in the trailers; `Trailer` is added, `Content-Length` stays |
/// | goes on, over HTTP/1.1 to a client that says `TE: trailers` | in the trailers; `Trailer` is added, `Content-Length` goes |
/// | goes on, over HTTP/1.x to any other client | not on the wire: such trailers would be dropped. [`Sent`] has it |
/// | fails, panics, is dropped, is shorter or longer than declared | nowhere |
///
/// Looking ahead never delays a body: the first `Pending` releases all that is there. Trailers of the body itself are kept
/// and the digest is added to them. A digest field that the response already has is not replaced, unless
/// [`overwrite`](Self::overwrite) is set or the [`ExpectedDigest`](tower_stream_core::ExpectedDigest) behind it was made for another
/// content coding.
///
/// A response without a body (HEAD, 1xx, 204, 304, CONNECT) is left alone. A 206 gets the digest of its part.
///
/// Put it outside of every layer that changes bytes, compression above all. The body that is looked at may be an encoder,
/// which goes on reading for as long as its input is ready: `tower_stream::CompressionSlot` bounds that, and drops the
/// digests that the handler announced of the plain bytes.
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
///     .layer(DigestLayer::md5().announce(Announce::ContentDigest | Announce::XContentMd5))
///     .service(service_fn(|_: Request<()>| async {
///         Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
///     }));
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.headers()["x-content-md5"], "5d41402abc4b2a76b9719d911017c592");
/// assert_eq!(response.headers()["content-digest"], "md5=:XUFAKrxLKna5cZ2REBfFkg==:");
/// # }
/// ```
pub struct DigestLayer<D = md5::Md5>(Setup<Config, D>);

type OnlyIf = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) on: bool,
    pub(super) only_if: Option<OnlyIf>,
    pub(super) announce: Announcements,
    pub(super) overwrite: bool,
    pub(super) negotiate: bool,
    pub(super) look_ahead: u64,
    pub(super) segment_size: Option<u64>,
    pub(super) announce_segments: bool,
    pub(super) hash_unannounced: bool,
    pub(super) on_sent: Option<Callback<Sent>>,
    pub(super) counts: Arc<Counts>,
}

impl Config {
    pub(super) fn wants(&self, head: &Parts) -> bool {
        self.only_if.as_ref().is_none_or(|wanted| wanted(head))
    }
}

impl DigestLayer<Md5> {
    /// Announces MD5, by the faster of [`kernel::Md5`](crate::kernel::Md5) and `md5::Md5` on this architecture.
    pub fn md5() -> Self {
        Self::new()
    }
}

impl<D: Algorithm> DigestLayer<D> {
    /// Announces this algorithm: MD5 by `Content-Digest` and `X-Content-MD5`, any other by `Content-Digest`.
    pub fn new() -> Self {
        Self(Setup::new(Config {
            on: true,
            only_if: None,
            announce: Announce::ContentDigest | Announce::XContentMd5,
            overwrite: false,
            negotiate: true,
            look_ahead: 64 * 1024,
            segment_size: None,
            announce_segments: false,
            hash_unannounced: true,
            on_sent: None,
            counts: Arc::default(),
        }))
    }

    /// A layer of the same type that does nothing.
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Whether it does anything.
    pub fn enabled(self, on: bool) -> Self {
        Self(self.0.set(|config| config.on = on))
    }

    /// Leaves alone the responses of which this is false: of an endless stream of events, say, nobody wants a digest.
    ///
    /// ```
    /// use tower_stream_core::StreamKind;
    /// use tower_stream_digest::DigestLayer;
    ///
    /// let layer = DigestLayer::md5().only_if(|head| StreamKind::of(&head.headers) == StreamKind::Other);
    /// # drop(layer);
    /// ```
    pub fn only_if(self, wanted: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self(self.0.set(|config| config.only_if = Some(Arc::new(wanted))))
    }

    /// The fields that announce the digest. Those that cannot name the algorithm are left out.
    pub fn announce(self, fields: impl Into<Announcements>) -> Self {
        Self(self.0.set(|config| config.announce = fields.into()))
    }

    /// Replaces digests of these names that the response already has. Off by default.
    pub fn overwrite(self, overwrite: bool) -> Self {
        Self(self.0.set(|config| config.overwrite = overwrite))
    }

    /// Lets the client choose another algorithm for `Content-Digest` by `Want-Content-Digest` (RFC 9530 section 4): MD5
    /// and, with the feature `sha2`, SHA-256 and SHA-512. On by default. A client that refuses (`md5=0`) and wants nothing
    /// that is known gets no `Content-Digest`.
    pub fn negotiate(self, negotiate: bool) -> Self {
        Self(self.0.set(|config| config.negotiate = negotiate))
    }

    /// How many bytes of a ready body may be held back to announce it in the head; 64 KiB by default, at most 256 KiB,
    /// which is what one poll may hash. 0 looks at empty bodies only.
    pub fn look_ahead(self, bytes: usize) -> Self {
        Self(
            self.0
                .set(|config| config.look_ahead = bytes.min(SLICE) as u64),
        )
    }

    /// Hashes each `size` bytes too, for [`Sent::segments`]. With MD5 that costs a few per cent: both digests are computed
    /// side by side, see [`kernel`](crate::kernel). The digests are kept until the end, 16 bytes for each `size`.
    ///
    /// # Panics
    ///
    /// When `size` is 0.
    pub fn segments(self, size: u64) -> Self {
        assert!(size > 0, "a segment holds at least one byte");
        Self(self.0.set(|config| config.segment_size = Some(size)))
    }

    /// Announces the segments too, beside the digest of the whole: `X-Segment-Digest: md5=:<base64>:;size=<bytes>`, a
    /// structured field like `Content-Digest` whose bytes are all segments' digests in a row. Off by default.
    ///
    /// It is left out when it would be longer than 8 KiB (383 segments by MD5), for clients limit what head and trailers
    /// may hold, to 16 KiB as a rule. [`Sent::segments`] has them always.
    pub fn announce_segments(self, announce: bool) -> Self {
        Self(self.0.set(|config| config.announce_segments = announce))
    }

    /// Whether to hash a body whose digest can reach the client in no way. On by default, for [`Sent`]; off, such a body
    /// costs nothing, and its [`Sent::digest`] is `None`.
    pub fn hash_unannounced(self, hash: bool) -> Self {
        Self(self.0.set(|config| config.hash_unannounced = hash))
    }

    /// Calls this once for each hashed body, when it has ended and before it is dropped; see [`Sent`].
    ///
    /// It runs on the server's task, in the drop of the body as a rule, so it must not block. A panic in it is swallowed.
    pub fn on_sent(self, callback: impl Fn(&Sent) + Send + Sync + 'static) -> Self {
        Self(
            self.0
                .set(|config| config.on_sent = Some(Arc::new(callback))),
        )
    }

    /// How many bodies were announced where so far, over all clones of this layer.
    pub fn placements(&self) -> Placements {
        self.0.config().counts.read()
    }
}

impl<D: Algorithm> Default for DigestLayer<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Clone for DigestLayer<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D> fmt::Debug for DigestLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DigestLayer").field(&self.0).finish()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.on)
            .field("announce", &self.announce)
            .field("overwrite", &self.overwrite)
            .field("negotiate", &self.negotiate)
            .field("look_ahead", &self.look_ahead)
            .field("segment_size", &self.segment_size)
            .finish_non_exhaustive()
    }
}

impl<S, D> Layer<S> for DigestLayer<D> {
    type Service = DigestService<S, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Layered {
            inner,
            layer: self.clone(),
        }
    }
}

/// What [`DigestLayer`] makes of a service.
pub type DigestService<S, D = md5::Md5> = Layered<S, DigestLayer<D>>;

impl<S, D, ReqBody, ResBody> Service<Request<ReqBody>> for DigestService<S, D>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
    D: Algorithm,
{
    type Response = Response<DigestBody<ResBody, D>>;
    type Error = S::Error;
    type Future = DigestFuture<S::Future, D>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = self.layer.0.config();
        let call = config
            .on
            .then(|| Box::new(Call::new::<D>(Arc::clone(config), &mut request)));
        DigestFuture::new(self.inner.call(request), call)
    }
}

/// What was sent of one response. Reported once for each body that is hashed: to
/// [`on_sent`](DigestLayer::on_sent), and as a [`Later<Sent>`](crate::Later) in the response extensions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sent {
    /// The method of the request.
    pub method: Method,
    /// The URI of the request.
    pub uri: Uri,
    /// The digest of all that was sent; `None` unless the body is [`StreamEnd::Complete`].
    pub digest: Option<DigestValue>,
    /// The digests of the segments, when [`DigestLayer::segments`] asked for them and the body is complete.
    pub segments: Option<Segments>,
    /// How many bytes of body were given to the server.
    pub bytes: u64,
    /// Where the digest was announced.
    pub placement: Placement,
    /// How the body ended.
    pub end: StreamEnd,
}
