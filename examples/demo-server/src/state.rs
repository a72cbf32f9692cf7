//! What handlers and layers share.

use std::{io, sync::Arc};

use tower_stream_digest::{DigestLayer, Md5};
use tower_stream_drain::Drain;
use tower_stream_ids::RequestIdLayer;

use crate::{Args, Traces, layers, metrics::Metrics};

/// Shared by both listeners; a clone is another handle to the same state.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) args: Arc<Args>,
    pub(crate) request_ids: RequestIdLayer,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) digests: DigestLayer<Md5>,
    pub(crate) traces: Traces,
}

impl State {
    /// The state of a server that has just started.
    ///
    /// # Errors
    ///
    /// When the directory of `--files` cannot be resolved; the message names it. When the times of the drain contradict each other,
    /// or the metrics or the traces cannot be set up.
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
        let request_ids = RequestIdLayer::new();
        let drain = args
            .drain()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let digests = layers::announced_digest();
        let metrics = Metrics::new(&drain, &request_ids, &digests)?;
        Ok(Self {
            traces: Traces::new(args.otlp.as_deref(), &metrics)?,
            metrics,
            args: Arc::new(args),
            drain,
            digests,
            request_ids,
        })
    }

    /// The way of spans out of this process.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }
}
