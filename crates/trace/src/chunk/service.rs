use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response};
use http_body::Body;
use opentelemetry::{KeyValue, StringValue, trace::TraceContextExt};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;
use tower_stream_body::{BoxError, Fault, Observation, RequestId, Sequence};

use super::{
    ResponseBody,
    layer::{ChunkAttributes, Config, shared},
    observer::{ChunkObserver, Numbers},
};
use crate::{attribute, parent};

/// The service of [`ChunkSpanLayer`](super::ChunkSpanLayer).
#[derive(Clone, Debug)]
pub struct ChunkSpan<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

impl<S> ChunkSpan<S> {
    pub(super) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ChunkSpan<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (call, request) = match &self.config {
            Some(config) => Call::begin(config, request),
            None => (None, request),
        };
        ResponseFuture {
            inner: self.inner.call(request),
            call,
        }
    }
}

pin_project! {
    /// The future of [`ChunkSpan`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => call.into_response(response),
            None => response.map(ResponseBody::off),
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A response whose chunks have spans already, by a layer inside.
#[derive(Clone, Copy)]
struct HasChunkSpans;

/// What of a request that may be sampled is needed when its head is there.
struct Call {
    config: Arc<Config>,
    /// `None` when the span may be entered only for the polls of the future
    parent: Option<opentelemetry::Context>,
    called: Option<Instant>,
    method: Method,
    fault: Option<Fault>,
    request_id: Option<RequestId>,
    sequence: Option<Sequence>,
    attributes: Vec<KeyValue>,
}

impl Call {
    fn begin<B>(config: &Arc<Config>, mut request: Request<B>) -> (Option<Self>, Request<B>) {
        let current = parent::current();
        let known = parent::has_span(&current);
        if known && !parent::is_sampled(&current) {
            return (None, request);
        }
        let mut attributes = Vec::new();
        if let Some(of) = &config.attributes {
            let (parts, body) = request.into_parts();
            attributes = of(&parts);
            request = Request::from_parts(parts, body);
        }
        let call = Self {
            config: Arc::clone(config),
            parent: known.then_some(current),
            called: config.genai.then(Instant::now),
            method: request.method().clone(),
            fault: known.then(|| Fault::of(request.extensions_mut())),
            request_id: request.extensions().get().cloned(),
            sequence: request.extensions().get().cloned(),
            attributes,
        };
        (Some(call), request)
    }

    fn into_response<B>(self, mut response: Response<B>) -> Response<ResponseBody<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let parent = self.parent.unwrap_or_else(parent::current);
        if !parent::is_sampled(&parent) || response.extensions().get::<HasChunkSpans>().is_some() {
            return response.map(ResponseBody::off);
        }
        let extensions = response.extensions_mut();
        extensions.insert(HasChunkSpans);
        let common = common(&parent, self.request_id, self.attributes, extensions);
        let numbers = self.sequence.map(|sequence| Numbers {
            draws: sequence.claim_chunks(),
            sequence,
        });
        let observer = ChunkObserver::new(self.config, parent, self.called, common, numbers);
        Observation::new(Box::new(observer), self.fault.unwrap_or_default())
            .into_response(&self.method, response)
            .map(ResponseBody::on)
    }
}

/// The attributes that all chunk spans of one stream share.
fn common(
    parent: &opentelemetry::Context,
    request_id: Option<RequestId>,
    attributes: Vec<KeyValue>,
    response: &Extensions,
) -> Vec<KeyValue> {
    let stream_id = match request_id.or_else(|| response.get().cloned()) {
        Some(id) => StringValue::from(id.as_str().to_owned()),
        None => parent.span().span_context().trace_id().to_string().into(),
    };
    let from_handler = response.get::<ChunkAttributes>().cloned();
    std::iter::once(KeyValue::new(attribute::STREAM_ID, stream_id))
        .chain(attributes)
        .chain(from_handler.into_iter().flat_map(|attributes| attributes.0))
        .map(shared)
        .collect()
}
