//! The layer.

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;
use tower_stream_core::{StreamKind, wrapper::Wrapped};

use crate::{
    Heartbeat,
    ticker::{TICKS, Ticker},
};

/// Writes heartbeats into idle streams, between two records. See the [crate] documentation.
///
/// # Panics
///
/// Panics if a body has to wait outside of a tokio runtime with its timer enabled.
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
    pub(crate) ticker: Ticker,
}

impl Config {
    /// The heartbeat for a stream of this kind, if the layer overrides the dialect.
    pub(crate) fn heartbeat(&self, kind: StreamKind) -> Option<&Heartbeat> {
        match kind {
            StreamKind::Sse => self.events.as_ref(),
            StreamKind::JsonLines | StreamKind::JsonSeq => self.lines.as_ref(),
            _ => None,
        }
    }
}

impl HeartbeatLayer {
    /// Longer intervals are clamped to this.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// Creates a layer that writes heartbeats into server-sent events every 15 s.
    pub fn new() -> Self {
        Self {
            config: Some(Arc::new(Config {
                interval: Duration::from_secs(15),
                events: None,
                lines: None,
                before_first: false,
                retry: None,
                ticker: Ticker::default(),
            })),
        }
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self { config: None }
    }

    /// Sets the longest time that a stream is idle. Default: 15 s. Zero disables the layer.
    ///
    /// A heartbeat is written when the handler has sent nothing for between seven eighths of the interval and the
    /// whole interval, so an idle stream has one in each interval. Choose it below the idle timeout of the proxies and
    /// clients in front, which is often 60 s.
    pub fn interval(self, interval: Duration) -> Self {
        if interval.is_zero() {
            return Self::off();
        }
        // A timer counts whole milliseconds.
        let interval = interval.clamp(Duration::from_millis(u64::from(TICKS)), Self::LONGEST);
        self.set(|config| config.interval = interval)
    }

    /// Sets the form in server-sent events of every dialect. Default: the form that clients of the response's
    /// [`Dialect`](tower_stream_core::Dialect) ignore, and [`Heartbeat::comment_unless_ids`] if none is named.
    pub fn events(self, heartbeat: Heartbeat) -> Self {
        self.set(|config| config.events = Some(heartbeat))
    }

    /// Sets the form in JSON lines and JSON text sequences. Default: none, because no form is harmless to all clients.
    /// Many skip a blank line: `Heartbeat::custom("\n")`.
    pub fn lines(self, heartbeat: Heartbeat) -> Self {
        self.set(|config| config.lines = Some(heartbeat))
    }

    /// Sets whether a heartbeat may be written before the first bytes of the handler: for models that compute for a
    /// long time before the first token. Default: no.
    ///
    /// The first bytes fix the response status. If the handler or a layer inside fails before them, it can still
    /// respond with another status; after a heartbeat it can only write an error into the stream.
    pub fn before_first(self, on: bool) -> Self {
        self.set(|config| config.before_first = on)
    }

    /// Tells the clients of server-sent events once when to reconnect after a lost connection: a `retry:` line in the
    /// first event, with a random time between `after` and 1.5 times `after`. Default: no `retry:`.
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
