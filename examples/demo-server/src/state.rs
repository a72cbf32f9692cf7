//! What handlers and layers share.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{Args, metrics::Metrics};

/// Shared by both listeners; a clone is another handle to the same state.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) args: Arc<Args>,
    pub(crate) metrics: Metrics,
    stopping: Arc<AtomicBool>,
}

impl State {
    /// The state of a server that has just started.
    ///
    /// # Errors
    ///
    /// When the directory of `--files` cannot be resolved; the message names it. When the metrics cannot be set up.
    pub fn new(mut args: Args) -> io::Result<Self> {
        if let Some(files) = &mut args.files {
            // `/files` compares resolved paths with it.
            *files = files.canonicalize().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("--files {}: {error}", files.display()),
                )
            })?;
        }
        Ok(Self {
            args: Arc::new(args),
            metrics: Metrics::new()?,
            stopping: Arc::default(),
        })
    }

    /// Whether the server is on its way down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Marks the server as on its way down: `/readyz` answers 503 from now on.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}
