use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use http::{Request, request};
use opentelemetry::{
    Context, KeyValue, StringValue, Value,
    trace::{Span as _, SpanBuilder, Tracer},
};
use tower_layer::Layer;
use tower_stream_core::{
    Exchange,
    wrapper::{Begin, Hook, Wrapped},
};

use super::{
    ChunkSelection,
    stage::{Call, ChunkSpans},
};
use crate::{attribute, parent::Parent};

/// Adds an OpenTelemetry span for each selected chunk (data frame) of a response body.
///
/// A chunk span is a child of the span that is current when the layer is called: the request span of
/// [`RequestSpanLayer`](crate::RequestSpanLayer), of tower-http's `TraceLayer`, or any other tracing span under
/// tracing-opentelemetry; without a tracing span, the current OpenTelemetry context. Without a parent, or with one that
/// is not sampled, there are no chunk spans: a frame then costs the test of one flag.
///
/// The spans are built directly on the OpenTelemetry API: there is no tracing span, and no subscriber sees them. A span
/// starts at the first poll for its chunk and ends when the chunk is ready. It is built one poll later, when the time
/// for which the chunk was held is known; the last one is built when the body ends or is dropped.
///
/// [`attribute`] lists the attributes. `sequence_id`, and a `stream.id` that is the request id, require the layers of
/// `tower-stream-ids` outside of this one. If the layer is applied twice, only the inner one is active.
///
/// ```
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use opentelemetry::trace::TracerProvider;
/// use tower_stream_trace::{ChunkSelection, ChunkSpanLayer};
///
/// let provider = SdkTracerProvider::builder().build();
/// let layer = ChunkSpanLayer::new(provider.tracer("chunks")).select(ChunkSelection::default());
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct ChunkSpanLayer {
    config: Option<Arc<Config>>,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) tracer: Arc<dyn Emit>,
    pub(super) name: Cow<'static, str>,
    pub(super) selection: ChunkSelection,
    pub(super) attributes: Option<Arc<AttributesOf>>,
    pub(super) event: bool,
    pub(super) genai: bool,
}

type AttributesOf = dyn Fn(&request::Parts) -> Vec<KeyValue> + Send + Sync;

impl ChunkSpanLayer {
    /// Creates chunk spans with this tracer, for the default [`ChunkSelection`].
    ///
    /// If the provider is shut down, the layer stops creating spans.
    pub fn new<T>(tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
    {
        Self {
            config: Some(Arc::new(Config {
                tracer: Arc::new(tracer),
                name: Cow::Borrowed(attribute::CHUNK_SPAN),
                selection: ChunkSelection::default(),
                attributes: None,
                event: false,
                genai: false,
            })),
        }
    }

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self { config: None }
    }

    /// Sets which chunks get a span.
    #[must_use]
    pub fn select(self, selection: ChunkSelection) -> Self {
        self.with(|config| config.selection = selection)
    }

    /// Sets the name of chunk spans. Default: [`CHUNK_SPAN`](attribute::CHUNK_SPAN).
    #[must_use]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.with(|config| config.name = name.into())
    }

    /// Sets attributes for every chunk span of a request, a tenant for example.
    ///
    /// The function runs once per request, when the layer is called, unless the request is known to be unsampled. A
    /// handler adds attributes that only it knows as [`ChunkAttributes`].
    #[must_use]
    pub fn with_attributes(
        self,
        attributes: impl Fn(&request::Parts) -> Vec<KeyValue> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.attributes = Some(Arc::new(attributes)))
    }

    /// Sets whether a chunk span has the event [`CHUNK_EVENT`](attribute::CHUNK_EVENT), at the time at which the chunk
    /// was passed on. Default: false.
    #[must_use]
    pub fn with_event(self, event: bool) -> Self {
        self.with(|config| config.event = event)
    }

    /// Declares that each chunk is one token of a generative model, and adds the times under the names of the GenAI
    /// conventions: [`GEN_AI_TIME_TO_FIRST_TOKEN`](attribute::GEN_AI_TIME_TO_FIRST_TOKEN) and
    /// [`GEN_AI_TIME_PER_OUTPUT_TOKEN`](attribute::GEN_AI_TIME_PER_OUTPUT_TOKEN).
    #[must_use]
    pub fn genai(self) -> Self {
        self.with(|config| config.genai = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Some(config) = &mut self.config {
            change(Arc::make_mut(config));
        }
        self
    }
}

impl<S> Layer<S> for ChunkSpanLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for ChunkSpanLayer {
    type Stage = ChunkSpans;

    #[inline]
    fn is_off(&self) -> bool {
        let selects = |config: &Config| config.selection.max_per_stream > 0;
        !self.config.as_deref().is_some_and(selects)
    }

    #[inline]
    fn on_request<B>(&self, request: &mut Request<B>, exchange: &Exchange) -> Begin<ChunkSpans> {
        let config = self.config.as_ref().filter(|_| !self.is_off());
        match (config, config.and_then(|_| Parent::of_call(exchange))) {
            (Some(config), Some(parent)) => {
                let attributes = config.attributes.as_deref();
                let attributes = attributes.map(|of| with_parts(request, of));
                let attributes = attributes.unwrap_or_default();
                Begin::Follow(Call::begin(Arc::clone(config), parent, attributes).into())
            }
            _ => Begin::Pass,
        }
    }
}

/// Calls `show` with the head of a request, without its body.
fn with_parts<B, T>(request: &mut Request<B>, show: impl FnOnce(&request::Parts) -> T) -> T {
    let (mut parts, ()) = Request::new(()).into_parts();
    let mut swap = |parts: &mut request::Parts| {
        std::mem::swap(&mut parts.method, request.method_mut());
        std::mem::swap(&mut parts.uri, request.uri_mut());
        std::mem::swap(&mut parts.version, request.version_mut());
        std::mem::swap(&mut parts.headers, request.headers_mut());
        std::mem::swap(&mut parts.extensions, request.extensions_mut());
    };
    swap(&mut parts);
    let shown = show(&parts);
    swap(&mut parts);
    shown
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("selection", &self.selection)
            .field("event", &self.event)
            .field("genai", &self.genai)
            .finish_non_exhaustive()
    }
}

/// Attributes for every chunk span of one response, which the handler inserts into the response extensions.
///
/// For values that are known only after the request body is read, the name of a model for example.
///
/// ```
/// use http::Response;
/// use opentelemetry::KeyValue;
/// use tower_stream_trace::ChunkAttributes;
///
/// let mut response = Response::new(());
/// response
///     .extensions_mut()
///     .insert(ChunkAttributes::new([KeyValue::new("gen_ai.request.model", "alice-1")]));
/// ```
#[derive(Clone, Debug)]
pub struct ChunkAttributes(pub(super) Vec<KeyValue>);

impl ChunkAttributes {
    /// Creates a set of attributes.
    pub fn new(attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        Self(attributes.into_iter().collect())
    }
}

/// Makes a value that is cloned for every chunk cheap to clone.
pub(super) fn shared(mut attribute: KeyValue) -> KeyValue {
    if let Value::String(text) = attribute.value {
        let text: Arc<str> = text.as_str().into();
        attribute.value = Value::String(StringValue::from(text));
    }
    attribute
}

/// A tracer of any type, which emits a finished span at once. Spans are never boxed.
pub(super) trait Emit: Send + Sync {
    fn emit(&self, span: SpanBuilder, parent: &Context, end: SystemTime);
}

impl<T: Tracer + Send + Sync> Emit for T {
    fn emit(&self, span: SpanBuilder, parent: &Context, end: SystemTime) {
        self.build_with_context(span, parent)
            .end_with_timestamp(end);
    }
}
