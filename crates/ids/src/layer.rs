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

/// The default header of the request id.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Assigns an id and a sequence to every request, and makes both available while it is served.
///
/// For each request, in `Service::call`:
///
/// * The id is the first valid one in the request header (`x-request-id`), or a new one.
///   [`RequestId`](crate::RequestId) defines which ids are valid: 1 to 128 of `[A-Za-z0-9._+/=@-]`. By default the
///   layer accepts a valid id from every client; [`trust`](Self::trust) restricts this.
/// * The request header then contains the id exactly once, so that a proxy inside forwards it. The extractors
///   [`RequestId`](crate::RequestId) and [`Sequence`](crate::Sequence) and the other layers find both in the
///   [`Exchange`](tower_stream_core::Exchange) of the request. A second `RequestIdLayer` inside keeps those of the
///   first.
/// * A [`RequestScope`](crate::RequestScope) is entered for the call, and for every poll and the drop of the future and
///   of the body.
///
/// The response contains the header exactly once: a value set by the handler or an upstream is replaced, so that the
/// client always gets the id that is in the log lines. This includes every response made inside of this layer, so put
/// it outermost, outside of layers that turn errors into responses. If the inner service returns an `Err`, there is no
/// response to add a header to.
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
    /// `None` is [`MakeUuidV4`](crate::MakeUuidV4), which does not need the request head.
    pub(crate) make: Option<Arc<dyn MakeRequestId>>,
    pub(crate) replaced: Arc<AtomicU64>,
}

/// The requests whose inbound id the [`RequestIdLayer`] accepts, if it is valid.
///
/// The default is every request. A valid id cannot forge a header or a log line. An untrusted client can only choose
/// the id under which its own request is logged: it can send the same id twice, or the id of another client's request
/// if it knows that. If this matters, for example on a public edge whose ids are keys of an audit log, use
/// [`Trust::Never`], or [`Trust::When`] for requests from your own proxy.
#[derive(Clone, Default)]
pub enum Trust {
    /// Every request.
    #[default]
    Always,
    /// No request. Each one gets a new id.
    Never,
    /// Requests for which this function returns true. It may, for example, check a peer address in the extensions.
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl Trust {
    /// Creates [`Trust::When`] from a closure. The closure runs in `Service::call` and must not block.
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
    /// Accepts a valid `x-request-id` from every client. Other requests get a random UUID.
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

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Enables or disables the layer.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config_mut().enabled = enabled;
        self
    }

    /// Sets the header that carries the id, in requests and responses.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.config_mut().header = name;
        self
    }

    /// Sets the requests whose inbound id is accepted. Default: [`Trust::Always`], every request with a valid id.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config_mut().trust = trust;
        self
    }

    /// Sets how new ids are made.
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
