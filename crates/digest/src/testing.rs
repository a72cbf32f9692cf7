//! Test helpers of all layers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, mock::MockBody};

/// Returns `len` bytes without a short period.
pub(crate) fn noise(len: usize) -> Bytes {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect()
}

pub(crate) fn md5_hex(data: &[u8]) -> String {
    hex::encode(<md5::Md5 as digest::Digest>::digest(data))
}

/// A GET request with this HTTP version.
pub(crate) fn get(version: Version) -> Request<()> {
    Request::builder()
        .version(version)
        .uri("/file")
        .body(())
        .expect("a request")
}

/// A GET request over HTTP/1.1 from a client that accepts trailers.
pub(crate) fn get_te() -> Request<()> {
    let mut request = get(Version::HTTP_11);
    request
        .headers_mut()
        .insert("te", http::HeaderValue::from_static("trailers"));
    request
}

/// A response with these headers.
pub(crate) fn response(body: MockBody, headers: &[(&str, &str)]) -> Response<MockBody> {
    headers
        .iter()
        .fold(Response::builder(), |head, (name, value)| {
            head.header(*name, *value)
        })
        .body(body)
        .expect("a response")
}

/// Passes this response through the layer, which must not return `Pending`.
pub(crate) fn pass<L, B>(layer: &L, request: Request<()>, inner: Response<MockBody>) -> Response<B>
where
    L: Layer<Inner>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    pass_async(layer, request, inner)
        .now_or_never()
        .expect("the head is not held back")
}

pub(crate) async fn pass_async<L, B>(
    layer: &L,
    request: Request<()>,
    inner: Response<MockBody>,
) -> Response<B>
where
    L: Layer<Inner>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let Ok(response) = layer.layer(Inner(Some(inner))).oneshot(request).await;
    response
}

/// A service that answers once.
pub(crate) struct Inner(Option<Response<MockBody>>);

impl Service<Request<()>> for Inner {
    type Response = Response<MockBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<MockBody>, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(self.0.take().expect("called once")))
    }
}

/// What a server sends for a body.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) data: Vec<u8>,
    pub(crate) frames: Vec<usize>,
    pub(crate) trailers: HeaderMap,
    /// The error with which the body failed.
    pub(crate) error: Option<BoxError>,
}

impl Read {
    pub(crate) fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

/// Polls a body as hyper does: not after `declared` bytes (`None`: chunked, or h2), and not after `is_end_stream`.
pub(crate) async fn read<B>(body: B, declared: Option<u64>) -> Read
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let mut read = Read {
        data: Vec::new(),
        frames: Vec::new(),
        trailers: HeaderMap::new(),
        error: None,
    };
    let mut body = std::pin::pin!(body);
    while !body.is_end_stream() && declared != Some(read.data.len() as u64) {
        match body.as_mut().frame().await {
            None => break,
            Some(Err(error)) => {
                read.error = Some(error);
                break;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    read.frames.push(data.len());
                    read.data.extend_from_slice(&data);
                }
                Err(other) => {
                    read.trailers = other.into_trailers().expect("trailers");
                    break;
                }
            },
        }
    }
    read
}
