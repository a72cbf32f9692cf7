//! The layer.

use std::{fmt, sync::Arc};

use http::response::Parts;
use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

pub(crate) type OnlyIf = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// Sets the response headers that make proxies and caches pass a stream on at once. The [crate] documentation lists
/// them.
///
/// By default, the layer changes responses whose content type is server-sent events, JSON lines, a JSON text sequence
/// or gRPC-Web, also with a content coding. gRPC itself does not need these headers, because every proxy that forwards
/// it streams it. A response with status 101 is never changed.
///
/// Put the layer outside of compression and of layers that replace a response head, and inside of a drain.
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct StreamHeadersLayer {
    on: bool,
    only_if: Option<OnlyIf>,
}

impl StreamHeadersLayer {
    /// Creates the layer with its defaults.
    pub const fn new() -> Self {
        Self {
            on: true,
            only_if: None,
        }
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self {
            on: false,
            only_if: None,
        }
    }

    /// Sets which responses count as streams, in place of the kinds above: for example, to include a download that
    /// proxies must not buffer, or to exclude a route.
    ///
    /// `wanted` runs once per response, when its head arrives.
    ///
    /// ```
    /// use http::header::CONTENT_TYPE;
    /// use tower_stream_headers::StreamHeadersLayer;
    ///
    /// let layer = StreamHeadersLayer::new()
    ///     .only_if(|head| head.headers.get(CONTENT_TYPE).is_some_and(|value| value == "text/csv"));
    /// # drop(layer);
    /// ```
    pub fn only_if(mut self, wanted: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.only_if = Some(Arc::new(wanted));
        self
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn wanted(&self) -> Option<OnlyIf> {
        self.only_if.clone()
    }
}

impl Default for StreamHeadersLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for StreamHeadersLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl fmt::Debug for StreamHeadersLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHeadersLayer")
            .field("on", &self.on)
            .field("only_if", &self.only_if.is_some())
            .finish()
    }
}
