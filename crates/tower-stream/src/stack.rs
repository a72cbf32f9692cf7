//! All layers in their recommended order.

use tower_layer::{Identity, Layer};
use tower_stream_core::wrapper::Wrapped;

#[cfg(feature = "drain")]
use tower_stream_drain::Drain;

use crate::CompressionSlot;

/// Defines the layer type of each slot, and its disabled value. If its feature is off, the slot is `()`, which is a
/// disabled layer too.
macro_rules! slots {
    ($($feature:literal $layer:ident of $crate_name:ident;)*) => {$(
        #[cfg(feature = $feature)]
        use $crate_name::$layer;
        #[cfg(not(feature = $feature))]
        type $layer = ();
        impl_off!($feature $layer);
    )*};
}

/// Creates a disabled layer.
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
    "errors" DialectLayer of tower_stream_errors;
    "drain" DrainLayer of tower_stream_drain;
    "limit" StreamLimitLayer of tower_stream_limit;
    "limit" BreakerLayer of tower_stream_limit;
    "headers" StreamHeadersLayer of tower_stream_headers;
    "digest" DigestLayer of tower_stream_digest;
    "compress" CompressLayer of tower_stream_compress;
    "coalesce" CoalesceLayer of tower_stream_coalesce;
    "heartbeat" HeartbeatLayer of tower_stream_heartbeat;
    "errors" ErrorWriterLayer of tower_stream_errors;
    "drain" FarewellLayer of tower_stream_drain;
    "errors" IdleTimeoutLayer of tower_stream_errors;
    "trace" ChunkSpanLayer of tower_stream_trace;
    "ids" SequenceLayer of tower_stream_ids;
    "digest" VerifyDigestLayer of tower_stream_digest;
}

/// The recommended stack of layers, as one layer of one concrete type.
///
/// Each layer can be replaced or disabled at run time without changing the type. Only [`StreamStack::compression`]
/// changes it. The [crate documentation](crate) lists the order and its reasons.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_stream::StreamStack;
///
/// let stack = StreamStack::new();
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(stack);
/// ```
///
/// Without axum's router, the stack stays generic and unboxed, around any service whose response body implements
/// `http_body::Body`:
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
pub struct StreamStack<C = Identity, R = Identity> {
    outside: Outside,
    compression: C,
    inside: Inside,
    resume: R,
}

/// The layers outside of compression.
#[derive(Clone, Debug)]
struct Outside {
    request_id: RequestIdLayer,
    request_span: RequestSpanLayer,
    metrics: StreamMetricsLayer,
    dialect: DialectLayer,
    drain: DrainLayer,
    limit: StreamLimitLayer,
    breaker: BreakerLayer,
    headers: StreamHeadersLayer,
    digest: DigestLayer,
}

/// The layers inside of a foreign compression.
#[derive(Clone, Debug)]
struct Inside {
    compress: CompressLayer,
    coalesce: CoalesceLayer,
    heartbeat: HeartbeatLayer,
    errors: ErrorWriterLayer,
    farewell: FarewellLayer,
    idle_timeout: IdleTimeoutLayer,
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
            (
                DialectLayer,
                (
                    DrainLayer,
                    (
                        StreamLimitLayer,
                        (BreakerLayer, (StreamHeadersLayer, DigestLayer)),
                    ),
                ),
            ),
        ),
    ),
);

/// The layers from compression to resumption, for one reader.
type ReaderLayers = (
    (CompressLayer, CoalesceLayer),
    (HeartbeatLayer, (ErrorWriterLayer, FarewellLayer)),
);

/// The layers inside of resumption, for the producer.
type ProducerLayers = (
    IdleTimeoutLayer,
    (ChunkSpanLayer, (SequenceLayer, VerifyDigestLayer)),
);

type InsideLayers = (ReaderLayers, ProducerLayers);

impl Outside {
    fn layers(&self) -> OutsideLayers {
        let Self {
            request_id,
            request_span,
            metrics,
            dialect,
            drain,
            limit,
            breaker,
            headers,
            digest,
        } = self.clone();
        let inner = (limit, (breaker, (headers, digest)));
        let inner = (dialect, (drain, inner));
        (request_id, (request_span, (metrics, inner)))
    }
}

impl Inside {
    fn layers(&self) -> InsideLayers {
        (self.readers(), self.producer())
    }

    fn readers(&self) -> ReaderLayers {
        let Self {
            compress,
            coalesce,
            heartbeat,
            errors,
            farewell,
            ..
        } = self.clone();
        ((compress, coalesce), (heartbeat, (errors, farewell)))
    }

    fn producer(&self) -> ProducerLayers {
        let Self {
            idle_timeout,
            chunk_span,
            sequence,
            verify,
            ..
        } = self.clone();
        (idle_timeout, (chunk_span, (sequence, verify)))
    }
}

/// A service with a whole [`StreamStack`]: one wrapper, and so one future, one body and one allocation per request.
pub type Stacked<S> = Wrapped<S, (OutsideLayers, InsideLayers)>;

/// A service with the layers inside of compression.
pub type InnerStack<S> = Wrapped<S, InsideLayers>;

/// A service with the layers outside of compression.
pub type OuterStack<S> = Wrapped<S, OutsideLayers>;

/// A service with resumption and the layers inside of it.
#[cfg(feature = "resume")]
pub type ProducerStack<S> = tower_stream_resume::ResumeService<Wrapped<S, ProducerLayers>>;

/// A service with resumption, the layers inside of it, and those up to compression.
#[cfg(feature = "resume")]
pub type ReaderStack<S> = Wrapped<ProducerStack<S>, ReaderLayers>;

impl StreamStack {
    /// The stack with its defaults: request ids, request spans, the header guard, chunk spans with the global tracer,
    /// and the error writer.
    ///
    /// The global tracer is looked up now, so set the tracer provider first. Without a provider, chunk spans cost
    /// nothing.
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

    /// The stack with every layer disabled, so that only some can be enabled. Responses pass unchanged.
    pub fn off() -> Self {
        Self {
            outside: Outside {
                request_id: Off::off(),
                request_span: Off::off(),
                metrics: Off::off(),
                dialect: Off::off(),
                drain: Off::off(),
                limit: Off::off(),
                breaker: Off::off(),
                headers: Off::off(),
                digest: Off::off(),
            },
            compression: Identity::new(),
            inside: Inside {
                compress: Off::off(),
                coalesce: Off::off(),
                heartbeat: Off::off(),
                errors: Off::off(),
                farewell: Off::off(),
                idle_timeout: Off::off(),
                chunk_span: Off::off(),
                sequence: Off::off(),
                verify: Off::off(),
            },
            resume: Identity::new(),
        }
    }
}

impl Default for StreamStack {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, R> StreamStack<C, R> {
    /// Sets the layer for request ids. Default: enabled; the id is taken from `x-request-id` or generated.
    #[cfg(feature = "ids")]
    pub fn request_id(mut self, layer: RequestIdLayer) -> Self {
        self.outside.request_id = layer;
        self
    }

    /// Sets the layer for request spans. Default: enabled.
    #[cfg(feature = "trace")]
    pub fn request_span(mut self, layer: RequestSpanLayer) -> Self {
        self.outside.request_span = layer;
        self
    }

    /// Sets the layer that measures streams. Default: disabled, because it needs a meter.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, layer: StreamMetricsLayer) -> Self {
        self.outside.metrics = layer;
        self
    }

    /// Names the dialect of the responses: their end, their errors and farewells, and every error response, the drain's 503
    /// included, have its form. A handler overrules it for one response by a [`Dialect`](tower_stream_core::Dialect) in the
    /// response extensions. Default: off, each stream speaks the plain dialect of its kind.
    ///
    /// ```
    /// use tower_stream::{StreamStack, core::Dialect, errors::DialectLayer};
    ///
    /// let stack = StreamStack::new().dialect(DialectLayer::new(Dialect::OPENAI_CHAT).under("/v1/"));
    /// # drop(stack);
    /// ```
    #[cfg(feature = "errors")]
    pub fn dialect(mut self, layer: DialectLayer) -> Self {
        self.outside.dialect = layer;
        self
    }

    /// Adds the layers of this drain: requests are admitted and counted, and streams end with a last event. Default:
    /// disabled.
    #[cfg(feature = "drain")]
    pub fn drain(mut self, drain: &Drain) -> Self {
        self.outside.drain = drain.layer();
        self.inside.farewell = drain.farewell();
        self
    }

    /// Sets the layer that ends streams during a drain, for example with another policy. Call it after
    /// [`StreamStack::drain`], which sets it too.
    #[cfg(feature = "drain")]
    pub fn farewell(mut self, layer: FarewellLayer) -> Self {
        self.inside.farewell = layer;
        self
    }

    /// Sets the layer that limits how many streams are open at once, and how many requests a client may send. Default:
    /// disabled. Inside of the drain, so that a refusal is counted and closes its connection.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_stream::{StreamStack, limit::StreamLimitLayer};
    ///
    /// let limit = StreamLimitLayer::new().streams(1_000).wait(100, Duration::from_secs(2));
    /// let stack = StreamStack::new().limit(limit.clone());
    /// assert_eq!(limit.stats().in_use, 0);
    /// # drop(stack);
    /// ```
    #[cfg(feature = "limit")]
    pub fn limit(mut self, layer: StreamLimitLayer) -> Self {
        self.outside.limit = layer;
        self
    }

    /// Sets the layer that refuses requests while too many responses fail. Default: disabled. To guard each route by
    /// itself, put a [`BreakerLayer`] of its own around it instead.
    #[cfg(feature = "limit")]
    pub fn breaker(mut self, layer: BreakerLayer) -> Self {
        self.outside.breaker = layer;
        self
    }

    /// Sets the layer that guards the heads of streams. Default: enabled, for the kinds of stream that it knows.
    #[cfg(feature = "headers")]
    pub fn headers(mut self, layer: StreamHeadersLayer) -> Self {
        self.outside.headers = layer;
        self
    }

    /// Sets the layer that announces the digest of each response: `DigestLayer::md5()` or `DigestLayer::sha256()`.
    /// Default: disabled.
    #[cfg(feature = "digest")]
    pub fn digest(mut self, layer: DigestLayer) -> Self {
        self.outside.digest = layer;
        self
    }

    /// Adds a foreign layer that compresses, or changes bytes otherwise, in its place in the order. It is put into a
    /// [`CompressionSlot`], so that no digest of other bytes stays in head or trailers.
    ///
    /// ```
    /// use tower_http::compression::CompressionLayer;
    /// use tower_stream::StreamStack;
    ///
    /// let stack = StreamStack::new().compression(CompressionLayer::new());
    /// # let app: axum::Router = axum::Router::new().route("/", axum::routing::get(|| async {})).layer(stack);
    /// ```
    pub fn compression<L>(self, layer: L) -> StreamStack<CompressionSlot<L>, R> {
        StreamStack {
            outside: self.outside,
            compression: CompressionSlot::new(layer),
            inside: self.inside,
            resume: self.resume,
        }
    }

    /// Adds the layer that makes streams resumable, in its place in the order: the layers outside of it follow one reader, those inside
    /// (idle timeout, chunk spans, sequence) the producer. The stack is then no longer one wrapper, which costs some instructions per
    /// request, and the service inside must be `Clone + Send`, as those of axum are.
    ///
    /// ```
    /// use tower_stream::{StreamStack, resume::{Memory, Resume}};
    ///
    /// let resume = Resume::builder(Memory::new()).build();
    /// let stack = StreamStack::new().resume(resume.layer());
    /// # let app: axum::Router = axum::Router::new().route("/", axum::routing::get(|| async {})).layer(stack);
    /// ```
    #[cfg(feature = "resume")]
    pub fn resume(
        self,
        layer: tower_stream_resume::ResumeLayer,
    ) -> StreamStack<C, tower_stream_resume::ResumeLayer> {
        StreamStack {
            outside: self.outside,
            compression: self.compression,
            inside: self.inside,
            resume: layer,
        }
    }

    /// Sets the layer that fails a body which gives no next frame in time. Default: disabled, because only the application
    /// knows how long its streams may be silent.
    #[cfg(feature = "errors")]
    pub fn idle_timeout(mut self, layer: IdleTimeoutLayer) -> Self {
        self.inside.idle_timeout = layer;
        self
    }

    /// Sets the layer that compresses streams. Default: disabled.
    ///
    /// ```
    /// use tower_stream::{StreamStack, compress::{CompressLayer, Settings}};
    ///
    /// let compression = CompressLayer::new();
    /// let switch = compression.switch();
    /// let stack = StreamStack::new().compress(compression);
    /// switch.set(Settings::off()); // while it runs
    /// # drop(stack);
    /// ```
    #[cfg(feature = "compress")]
    pub fn compress(mut self, layer: CompressLayer) -> Self {
        self.inside.compress = layer;
        self
    }

    /// Sets the layer that joins the frames that are ready. Default: disabled, because most streams wait for each frame.
    #[cfg(feature = "coalesce")]
    pub fn coalesce(mut self, layer: CoalesceLayer) -> Self {
        self.inside.coalesce = layer;
        self
    }

    /// Sets the layer that writes heartbeats into idle streams. Default: disabled, because it changes what is sent.
    #[cfg(feature = "heartbeat")]
    pub fn heartbeat(mut self, layer: HeartbeatLayer) -> Self {
        self.inside.heartbeat = layer;
        self
    }

    /// Sets the layer that writes errors. Default: enabled, for every kind of stream that it knows.
    #[cfg(feature = "errors")]
    pub fn errors(mut self, layer: ErrorWriterLayer) -> Self {
        self.inside.errors = layer;
        self
    }

    /// Sets the layer for chunk spans. Default: enabled, with the global tracer.
    #[cfg(feature = "trace")]
    pub fn chunk_span(mut self, layer: ChunkSpanLayer) -> Self {
        self.inside.chunk_span = layer;
        self
    }

    /// Sets the layer that numbers records. Default: disabled, because it changes what is sent.
    #[cfg(feature = "ids")]
    pub fn sequence(mut self, layer: SequenceLayer) -> Self {
        self.inside.sequence = layer;
        self
    }

    /// Sets the layer that checks the digests that handlers declare: `VerifyDigestLayer::md5()`, or
    /// `VerifyDigestLayer::all()` for every known algorithm. Default: disabled.
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

#[cfg(feature = "resume")]
impl<S> Layer<S> for StreamStack<Identity, tower_stream_resume::ResumeLayer> {
    type Service = Wrapped<ProducerStack<S>, (OutsideLayers, ReaderLayers)>;

    fn layer(&self, service: S) -> Self::Service {
        let service = Wrapped::new(service, self.inside.producer());
        let service = self.resume.layer(service);
        Wrapped::new(service, (self.outside.layers(), self.inside.readers()))
    }
}

#[cfg(feature = "resume")]
impl<S, L> Layer<S> for StreamStack<CompressionSlot<L>, tower_stream_resume::ResumeLayer>
where
    CompressionSlot<L>: Layer<ReaderStack<S>>,
{
    type Service = OuterStack<<CompressionSlot<L> as Layer<ReaderStack<S>>>::Service>;

    fn layer(&self, service: S) -> Self::Service {
        let service = Wrapped::new(service, self.inside.producer());
        let service = self.resume.layer(service);
        let service = Wrapped::new(service, self.inside.readers());
        let service = self.compression.layer(service);
        Wrapped::new(service, self.outside.layers())
    }
}
