//! The candidates of the stack's benches: the same handler with different layers and subscribers.

pub(crate) mod layers;

use std::{convert::Infallible, fmt, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::Empty;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stream_bench_support::{Frames, consume};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{Registry, layer::SubscriberExt};

/// The subscriber for spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// No subscriber.
    None,
    /// tracing-opentelemetry with its defaults, and a sampler that samples nothing.
    Unsampled,
    /// tracing-opentelemetry without context activation and idle tracking, and a sampler that samples nothing.
    UnsampledLean,
    /// tracing-opentelemetry with its defaults, and a sampler that samples everything; the spans are discarded.
    Sampled,
}

impl Listener {
    pub(crate) const ALL: [Self; 4] = [
        Self::None,
        Self::Unsampled,
        Self::UnsampledLean,
        Self::Sampled,
    ];

    /// A tracer for the chunk spans, matching the request spans.
    pub(crate) fn tracer(self) -> SdkTracer {
        let sampler = match self {
            Self::Sampled => Sampler::AlwaysOn,
            Self::None | Self::Unsampled | Self::UnsampledLean => Sampler::AlwaysOff,
        };
        SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_span_processor(Discard)
            .build()
            .tracer("bench")
    }

    /// Runs `f` with this subscriber.
    pub(crate) fn with<T>(self, f: impl FnOnce() -> T) -> T {
        let layer = OpenTelemetryLayer::new(self.tracer());
        let layer = match self {
            Self::None => return f(),
            Self::Unsampled | Self::Sampled => layer,
            Self::UnsampledLean => layer
                .with_context_activation(false)
                .with_tracked_inactivity(false)
                .with_threads(false),
        };
        tracing::subscriber::with_default(Registry::default().with(layer), f)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no subscriber",
            Self::Unsampled => "tracing-opentelemetry, unsampled",
            Self::UnsampledLean => "tracing-opentelemetry made lean, unsampled",
            Self::Sampled => "tracing-opentelemetry, sampled",
        })
    }
}

#[derive(Debug)]
struct Discard;

impl SpanProcessor for Discard {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
    fn on_end(&self, _: SpanData) {}
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// A response of `count` server-sent events of `bytes` bytes, all ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) count: u32,
    pub(crate) bytes: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} B", self.count, self.bytes)
    }
}

impl Shape {
    fn handler(
        self,
    ) -> impl Service<
        Request<Empty<Bytes>>,
        Response = Response<Frames>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + 'static {
        let data = self.bytes - "data: \n\n".len();
        let event = Bytes::from(format!("data: {}\n\n", "x".repeat(data)));
        service_fn(move |_: Request<Empty<Bytes>>| {
            let frames = Frames::new(event.clone(), self.count as usize);
            async move {
                let response =
                    Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
                Ok::<_, Infallible>(response.body(frames).unwrap())
            }
        })
    }
}

/// Responds to a request. Calls back between the head and the first frame.
type Serve = Box<dyn FnMut(&mut dyn FnMut())>;

/// One candidate: sends a request through its layers and reads the body.
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    serve: Serve,
}

impl Candidate {
    fn new<L, S, B>(name: &'static str, layer: &L, handler: S) -> Self
    where
        L: Layer<S>,
        L::Service: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>
            + Clone
            + 'static,
        B: Body<Data = Bytes>,
    {
        let service = layer.layer(handler);
        let serve = move |head: &mut dyn FnMut()| {
            let answered = service.clone().oneshot(request()).now_or_never();
            let Some(Ok(response)) = answered else {
                panic!("the handler answers at once")
            };
            let body = pin!(response.into_body());
            head();
            consume(body);
        };
        Self {
            name,
            serve: Box::new(serve),
        }
    }

    /// A whole response.
    pub(crate) fn run(&mut self) {
        (self.serve)(&mut || ());
    }

    /// A whole response; `head` runs before the body is read.
    #[allow(dead_code)] // Only one of the benches uses it.
    pub(crate) fn run_with(&mut self, mut head: impl FnMut()) {
        (self.serve)(&mut head);
    }
}

/// Approximately the request of a browser's `EventSource`.
fn request() -> Request<Empty<Bytes>> {
    Request::get("/events")
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "text/event-stream")
        .header(header::USER_AGENT, "bench")
        .body(Empty::new())
        .unwrap()
}
