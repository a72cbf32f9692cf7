use std::{borrow::Cow, fmt, sync::Arc};

use http::{Extensions, Request, Uri};
use opentelemetry::metrics::Meter;
use tower_layer::Layer;
use tower_stream_core::{
    Claim, Exchange, matched_route,
    wrapper::{Begin, Hook, Wrapped},
};

use crate::{
    instruments::Instruments,
    route::{PerFrame, Route, Routes},
    stream::Stream,
};

/// Measures every response until its body has ended. The [crate] documentation lists the instruments.
///
/// Cloning is cheap, and all clones record to the same instruments. If a request passes two of these layers, only the
/// outer one measures it.
#[derive(Clone, Debug)]
pub struct StreamMetricsLayer {
    shared: Option<Arc<Shared>>,
}

#[derive(Clone)]
struct NameRoute(Arc<NameRouteFn>);

type NameRouteFn = dyn for<'a> Fn(&'a Uri, &'a Extensions) -> Option<Cow<'a, str>> + Send + Sync;

impl fmt::Debug for NameRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameRoute")
    }
}

/// State shared by all clones of a layer.
#[derive(Debug)]
struct Shared {
    routes: Routes,
    name_route: Option<NameRoute>,
    scheme: &'static str,
}

impl Shared {
    fn route(&self, uri: &Uri, extensions: &Extensions) -> Arc<Route> {
        match &self.name_route {
            Some(NameRoute(name)) => self.routes.get(name(uri, extensions).as_deref()),
            None => self.routes.get(matched_route(extensions)),
        }
    }
}

impl StreamMetricsLayer {
    /// Creates the instruments on `meter`.
    ///
    /// Of the histograms with one value per frame, only `chunk.gap` is on.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        Self::build(Instruments::new(meter), PerFrame::default(), None, "http")
    }

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// Sets whether to record `chunk.gap` for each chunk. On by default.
    #[must_use]
    pub fn chunk_gap(self, on: bool) -> Self {
        self.per_frame(|per| per.gap = on)
    }

    /// Sets whether to record `chunk.producer_wait` for each chunk: how long the server waited for the chunk. Off by
    /// default.
    ///
    /// Costs one more clock read per chunk, which is shared with [`consumer_hold`](Self::consumer_hold).
    #[must_use]
    pub fn producer_wait(self, on: bool) -> Self {
        self.per_frame(|per| per.producer_wait = on)
    }

    /// Sets whether to record `chunk.consumer_hold` for each chunk: the time until the server polls for the next chunk
    /// or drops the body. Off by default.
    ///
    /// The server polls as long as its buffers have room, and its buffers and those of the kernel hold some megabytes.
    /// A slow client therefore shows here late. For a fast client, this is the time that the server needs to write.
    #[must_use]
    pub fn consumer_hold(self, on: bool) -> Self {
        self.per_frame(|per| per.consumer_hold = on)
    }

    /// Records each frame through bound instruments, which look up their series once per route instead of once per
    /// frame.
    ///
    /// Experimental, as OpenTelemetry's API for it is. With a meter of another crate than `opentelemetry_sdk`, whose
    /// instruments may not support binding, per-frame measurements can be lost.
    #[cfg(feature = "bound-instruments")]
    #[must_use]
    pub fn bound(self, on: bool) -> Self {
        self.per_frame(|per| per.bound = on)
    }

    /// Sets the function that names the route of a request, in place of axum's `MatchedPath`. Use this for servers
    /// without axum's router, gRPC servers for example.
    ///
    /// `None` counts as [`UNMATCHED`](crate::names::UNMATCHED). Return names that the program chose. If a client can
    /// choose them (paths, for example), the first 1000 are kept and all others count as unmatched. Only the first 80
    /// have `chunk.index_bucket` on `chunk.gap`; each later one has a single series there.
    ///
    /// ```
    /// use tower_stream_metrics::StreamMetricsLayer;
    /// # let meter = opentelemetry::global::meter("docs");
    ///
    /// let layer = StreamMetricsLayer::new(&meter).route(|uri, _| {
    ///     let known = ["/chat.Chat/Complete", "/chat.Chat/Watch"];
    ///     known.into_iter().find(|route| *route == uri.path()).map(Into::into)
    /// });
    /// ```
    #[must_use]
    pub fn route<F>(self, name: F) -> Self
    where
        F: for<'a> Fn(&'a Uri, &'a Extensions) -> Option<Cow<'a, str>> + Send + Sync + 'static,
    {
        let Some(shared) = self.shared else {
            return self;
        };
        Self::build(
            shared.routes.instruments().clone(),
            shared.routes.per_frame(),
            Some(NameRoute(Arc::new(name))),
            shared.scheme,
        )
    }

    /// Sets `url.scheme` for requests whose URI has no scheme, as in HTTP/1. Default: `http`.
    #[must_use]
    pub fn scheme(self, scheme: &'static str) -> Self {
        let Some(shared) = self.shared else {
            return self;
        };
        Self::build(
            shared.routes.instruments().clone(),
            shared.routes.per_frame(),
            shared.name_route.clone(),
            scheme,
        )
    }

    fn per_frame(self, change: impl FnOnce(&mut PerFrame)) -> Self {
        let Some(shared) = self.shared else {
            return self;
        };
        let mut per = shared.routes.per_frame();
        change(&mut per);
        Self::build(
            shared.routes.instruments().clone(),
            per,
            shared.name_route.clone(),
            shared.scheme,
        )
    }

    fn build(
        instruments: Instruments,
        per: PerFrame,
        name_route: Option<NameRoute>,
        scheme: &'static str,
    ) -> Self {
        Self {
            shared: Some(Arc::new(Shared {
                routes: Routes::new(instruments, per),
                name_route,
                scheme,
            })),
        }
    }
}

impl<S> Layer<S> for StreamMetricsLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for StreamMetricsLayer {
    type Stage = Box<Stream>;

    #[inline]
    fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    fn on_request<B>(&self, request: &mut Request<B>, exchange: &Exchange) -> Begin<Box<Stream>> {
        match &self.shared {
            Some(shared) if exchange.claim(Claim::Metrics) => {
                let route = shared.route(request.uri(), request.extensions());
                Begin::Follow(Box::new(Stream::begin(route, request, shared.scheme)))
            }
            _ => Begin::Pass,
        }
    }
}
