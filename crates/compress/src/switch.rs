//! The state that all responses of a layer share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::{Coding, Mode, Settings, adaptive::Adaptive, load::LoadSource, settings::Codings};

/// Switches the compression of a [`CompressLayer`](crate::CompressLayer) while it runs, and shows what it did. Clones switch
/// the same layer.
///
/// ```
/// use tower_stream_compress::{CompressLayer, Mode, Settings};
///
/// let layer = CompressLayer::new();
/// let switch = layer.switch();
/// switch.set(Settings::off());
/// assert_eq!(switch.settings().current_mode(), Mode::Off);
/// ```
#[derive(Clone, Debug)]
pub struct CompressionSwitch {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    settings: AtomicU32,
    adaptive: Adaptive,
    /// Memory of the encoders at most, in bytes.
    most: AtomicUsize,
    memory: AtomicUsize,
    streams: AtomicU64,
    compressed: [AtomicU64; Coding::ALL.len()],
    over_memory: AtomicU64,
    plain_bytes: AtomicU64,
    encoded_bytes: AtomicU64,
    /// Serializes changes that keep a part of the settings.
    changes: Mutex<()>,
    #[cfg(test)]
    pub(crate) fails: std::sync::atomic::AtomicBool,
}

impl CompressionSwitch {
    pub(crate) fn new(settings: Settings, most: usize, load: impl LoadSource) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings: AtomicU32::new(settings.pack()),
                adaptive: Adaptive::new(load),
                most: AtomicUsize::new(most),
                memory: AtomicUsize::default(),
                streams: AtomicU64::default(),
                compressed: Default::default(),
                over_memory: AtomicU64::default(),
                plain_bytes: AtomicU64::default(),
                encoded_bytes: AtomicU64::default(),
                changes: Mutex::new(()),
                #[cfg(test)]
                fails: false.into(),
            }),
        }
    }

    /// Applies these settings to all responses that begin from now on. Responses that have begun go on with theirs.
    ///
    /// This is one atomic store: no request sees a part of two settings, and none waits.
    pub fn set(&self, settings: Settings) {
        let _one_at_a_time = self.shared.changes.lock();
        self.shared.settings.store(settings.pack(), Relaxed);
    }

    /// Changes the mode, and keeps the codings.
    pub fn set_mode(&self, mode: Mode) {
        let _one_at_a_time = self.shared.changes.lock();
        let settings = self.settings().mode(mode);
        self.shared.settings.store(settings.pack(), Relaxed);
    }

    /// The settings of responses that begin now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.shared.settings()
    }

    /// The codings with their levels that responses which begin now choose from, the preferred one first. In
    /// [`Mode::Adaptive`] these are of the current load, and without compression there are none.
    #[must_use]
    pub fn current(&self) -> Vec<(Coding, u8)> {
        let codings = self.shared.offered();
        codings.map_or(Vec::new(), |codings| codings.iter().collect())
    }

    /// What was compressed so far.
    #[must_use]
    pub fn stats(&self) -> CompressionStats {
        let shared = &*self.shared;
        CompressionStats {
            streams: shared.streams.load(Relaxed),
            memory: shared.memory.load(Relaxed),
            compressed: Coding::ALL.map(|coding| {
                let count = &shared.compressed[coding as usize];
                (coding, count.load(Relaxed))
            }),
            over_memory: shared.over_memory.load(Relaxed),
            plain_bytes: shared.plain_bytes.load(Relaxed),
            encoded_bytes: shared.encoded_bytes.load(Relaxed),
        }
    }
}

/// Counters of a [`CompressLayer`](crate::CompressLayer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompressionStats {
    /// Number of compressed responses that have not ended.
    pub streams: u64,
    /// Memory that is reserved for their encoders, in bytes.
    pub memory: usize,
    /// Number of responses that were compressed, for each coding.
    pub compressed: [(Coding, u64); 3],
    /// Number of responses that were sent as identity because the memory was used up.
    pub over_memory: u64,
    /// Bytes of ended responses before compression.
    pub plain_bytes: u64,
    /// Bytes of ended responses after compression.
    pub encoded_bytes: u64,
}

impl Shared {
    fn settings(&self) -> Settings {
        Settings::unpack(self.settings.load(Relaxed))
    }

    /// `None` if compression is off.
    pub(crate) fn offered(&self) -> Option<Codings> {
        let settings = self.settings();
        match settings.current_mode() {
            Mode::Off => None,
            Mode::On => Some(settings.offered()),
            Mode::Adaptive => Some(self.adaptive.codings()),
        }
    }

    pub(crate) fn limit(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Reserves the memory of an encoder. `None` if there is not enough.
    pub(crate) fn reserve(self: &Arc<Self>, coding: Coding, level: u8) -> Option<Reserved> {
        let memory = coding.memory(level);
        let most = self.most();
        let reserve = |used: usize| Some(used + memory).filter(|used| *used <= most);
        if self.memory.fetch_update(Relaxed, Relaxed, reserve).is_err() {
            self.over_memory.fetch_add(1, Relaxed);
            return None;
        }
        self.streams.fetch_add(1, Relaxed);
        self.compressed[coding as usize].fetch_add(1, Relaxed);
        Some(Reserved {
            shared: Arc::clone(self),
            memory,
            plain: 0,
            encoded: 0,
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings())
            .field("memory", &self.memory)
            .field("adaptive", &self.adaptive)
            .finish_non_exhaustive()
    }
}

/// The memory of one encoder, and the bytes that went through it.
pub(crate) struct Reserved {
    pub(crate) shared: Arc<Shared>,
    memory: usize,
    pub(crate) plain: u64,
    pub(crate) encoded: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.memory.fetch_sub(self.memory, Relaxed);
        self.shared.streams.fetch_sub(1, Relaxed);
        self.shared.plain_bytes.fetch_add(self.plain, Relaxed);
        self.shared.encoded_bytes.fetch_add(self.encoded, Relaxed);
    }
}
