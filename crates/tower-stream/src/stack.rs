//! All layers, in the order that works.

use tower_layer::{Identity, Layer};
use tower_stream_core::wrapper::Wrapped;

#[cfg(feature = "drain")]
use tower_stream_drain::Drain;

use crate::CompressionSlot;

/// The layer that stands in a slot of the stack, and how it is when it is off. Where its feature is off, it is `()`, which is a
/// layer that is off too.
macro_rules! slots {
    ($($feature:literal $layer:ident of $crate_name:ident;)*) => {$(
        #[cfg(feature = $feature)]
        use $crate_name::$layer;
        #[cfg(not(feature = $feature))]
        type $layer = ();
        impl_off!($feature $layer);
    )*};
}

/// A layer that is off.
trait Off {
    fn off() -> Self;
}

impl Off for () {
    fn off() -> Self {}
}

macro_rules! impl_off {
    ($feature:literal $layer:ident) => {
        #[cfg(feature = $feature)]
        impl Off for $layer {
            fn off() -> Self {
                Self::off()
            }
        }
    };
}

slots! {
    "ids" RequestIdLayer of tower_stream_ids;
    "trace" RequestSpanLayer of tower_stream_trace;
    "metrics" StreamMetricsLayer of tower_stream_metrics;
    "drain" DrainLayer of tower_stream_drain;
    "headers" StreamHeadersLayer of tower_stream_headers;
    "digest" DigestLayer of tower_stream_digest;
    "heartbeat" HeartbeatLayer of tower_stream_heartbeat;
    "errors" ErrorWriterLayer of tower_stream_errors;
    "drain" FarewellLayer of tower_stream_drain;
    "trace" ChunkSpanLayer of tower_stream_trace;
    "ids" SequenceLayer of tower_stream_ids;
    "digest" VerifyDigestLayer of tower_stream_digest;
}

/// The recommended stack of layers, as one layer of one concrete type.
///
/// Each piece can be replaced or left out at run time; the type stays the same, for every layer has an off state. Only
/// [`StreamStack::compression`] changes it. The [crate documentation](crate) has the order and its reasons.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_stream::StreamStack;
///
/// let stack = StreamStack::new();
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(stack);
/// ```
///
/// Without axum's router the stack stays generic and unboxed, around any service that answers with an `http_body`:
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stream::StreamStack;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// async fn hello(_: Request<Empty<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
///     Ok(Response::new(Full::new(Bytes::from("hello"))))
/// }
///
/// let service = ServiceBuilder::new().layer(StreamStack::new()).service(service_fn(hello));
/// let response = service.oneshot(Request::new(Empty::new())).await.unwrap();
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct StreamStack<C = Identity> {
    outside: Outside,
    compression: C,
    inside: Inside,
}

/// The layers outside of the compression.
#[derive(Clone, Debug)]
struct Outside {
    request_id: RequestIdLayer,
    request_span: RequestSpanLayer,
    metrics: StreamMetricsLayer,
    drain: DrainLayer,
    headers: StreamHeadersLayer,
    digest: DigestLayer,
}

/// The layers inside of the compression.
#[derive(Clone, Debug)]
struct Inside {
    heartbeat: HeartbeatLayer,
    errors: ErrorWriterLayer,
    farewell: FarewellLayer,
    chunk_span: ChunkSpanLayer,
    sequence: SequenceLayer,
    verify: VerifyDigestLayer,
}

type OutsideLayers = (
    RequestIdLayer,
    (
        RequestSpanLayer,
        (
            StreamMetricsLayer,
            (DrainLayer, (StreamHeadersLayer, DigestLayer)),
        ),
    ),
);

type InsideLayers = (
    HeartbeatLayer,
    (
        ErrorWriterLayer,
        (
            FarewellLayer,
            (ChunkSpanLayer, (SequenceLayer, VerifyDigestLayer)),
        ),
    ),
);

impl Outside {
    fn layers(&self) -> OutsideLayers {
        let Self {
            request_id,
            request_span,
            metrics,
            drain,
            headers,
            digest,
        } = self.clone();
        let inner = (drain, (headers, digest));
        (request_id, (request_span, (metrics, inner)))
    }
}

impl Inside {
    fn layers(&self) -> InsideLayers {
        let Self {
            heartbeat,
            errors,
            farewell,
            chunk_span,
            sequence,
            verify,
        } = self.clone();
        let inner = (farewell, (chunk_span, (sequence, verify)));
        (heartbeat, (errors, inner))
    }
}

/// A service under a whole [`StreamStack`]: one wrapper, so one future, one body and one allocation a request.
pub type Stacked<S> = Wrapped<S, (OutsideLayers, InsideLayers)>;

/// The layers inside of the compression, around a service.
pub type InnerStack<S> = Wrapped<S, InsideLayers>;

/// The layers outside of the compression, around a service.
pub type OuterStack<S> = Wrapped<S, OutsideLayers>;

impl StreamStack {
    /// The stack with its defaults: request ids, request spans, the header guard, chunk spans by the global tracer, and
    /// the error writer.
    ///
    /// The global tracer is looked up now: set the provider first. Without one, chunk spans cost nothing.
    pub fn new() -> Self {
        #[allow(unused_mut)]
        let mut stack = Self::off();
        #[cfg(feature = "ids")]
        {
            stack.outside.request_id = RequestIdLayer::new();
        }
        #[cfg(feature = "trace")]
        {
            stack.outside.request_span = RequestSpanLayer::new();
            let tracer = opentelemetry::global::tracer("tower-stream");
            stack.inside.chunk_span = ChunkSpanLayer::new(tracer);
        }
        #[cfg(feature = "headers")]
        {
            stack.outside.headers = StreamHeadersLayer::new();
        }
        #[cfg(feature = "errors")]
        {
            stack.inside.errors = ErrorWriterLayer::new();
        }
        stack
    }

    /// The stack with every layer off, to switch on some: bytes and heads pass untouched.
    pub fn off() -> Self {
        Self {
            outside: Outside {
                request_id: Off::off(),
                request_span: Off::off(),
                metrics: Off::off(),
                drain: Off::off(),
                headers: Off::off(),
                digest: Off::off(),
            },
            compression: Identity::new(),
            inside: Inside {
                heartbeat: Off::off(),
                errors: Off::off(),
                farewell: Off::off(),
                chunk_span: Off::off(),
                sequence: Off::off(),
                verify: Off::off(),
            },
        }
    }
}

impl Default for StreamStack {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> StreamStack<C> {
    /// Request ids as this layer makes them. Default: on, taken from `x-request-id` or made.
    #[cfg(feature = "ids")]
    pub fn request_id(mut self, layer: RequestIdLayer) -> Self {
        self.outside.request_id = layer;
        self
    }

    /// Request spans as this layer makes them. Default: on.
    #[cfg(feature = "trace")]
    pub fn request_span(mut self, layer: RequestSpanLayer) -> Self {
        self.outside.request_span = layer;
        self
    }

    /// Measures streams. Default: off, for it needs a meter.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, layer: StreamMetricsLayer) -> Self {
        self.outside.metrics = layer;
        self
    }

    /// Takes part in this drain: requests are admitted and counted, streams get their farewell. Default: off.
    #[cfg(feature = "drain")]
    pub fn drain(mut self, drain: &Drain) -> Self {
        self.outside.drain = drain.layer();
        self.inside.farewell = drain.farewell();
        self
    }

    /// Ends streams as this layer does, with a policy of its own say. After [`StreamStack::drain`], which sets it too.
    #[cfg(feature = "drain")]
    pub fn farewell(mut self, layer: FarewellLayer) -> Self {
        self.inside.farewell = layer;
        self
    }

    /// Guards the heads of streams as this layer does. Default: on, for the kinds of stream that it knows.
    #[cfg(feature = "headers")]
    pub fn headers(mut self, layer: StreamHeadersLayer) -> Self {
        self.outside.headers = layer;
        self
    }

    /// Announces the digest of what is sent: `DigestLayer::md5()`, `DigestLayer::sha256()`. Default: off.
    #[cfg(feature = "digest")]
    pub fn digest(mut self, layer: DigestLayer) -> Self {
        self.outside.digest = layer;
        self
    }

    /// Puts a layer that compresses, or changes bytes otherwise, where the others still work, in a [`CompressionSlot`]: no
    /// digest of other bytes stays in head or trailers.
    ///
    /// ```
    /// use tower_http::compression::CompressionLayer;
    /// use tower_stream::StreamStack;
    ///
    /// let stack = StreamStack::new().compression(CompressionLayer::new());
    /// # let app: axum::Router = axum::Router::new().route("/", axum::routing::get(|| async {})).layer(stack);
    /// ```
    pub fn compression<L>(self, layer: L) -> StreamStack<CompressionSlot<L>> {
        StreamStack {
            outside: self.outside,
            compression: CompressionSlot::new(layer),
            inside: self.inside,
        }
    }

    /// Writes heartbeats into idle streams as this layer does. Default: off, for it changes what is sent.
    #[cfg(feature = "heartbeat")]
    pub fn heartbeat(mut self, layer: HeartbeatLayer) -> Self {
        self.inside.heartbeat = layer;
        self
    }

    /// Writes errors as this layer does. Default: on, for every kind of stream that it knows.
    #[cfg(feature = "errors")]
    pub fn errors(mut self, layer: ErrorWriterLayer) -> Self {
        self.inside.errors = layer;
        self
    }

    /// Chunk spans as this layer makes them. Default: by the global tracer.
    #[cfg(feature = "trace")]
    pub fn chunk_span(mut self, layer: ChunkSpanLayer) -> Self {
        self.inside.chunk_span = layer;
        self
    }

    /// Stamps records with ids. Default: off, for it changes what is sent.
    #[cfg(feature = "ids")]
    pub fn sequence(mut self, layer: SequenceLayer) -> Self {
        self.inside.sequence = layer;
        self
    }

    /// Checks the digests that handlers promise: `VerifyDigestLayer::md5()`, `VerifyDigestLayer::all()` for each algorithm
    /// that is known. Default: off.
    #[cfg(feature = "digest")]
    pub fn verify(mut self, layer: VerifyDigestLayer) -> Self {
        self.inside.verify = layer;
        self
    }
}

impl<S> Layer<S> for StreamStack {
    type Service = Stacked<S>;

    fn layer(&self, service: S) -> Self::Service {
        Wrapped::new(service, (self.outside.layers(), self.inside.layers()))
    }
}

impl<S, L> Layer<S> for StreamStack<CompressionSlot<L>>
where
    CompressionSlot<L>: Layer<InnerStack<S>>,
{
    type Service = OuterStack<<CompressionSlot<L> as Layer<InnerStack<S>>>::Service>;

    fn layer(&self, service: S) -> Self::Service {
        let service = Wrapped::new(service, self.inside.layers());
        let service = self.compression.layer(service);
        Wrapped::new(service, self.outside.layers())
    }
}
