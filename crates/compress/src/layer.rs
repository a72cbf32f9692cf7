//! The layer.

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use crate::{
    CompressionSwitch, Settings,
    load::{LoadSource, SystemLoad},
};

/// Compresses streaming responses. See the [crate] documentation.
///
/// Clones share their settings, their memory and their counters.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct CompressLayer {
    switch: Option<CompressionSwitch>,
}

impl CompressLayer {
    const MEMORY: usize = 256 * 1024 * 1024;

    /// Creates a layer that compresses, with the default [`Settings`].
    pub fn new() -> Self {
        Self {
            switch: Some(CompressionSwitch::new(
                Settings::on(),
                Self::MEMORY,
                SystemLoad::new(),
            )),
        }
    }

    /// A disabled layer of the same type. It cannot be switched on: for that, use [`Settings::off`].
    pub const fn off() -> Self {
        Self { switch: None }
    }

    /// Sets what [`CompressionSwitch::set`] changes later. Default: [`Settings::on`].
    pub fn settings(self, settings: Settings) -> Self {
        if let Some(switch) = &self.switch {
            switch.set(settings);
        }
        self
    }

    /// Sets the memory of all encoders together, in bytes. Default: 256 MiB. A response that would exceed it is sent
    /// uncompressed, and counted in [`CompressionStats::over_memory`](crate::CompressionStats::over_memory).
    ///
    /// An encoder keeps its memory until its response has ended: 288 KiB for gzip, 352 KiB for zstd, and 720 KiB for brotli
    /// at level 4.
    pub fn max_memory(self, bytes: usize) -> Self {
        if let Some(switch) = &self.switch {
            switch.shared.limit(bytes);
        }
        self
    }

    /// Sets the source of the load for [`Mode::Adaptive`](crate::Mode::Adaptive). Default: [`SystemLoad`]. The layer then
    /// no longer shares settings with its earlier clones; its counters start at zero.
    pub fn load_source(self, source: impl LoadSource) -> Self {
        let switch = self.switch.map(|switch| {
            let most = switch.shared.most();
            CompressionSwitch::new(switch.settings(), most, source)
        });
        Self { switch }
    }

    /// The handle that changes the settings while the layer runs. That of a layer that is [`off`](Self::off) has no effect.
    #[must_use]
    pub fn switch(&self) -> CompressionSwitch {
        let off = || CompressionSwitch::new(Settings::off(), 0, SystemLoad::new());
        self.switch.clone().unwrap_or_else(off)
    }

    pub(crate) fn shared(&self) -> Option<&CompressionSwitch> {
        self.switch.as_ref()
    }
}

impl Default for CompressLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CompressLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}
