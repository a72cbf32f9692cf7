//! The layer.

use std::time::Duration;

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

/// Joins the frames of a body that are ready into one frame. See the [crate] documentation.
///
/// # Panics
///
/// With [`linger`](Self::linger), panics if a body has to wait outside of a tokio runtime with its timer enabled.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct CoalesceLayer {
    config: Option<Config>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) max_bytes: usize,
    pub(crate) max_frames: u32,
    pub(crate) linger: Duration,
}

impl CoalesceLayer {
    /// Creates a layer that joins up to 16 KiB, and waits for nothing.
    pub const fn new() -> Self {
        Self {
            config: Some(Config {
                max_bytes: 16 * 1024,
                max_frames: 1024,
                linger: Duration::ZERO,
            }),
        }
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self { config: None }
    }

    /// Sets the greatest length of a joined frame, in bytes. Default: 16,384, which is also the greatest DATA frame that
    /// an HTTP/2 client accepts by default. Zero disables the layer.
    ///
    /// A frame of more than 4,096 bytes, or of more than `bytes`, is never joined: copying it costs more than sending it
    /// by itself.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        match &mut self.config {
            _ if bytes == 0 => self = Self::off(),
            Some(config) => config.max_bytes = bytes,
            None => {}
        }
        self
    }

    /// Sets the greatest number of frames that are joined into one. Default: 1,024. At least 1, which joins nothing.
    pub fn max_frames(mut self, frames: u32) -> Self {
        if let Some(config) = &mut self.config {
            config.max_frames = frames.max(1);
        }
        self
    }

    /// Sets how long a frame may be held although no further frame is ready, so that those of a producer that trickles are
    /// joined too. Default: zero, no frame is held.
    ///
    /// The time counts from the first held frame, in steps of a millisecond. It is added to the delay of every frame that
    /// comes alone.
    pub fn linger(mut self, longest: Duration) -> Self {
        if let Some(config) = &mut self.config {
            config.linger = longest;
        }
        self
    }

    pub(crate) fn config(&self) -> Option<Config> {
        self.config
    }
}

impl Default for CoalesceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CoalesceLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, *self)
    }
}
