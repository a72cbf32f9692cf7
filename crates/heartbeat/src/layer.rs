//! The layer.

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_stream_core::{StreamKind, wrapper::Wrapped};

use crate::Heartbeat;

/// Writes a heartbeat into a stream that is idle, between two records. See the [crate].
///
/// # Panics
///
/// A body that has to wait needs a tokio runtime with its timer enabled.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct HeartbeatLayer {
    config: Option<Arc<Config>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) interval: Duration,
    pub(crate) events: Option<Heartbeat>,
    pub(crate) lines: Option<Heartbeat>,
    pub(crate) before_first: bool,
    pub(crate) retry: Option<Duration>,
}

impl Config {
    /// What is written into a stream of this kind, where the layer overrules its dialect.
    pub(crate) fn heartbeat(&self, kind: StreamKind) -> Option<&Heartbeat> {
        match kind {
            StreamKind::Sse => self.events.as_ref(),
            StreamKind::JsonLines | StreamKind::JsonSeq => self.lines.as_ref(),
            _ => None,
        }
    }
}

impl HeartbeatLayer {
    /// Timers of years are clamped to this.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// Heartbeats of server-sent events every 15 s.
    pub fn new() -> Self {
        Self {
            config: Some(Arc::new(Config {
                interval: Duration::from_secs(15),
                events: None,
                lines: None,
                before_first: false,
                retry: None,
            })),
        }
    }

    /// A layer of the same type that does nothing.
    pub const fn off() -> Self {
        Self { config: None }
    }

    /// The longest that a stream is silent. Default: 15 s. Zero switches the layer off.
    ///
    /// A heartbeat comes when the handler has given nothing for between three quarters of it and the whole of it; an idle
    /// stream has one in each interval. Keep it below what the proxies and clients in front allow, which is 60 s for many.
    pub fn interval(self, interval: Duration) -> Self {
        if interval.is_zero() {
            return Self::off();
        }
        // a timer counts whole milliseconds
        let longest_and_shortest = Duration::from_millis(4)..=Self::LONGEST;
        let interval = interval.clamp(*longest_and_shortest.start(), *longest_and_shortest.end());
        self.set(|config| config.interval = interval)
    }

    /// What is written into server-sent events of every dialect. Default: what the clients of the response's
    /// [`Dialect`](tower_stream_core::Dialect) take, and [`Heartbeat::comment_unless_ids`] where none is named.
    pub fn events(self, heartbeat: Heartbeat) -> Self {
        self.set(|config| config.events = Some(heartbeat))
    }

    /// What is written into JSON lines and JSON text sequences. Default: nothing, for no bytes are harmless to all clients. Many
    /// skip a blank line: `Heartbeat::custom("\n")`.
    pub fn lines(self, heartbeat: Heartbeat) -> Self {
        self.set(|config| config.lines = Some(heartbeat))
    }

    /// Whether a heartbeat may come before the first bytes of the handler: for models that think long before the first token.
    /// Default: no.
    ///
    /// With the first bytes the response is decided. A handler or a layer inside that fails before them is answered with a
    /// status of its own; after a heartbeat it can only write an error into the stream.
    pub fn before_first(self, on: bool) -> Self {
        self.set(|config| config.before_first = on)
    }

    /// Tells the clients of server-sent events once when to come back after a lost connection: `retry:` as a line of the
    /// first event, between this time and one and a half times it. Default: not.
    pub fn retry(self, after: Duration) -> Self {
        self.set(|config| config.retry = Some(after))
    }

    pub(crate) fn config(&self) -> Option<&Arc<Config>> {
        self.config.as_ref()
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Some(config) = &mut self.config {
            change(Arc::make_mut(config));
        }
        self
    }
}

impl Default for HeartbeatLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for HeartbeatLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}
