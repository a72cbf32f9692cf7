//! The slot for a layer that changes the bytes of a body.

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

/// After this many bytes of a body without a pause, the encoder gets a `Pending`.
const FIRST_READ: usize = 256 * 1024;

/// Number of consecutive pauses. An encoder answers the first one with what it flushes, and polls again:
/// async-compression itself returns `Pending` at the third if the flush fills its output, and at the second otherwise.
const PAUSES: u8 = 4;

/// Wraps a layer that encodes bodies (compression), and adjusts what the layers around it rely on.
///
/// [`StreamStack::compression`](crate::StreamStack::compression) puts its layer into a slot. If you combine the layers
/// yourself, use `CompressionSlot::new(CompressionLayer::new())`.
///
/// - **No digest of other bytes.** A compression layer keeps the digest fields of the handler: `Content-Digest`,
///   `Content-MD5`, `X-Content-MD5`, `Repr-Digest`. If the layer changed the body, the slot removes them from the head,
///   from the trailers, and from `Trailer`. A strong `ETag` that the layer did not change becomes weak (RFC 9110
///   section 8.8.1), because the unencoded body has the same one. If the layer did not change the body, all of them are
///   kept.
/// - **No delayed head.** A layer outside, such as the digest layer, may poll a body before its head is sent. An
///   encoder keeps reading as long as its input is ready, and the input may be long. After more than 256 KiB, the body
///   inside of the encoder therefore returns `Pending` until its task is polled again. The encoder then flushes, and
///   the head is sent.
///
/// The body counts as changed if `Content-Encoding` or the length differs between the outside and the inside of the
/// layer. A layer that changes bytes without changing either of them must call
/// [`bytes_changed`](tower_stream_core::bytes_changed) itself.
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use tower::ServiceExt;
/// use tower_http::compression::CompressionLayer;
/// use tower_stream::CompressionSlot;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // a handler that declares the digest of its body
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
    /// Puts this layer into a slot.
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

/// The properties of a response inside of the layer, in the response extensions.
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

/// The properties of a response inside of the layer.
#[derive(Clone)]
struct Before {
    encoding: Encoding,
    etag: Option<HeaderValue>,
}

/// The service that the layer in a [`CompressionSlot`] wraps. It records the properties of a response before it is
/// encoded.
#[derive(Clone, Copy, Debug)]
pub struct BeforeEncoding<S> {
    inner: S,
}

/// The service of a [`CompressionSlot`]. It removes headers that do not describe the encoded bytes.
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
        // A layer that loses the extensions may have changed anything.
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
    /// The body of [`BeforeEncoding`]. It pauses once, after more than 256 KiB of data.
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
    /// The body of [`AfterEncoding`]. It removes digests of other bytes from the trailers.
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
