//! All layers, in the order that works.

use tower_layer::{Identity, Layer};
#[cfg(any(
    feature = "drain",
    feature = "errors",
    feature = "ids",
    feature = "metrics",
    feature = "trace"
))]
use tower_stream_core::wrapper::Wrapped;

use crate::CompressionSlot;

#[cfg(feature = "digest")]
use tower_stream_digest::{DigestLayer, DigestService, VerifyDigestLayer, VerifyDigestService};
#[cfg(feature = "drain")]
use tower_stream_drain::{Drain, DrainLayer, FarewellLayer};
#[cfg(feature = "errors")]
use tower_stream_errors::ErrorWriterLayer;
#[cfg(feature = "ids")]
use tower_stream_ids::{RequestIdLayer, SequenceLayer};
#[cfg(feature = "metrics")]
use tower_stream_metrics::StreamMetricsLayer;
#[cfg(feature = "trace")]
use tower_stream_trace::{ChunkSpanLayer, RequestSpanLayer};

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
    #[cfg(feature = "ids")]
    request_id: RequestIdLayer,
    #[cfg(feature = "trace")]
    request_span: RequestSpanLayer,
    #[cfg(feature = "metrics")]
    metrics: StreamMetricsLayer,
    #[cfg(feature = "drain")]
    drain: DrainLayer,
    #[cfg(feature = "digest")]
    digest: DigestLayer,
    compression: C,
    #[cfg(feature = "errors")]
    errors: ErrorWriterLayer,
    #[cfg(feature = "drain")]
    farewell: FarewellLayer,
    #[cfg(feature = "trace")]
    chunk_span: ChunkSpanLayer,
    #[cfg(feature = "ids")]
    sequence: SequenceLayer,
    #[cfg(feature = "digest")]
    verify: VerifyDigestLayer,
}

/// Names the service that a layer makes, or the service itself where the layer's feature is off.
macro_rules! wrapped {
    ($($feature:literal $name:ident<$s:ident> = $service:ty;)*) => {$(
        #[cfg(feature = $feature)]
        type $name<$s> = $service;
        #[cfg(not(feature = $feature))]
        type $name<$s> = $s;
    )*};
}

wrapped! {
    "ids" Identified<S> = Wrapped<S, RequestIdLayer>;
    "trace" Spanned<S> = Wrapped<S, RequestSpanLayer>;
    "metrics" Measured<S> = Wrapped<S, StreamMetricsLayer>;
    "drain" Drained<S> = Wrapped<S, DrainLayer>;
    "digest" Digested<S> = DigestService<S>;
    "errors" Written<S> = Wrapped<S, ErrorWriterLayer>;
    "drain" Farewelled<S> = Wrapped<S, FarewellLayer>;
    "trace" Chunked<S> = Wrapped<S, ChunkSpanLayer>;
    "ids" Sequenced<S> = Wrapped<S, SequenceLayer>;
    "digest" Verified<S> = VerifyDigestService<S>;
}

/// The layers inside of the compression, around a service.
pub type Inner<S> = Written<Farewelled<Chunked<Sequenced<Verified<S>>>>>;

/// The layers outside of the compression, around a service.
pub type Whole<S> = Identified<Spanned<Measured<Drained<Digested<S>>>>>;

impl StreamStack {
    /// The stack with its defaults: request ids, request spans, chunk spans by the global tracer, and the error writer.
    ///
    /// The global tracer is looked up now: set the provider first. Without one, chunk spans cost nothing.
    pub fn new() -> Self {
        Self {
            #[cfg(feature = "ids")]
            request_id: RequestIdLayer::new(),
            #[cfg(feature = "trace")]
            request_span: RequestSpanLayer::new(),
            #[cfg(feature = "trace")]
            chunk_span: ChunkSpanLayer::new(opentelemetry::global::tracer("tower-stream")),
            #[cfg(feature = "errors")]
            errors: ErrorWriterLayer::new(),
            ..Self::off()
        }
    }

    /// The stack with every layer off, to switch on some: bytes and heads pass untouched.
    pub fn off() -> Self {
        Self {
            #[cfg(feature = "ids")]
            request_id: RequestIdLayer::off(),
            #[cfg(feature = "trace")]
            request_span: RequestSpanLayer::off(),
            #[cfg(feature = "metrics")]
            metrics: StreamMetricsLayer::off(),
            #[cfg(feature = "drain")]
            drain: DrainLayer::off(),
            #[cfg(feature = "digest")]
            digest: DigestLayer::off(),
            compression: Identity::new(),
            #[cfg(feature = "errors")]
            errors: ErrorWriterLayer::off(),
            #[cfg(feature = "drain")]
            farewell: FarewellLayer::off(),
            #[cfg(feature = "trace")]
            chunk_span: ChunkSpanLayer::off(),
            #[cfg(feature = "ids")]
            sequence: SequenceLayer::off(),
            #[cfg(feature = "digest")]
            verify: VerifyDigestLayer::off(),
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
        self.request_id = layer;
        self
    }

    /// Request spans as this layer makes them. Default: on.
    #[cfg(feature = "trace")]
    pub fn request_span(mut self, layer: RequestSpanLayer) -> Self {
        self.request_span = layer;
        self
    }

    /// Measures streams. Default: off, for it needs a meter.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, layer: StreamMetricsLayer) -> Self {
        self.metrics = layer;
        self
    }

    /// Takes part in this drain: requests are admitted and counted, streams get their farewell. Default: off.
    #[cfg(feature = "drain")]
    pub fn drain(self, drain: &Drain) -> Self {
        let farewell = drain.farewell();
        Self {
            drain: drain.layer(),
            ..self
        }
        .farewell(farewell)
    }

    /// Ends streams as this layer does, with a policy of its own say. After [`StreamStack::drain`], which sets it too.
    #[cfg(feature = "drain")]
    pub fn farewell(mut self, layer: FarewellLayer) -> Self {
        self.farewell = layer;
        self
    }

    /// Announces the digest of what is sent: `DigestLayer::md5()`, `DigestLayer::sha256()`. Default: off.
    #[cfg(feature = "digest")]
    pub fn digest(mut self, layer: DigestLayer) -> Self {
        self.digest = layer;
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
            #[cfg(feature = "ids")]
            request_id: self.request_id,
            #[cfg(feature = "trace")]
            request_span: self.request_span,
            #[cfg(feature = "metrics")]
            metrics: self.metrics,
            #[cfg(feature = "drain")]
            drain: self.drain,
            #[cfg(feature = "digest")]
            digest: self.digest,
            compression: CompressionSlot::new(layer),
            #[cfg(feature = "errors")]
            errors: self.errors,
            #[cfg(feature = "drain")]
            farewell: self.farewell,
            #[cfg(feature = "trace")]
            chunk_span: self.chunk_span,
            #[cfg(feature = "ids")]
            sequence: self.sequence,
            #[cfg(feature = "digest")]
            verify: self.verify,
        }
    }

    /// Writes errors as this layer does. Default: on, for every kind of stream that it knows.
    #[cfg(feature = "errors")]
    pub fn errors(mut self, layer: ErrorWriterLayer) -> Self {
        self.errors = layer;
        self
    }

    /// Chunk spans as this layer makes them. Default: by the global tracer.
    #[cfg(feature = "trace")]
    pub fn chunk_span(mut self, layer: ChunkSpanLayer) -> Self {
        self.chunk_span = layer;
        self
    }

    /// Stamps records with ids. Default: off, for it changes what is sent.
    #[cfg(feature = "ids")]
    pub fn sequence(mut self, layer: SequenceLayer) -> Self {
        self.sequence = layer;
        self
    }

    /// Checks the digests that handlers promise: `VerifyDigestLayer::md5()`, `VerifyDigestLayer::all()` for each algorithm
    /// that is known. Default: off.
    #[cfg(feature = "digest")]
    pub fn verify(mut self, layer: VerifyDigestLayer) -> Self {
        self.verify = layer;
        self
    }
}

impl<S, C> Layer<S> for StreamStack<C>
where
    C: Layer<Inner<S>>,
{
    type Service = Whole<C::Service>;

    fn layer(&self, service: S) -> Self::Service {
        #[cfg(feature = "digest")]
        let service = self.verify.layer(service);
        #[cfg(feature = "ids")]
        let service = self.sequence.layer(service);
        #[cfg(feature = "trace")]
        let service = self.chunk_span.layer(service);
        #[cfg(feature = "drain")]
        let service = self.farewell.layer(service);
        #[cfg(feature = "errors")]
        let service = self.errors.layer(service);
        let service = self.compression.layer(service);
        #[cfg(feature = "digest")]
        let service = self.digest.layer(service);
        #[cfg(feature = "drain")]
        let service = self.drain.layer(service);
        #[cfg(feature = "metrics")]
        let service = self.metrics.layer(service);
        #[cfg(feature = "trace")]
        let service = self.request_span.layer(service);
        #[cfg(feature = "ids")]
        let service = self.request_id.layer(service);
        service
    }
}
