//! [`ErrorWriterLayer`] and its settings.

use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use http::Request;
use tower_layer::Layer;
use tower_stream_core::{
    Exchange, RecordHold,
    wrapper::{Begin, Hook, Wrapped},
};

use crate::{DefaultWriter, ErrorWriterStage, WriteError, context::Context};

/// Ends every failed response well: see the [crate documentation](crate).
///
/// `poll_ready` is passed through: a panic there has no request that it could be told to. So is an `Err` of the inner
/// service, which is no response yet: turn it into one inside (axum's `HandleErrorLayer`).
///
/// Clones share their settings. [`ErrorWriterLayer::off`] gives a layer of the same type that does nothing.
#[derive(Clone, Debug)]
pub struct ErrorWriterLayer {
    /// `None`: off
    config: Option<Arc<Config>>,
}

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) writer: Arc<dyn WriteError>,
    pub(crate) after_tail: AfterTail,
    pub(crate) first_poll: bool,
    pub(crate) hold_cap: usize,
    pub(crate) expose_messages: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("after_tail", &self.after_tail)
            .field("first_poll", &self.first_poll)
            .field("hold_cap", &self.hold_cap)
            .field("expose_messages", &self.expose_messages)
            .finish_non_exhaustive()
    }
}

/// How long a body waits before it fails, so that what it gave before is flushed: see [`AfterTail::Abort`].
pub(crate) const SETTLE: Duration = Duration::from_millis(25);

/// What follows a last record that was written into a failed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AfterTail {
    /// A clean end. The record itself says that the stream failed, and it is always delivered.
    #[default]
    End,
    /// A failure: the response is truncated (h1) or reset (h2), so that a client that does not understand the record
    /// sees it too. A server drops what it has not flushed when a body fails, so the body stays pending for `settle`
    /// first. 25 ms are enough for a peer that reads; nothing is enough for one that does not.
    Abort {
        /// How long to wait between the record and the failure.
        settle: Duration,
    },
}

impl AfterTail {
    /// [`AfterTail::Abort`] after 25 ms.
    #[must_use]
    pub const fn abort() -> Self {
        Self::Abort { settle: SETTLE }
    }
}

impl Default for ErrorWriterLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl ErrorWriterLayer {
    /// The [`DefaultWriter`], [`AfterTail::End`], at most 64 KiB of an open record held, nothing disclosed.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Some(Arc::new(Config {
                writer: Arc::new(DefaultWriter),
                after_tail: AfterTail::End,
                first_poll: true,
                hold_cap: RecordHold::DEFAULT_CAP,
                expose_messages: false,
            })),
        }
    }

    /// A layer that passes everything through, panics included. Settings made on it are ignored.
    #[must_use]
    pub fn off() -> Self {
        Self { config: None }
    }

    /// Writes failures with `writer`.
    #[must_use]
    pub fn writer(self, writer: impl WriteError) -> Self {
        let writer = Arc::new(writer);
        self.set(|config| config.writer = writer)
    }

    /// What follows a last record. Default: [`AfterTail::End`].
    #[must_use]
    pub fn after_tail(self, after_tail: AfterTail) -> Self {
        self.set(|config| config.after_tail = after_tail)
    }

    /// Whether to poll a body once before its head is released, so that a failure found there still gets a status of
    /// its own. Default: true.
    #[must_use]
    pub fn first_poll(self, first_poll: bool) -> Self {
        self.set(|config| config.first_poll = first_poll)
    }

    /// How many bytes of an open record are held at most, a response. A longer record is let through as it comes; if
    /// the stream fails within it, it is aborted. Default: 64 KiB.
    #[must_use]
    pub fn hold_cap(self, bytes: usize) -> Self {
        self.set(|config| config.hold_cap = bytes)
    }

    /// Whether clients are told what the error or the panic said. For development only. Default: false.
    #[must_use]
    pub fn expose_messages(self, expose: bool) -> Self {
        self.set(|config| config.expose_messages = expose)
    }

    fn set(self, change: impl FnOnce(&mut Config)) -> Self {
        let config = self.config.map(|config| {
            let mut config = Arc::unwrap_or_clone(config);
            change(&mut config);
            Arc::new(config)
        });
        Self { config }
    }
}

impl<S> Layer<S> for ErrorWriterLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        static WARNED: Once = Once::new();
        if cfg!(panic = "abort") && self.config.is_some() {
            WARNED.call_once(|| {
                tracing::warn!(
                    target: "tower_stream_errors",
                    "built with panic=abort: a panic ends the process, no layer can catch it"
                );
            });
        }
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for ErrorWriterLayer {
    type Stage = ErrorWriterStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.config.is_none()
    }

    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<ErrorWriterStage> {
        let Some(config) = &self.config else {
            return Begin::Pass;
        };
        #[cfg(feature = "axum")]
        tower_stream_core::mark_upload(request.body_mut());
        let context = Context::new(config, request, exchange);
        Begin::Follow(ErrorWriterStage::new(context))
    }
}
