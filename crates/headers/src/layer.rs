//! The layer.

use std::{fmt, sync::Arc};

use http::response::Parts;
use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

pub(crate) type OnlyIf = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// Gives the heads of streams what lets them pass every proxy and cache live. See the [crate] for the fields.
///
/// By default these are the responses whose content type is that of server-sent events, of JSON lines, of a JSON text
/// sequence or of gRPC-Web, also under a content coding. gRPC itself has no use for the fields: whatever proxy forwards it
/// knows that it streams. A response with status 101 is never touched.
///
/// Put it outside of a compression and of whatever may replace a head, and inside of a drain.
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct StreamHeadersLayer {
    on: bool,
    only_if: Option<OnlyIf>,
}

impl StreamHeadersLayer {
    /// The layer with its defaults.
    pub const fn new() -> Self {
        Self {
            on: true,
            only_if: None,
        }
    }

    /// A layer of the same type that does nothing.
    pub const fn off() -> Self {
        Self {
            on: false,
            only_if: None,
        }
    }

    /// Which responses are streams, in place of the kinds above: for a download that a proxy must not collect, say, or to
    /// leave a route as it is.
    ///
    /// `wanted` runs once a response, when its head is there.
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
