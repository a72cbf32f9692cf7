//! The place for a layer that changes bytes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, response::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{bytes_encoded, declared_length, digests_changed};

/// When more than this of a body was read, its encoder gets a `Pending`.
const FIRST_READ: usize = 256 * 1024;

/// How often in a row. Encoders answer the first with what they flush, and poll again: async-compression is pending itself
/// at the third if the flush fills its output, at the second otherwise.
const PAUSES: u8 = 4;

/// A layer that encodes bodies (compression), with what the layers around it must know of that.
///
/// [`StreamStack::compression`](crate::StreamStack::compression) puts its layer into one. Use it yourself where you compose
/// the layers by hand: `CompressionSlot::new(CompressionLayer::new())`.
///
/// - **No digest of other bytes.** A compression layer leaves the digest fields of the handler in place: `Content-Digest`,
///   `Content-MD5`, `X-Content-MD5`, `Repr-Digest`, by any algorithm. Where the layer has changed the bytes, they are
///   taken out of the head, of the trailers, and of what `Trailer` announces; a strong `ETag` that the layer has left as it
///   was becomes weak (RFC 9110 section 8.8.1), for it is shared with the plain bytes. A response that the layer has not
///   changed keeps all of them.
/// - **No head that is late.** A layer outside, such as the digest layer, may poll a body before its head is released. An
///   encoder goes on reading for as long as its input is ready, and a compressible input is long. So the body inside yields
///   once, after more than 256 KiB: it is pending until its task is polled again. Encoders flush, and the head is released.
///
/// The bytes count as changed when `Content-Encoding` or the length is another one outside of the layer than inside. A layer
/// that changes bytes in any other way has to call [`bytes_changed`](tower_stream_core::bytes_changed) itself.
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_http::compression::CompressionLayer;
/// use tower_stream::CompressionSlot;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // a handler that announces the digest of what it returns
/// let handler = || async { ([("content-digest", "md5=:bNNVaqj3UxEcMdf9EFLhMQ==:")], "text ".repeat(1000)) };
/// let app: Router = Router::new()
///     .route("/", get(handler))
///     .layer(CompressionSlot::new(CompressionLayer::new()));
///
/// let get = |coding: &str| Request::get("/").header("accept-encoding", coding).body(Body::empty()).unwrap();
/// let plain = app.clone().oneshot(get("identity")).await.unwrap();
/// assert!(plain.headers().contains_key("content-digest"));
/// let zipped = app.oneshot(get("gzip")).await.unwrap();
/// assert!(!zipped.headers().contains_key("content-digest"));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CompressionSlot<L> {
    layer: L,
}

impl<L> CompressionSlot<L> {
    /// Puts this layer into the slot.
    pub fn new(layer: L) -> Self {
        Self { layer }
    }
}

impl<S, L: Layer<BeforeEncoding<S>>> Layer<S> for CompressionSlot<L> {
    type Service = AfterEncoding<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        AfterEncoding {
            inner: self.layer.layer(BeforeEncoding { inner }),
        }
    }
}

/// What a response was like inside of the layer, in the response extensions.
#[derive(Clone, PartialEq)]
struct Encoding {
    codings: Vec<HeaderValue>,
    length: Option<u64>,
}

impl Encoding {
    fn of<B: Body>(head: &Parts, body: &B) -> Self {
        let codings = head.headers.get_all(header::CONTENT_ENCODING);
        Self {
            codings: codings.iter().cloned().collect(),
            length: declared_length(&head.headers).or_else(|| body.size_hint().exact()),
        }
    }
}

/// What a response was like inside of the layer.
#[derive(Clone)]
struct Before {
    encoding: Encoding,
    etag: Option<HeaderValue>,
}

/// The service that the layer in a [`CompressionSlot`] wraps: it notes what a response is before it is encoded.
#[derive(Clone, Copy, Debug)]
pub struct BeforeEncoding<S> {
    inner: S,
}

/// The service that a [`CompressionSlot`] makes: it drops what was said of other bytes than are sent.
#[derive(Clone, Copy, Debug)]
pub struct AfterEncoding<S> {
    inner: S,
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for BeforeEncoding<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<PlainBody<B>>;
    type Error = S::Error;
    type Future = BeforeEncodingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        BeforeEncodingFuture {
            inner: self.inner.call(request),
        }
    }
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for AfterEncoding<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<EncodedBody<B>>;
    type Error = S::Error;
    type Future = AfterEncodingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        AfterEncodingFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of [`BeforeEncoding`].
    #[derive(Debug)]
    pub struct BeforeEncodingFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for BeforeEncodingFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<PlainBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut head, inner) = ready!(self.project().inner.poll(cx))?.into_parts();
        let before = Before {
            encoding: Encoding::of(&head, &inner),
            etag: head.headers.get(header::ETAG).cloned(),
        };
        head.extensions.insert(before);
        let body = PlainBody {
            inner,
            read: 0,
            pauses: PAUSES,
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

pin_project! {
    /// The future of [`AfterEncoding`].
    #[derive(Debug)]
    pub struct AfterEncodingFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for AfterEncodingFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<EncodedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut head, inner) = ready!(self.project().inner.poll(cx))?.into_parts();
        // a layer that loses the extensions may have changed anything
        let before = head.extensions.remove::<Before>();
        let now = Encoding::of(&head, &inner);
        let changed = before.as_ref().is_none_or(|before| before.encoding != now);
        if changed {
            let etag = before.and_then(|before| before.etag);
            bytes_encoded(&mut head.headers, etag.as_ref());
        }
        let body = EncodedBody { inner, changed };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

pin_project! {
    /// The body of [`BeforeEncoding`]: it yields once, after more than 256 KiB of data.
    #[derive(Debug)]
    pub struct PlainBody<B> {
        #[pin]
        inner: B,
        read: usize,
        pauses: u8,
    }
}

impl<B: Body<Data = Bytes>> Body for PlainBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if *this.read > FIRST_READ && *this.pauses > 0 {
            *this.pauses -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = this.inner.poll_frame(cx);
        if *this.pauses > 0
            && let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            *this.read += data.len();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// The body of [`AfterEncoding`]: without digests of other bytes in its trailers.
    #[derive(Debug)]
    pub struct EncodedBody<B> {
        #[pin]
        inner: B,
        changed: bool,
    }
}

impl<B: Body<Data = Bytes>> Body for EncodedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut polled = this.inner.poll_frame(cx);
        if let (true, Poll::Ready(Some(Ok(frame)))) = (*this.changed, &mut polled)
            && let Some(trailers) = frame.trailers_mut()
        {
            digests_changed(trailers);
            if trailers.is_empty() {
                return Poll::Ready(None);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
