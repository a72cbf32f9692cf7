//! Configuration of the request id.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderName, request::Parts};
use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use crate::MakeRequestId;

/// The header that an id travels in unless another is named.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives every request an id and a sequence, and keeps both at hand while it is served.
///
/// For each request, in `Service::call`:
///
/// * the id is the first valid one in the header (`x-request-id`) of the request, or a new one. Valid is what
///   [`RequestId`](crate::RequestId) accepts: 1 to 128 of `[A-Za-z0-9._+/=@-]`. By default the layer takes a valid id
///   from every client; [`trust`](Self::trust) restricts that;
/// * the request header has the id exactly once, so that a proxy inside forwards it. The extractors
///   [`RequestId`](crate::RequestId) and [`Sequence`](crate::Sequence) and the other layers find both in the
///   [`Exchange`](tower_stream_core::Exchange) of the request. A second `RequestIdLayer` inside keeps those of the
///   first;
/// * a [`RequestScope`](crate::RequestScope) is entered for the call, and for every poll and the drop of the future
///   and of the body.
///
/// The response carries the header exactly once: a value that the handler or an upstream set is replaced, so that the
/// client always has the id of the log lines. That holds for every response that is made inside of this layer, so put
/// it outermost, outside of layers that turn errors into responses. When the inner service returns an `Err`, there is
/// no head to write to.
///
/// ```
/// use axum::{Router, body::Body, routing::get};
/// use tower::ServiceExt;
/// use tower_stream_ids::{RequestId, RequestIdLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let app = Router::new()
///     .route("/", get(|id: RequestId| async move { id.to_string() }))
///     .layer(RequestIdLayer::new());
/// let request = http::Request::get("/").header("x-request-id", "order-17");
/// let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
/// assert_eq!(response.headers()["x-request-id"], "order-17");
/// # }
/// ```
#[derive(Clone)]
pub struct RequestIdLayer {
    pub(crate) config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) enabled: bool,
    pub(crate) header: HeaderName,
    pub(crate) trust: Trust,
    /// `None` is [`MakeUuidV4`](crate::MakeUuidV4), which does not look at the request.
    pub(crate) make: Option<Arc<dyn MakeRequestId>>,
    pub(crate) replaced: Arc<AtomicU64>,
}

/// The requests whose inbound id the [`RequestIdLayer`] takes, if it is valid.
///
/// The default is every request. A valid id can forge neither a header nor a log line, so an untrusted client gains only
/// the choice of the id under which its own request is logged: it can use the same id twice, or the id of another
/// client's request if it knows that. Where that is too much, as on a public edge whose ids are keys of an audit log,
/// use [`Trust::Never`], or [`Trust::When`] for requests of your own proxy.
#[derive(Clone, Default)]
pub enum Trust {
    /// Every request.
    #[default]
    Always,
    /// No request: each gets a new id.
    Never,
    /// Requests for which this is true, after looking at a peer address in the extensions, say.
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl Trust {
    /// [`Trust::When`], of a closure. It runs in `Service::call` and must not block.
    ///
    /// ```
    /// use tower_stream_ids::{RequestIdLayer, Trust};
    ///
    /// let from_the_gateway = Trust::when(|head| head.headers.contains_key("x-gateway"));
    /// let layer = RequestIdLayer::new().trust(from_the_gateway);
    /// # let _ = layer;
    /// ```
    pub fn when(trusted: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::When(Arc::new(trusted))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "Always",
            Self::Never => "Never",
            Self::When(_) => "When(..)",
        })
    }
}

impl RequestIdLayer {
    /// Takes a valid id of `x-request-id` from every client, and makes random UUIDs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                enabled: true,
                header: X_REQUEST_ID,
                trust: Trust::Always,
                make: None,
                replaced: Arc::default(),
            }),
        }
    }

    /// A layer that does nothing, for a stack whose type must not change.
    #[must_use]
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Whether the layer does anything.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config_mut().enabled = enabled;
        self
    }

    /// The header that carries the id, in requests and responses.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.config_mut().header = name;
        self
    }

    /// The requests whose inbound id is taken. Default: [`Trust::Always`], every request with a valid id.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config_mut().trust = trust;
        self
    }

    /// Where new ids come from.
    #[must_use]
    pub fn make(mut self, make: impl MakeRequestId) -> Self {
        self.config_mut().make = Some(Arc::new(make));
        self
    }

    /// How many requests that [`Trust`] admits had their inbound id replaced because it was not valid. All clones of
    /// this layer and its services count together. Each is also one `debug` event with target `tower_stream_ids`, which
    /// gives the reason and does not repeat the id.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.config.replaced.load(Ordering::Relaxed)
    }

    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl Default for RequestIdLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl fmt::Debug for RequestIdLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestIdLayer")
            .field("enabled", &self.config.enabled)
            .field("header", &self.config.header)
            .field("trust", &self.config.trust)
            .field("replaced", &self.replaced())
            .finish_non_exhaustive()
    }
}
