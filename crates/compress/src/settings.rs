//! What can be switched while the server runs.

use std::fmt;

use crate::Coding;

/// Whether responses are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No response is compressed.
    Off,
    /// With the codings and levels of the settings.
    #[default]
    On,
    /// With codings and levels that follow the CPU load.
    Adaptive,
}

impl Mode {
    /// `off`, `on` or `adaptive`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Adaptive => "adaptive",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Codings with a level each, the preferred one first. Each is one byte: the upper two bits are the coding plus one (0:
/// no coding), the lower six are the level.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codings([u8; Coding::ALL.len()]);

impl Codings {
    /// Codings that this build does not have are left out. Of two entries of one coding, the first one counts.
    pub(crate) fn new(list: impl IntoIterator<Item = (Coding, u8)>) -> Self {
        let mut codings = Self([0; Coding::ALL.len()]);
        let mut next = 0;
        for (coding, level) in list {
            if coding.is_available() && codings.iter().all(|(known, _)| known != coding) {
                codings.0[next] = (coding as u8 + 1) << 6 | coding.nearest(level);
                next += 1;
            }
        }
        codings
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (Coding, u8)> {
        self.0.into_iter().filter_map(|byte| {
            let coding = usize::from(byte >> 6).checked_sub(1)?;
            Some((Coding::ALL[coding], byte & 0x3f))
        })
    }
}

impl fmt::Debug for Codings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The settings of a [`CompressLayer`](crate::CompressLayer), which can be changed while it runs by
/// [`CompressionSwitch::set`](crate::CompressionSwitch::set).
///
/// ```
/// use tower_stream_compress::{Coding, Settings};
///
/// let settings = Settings::on().codings([(Coding::Gzip, 1), (Coding::Br, 4)]);
/// assert_eq!(settings.list()[0], (Coding::Gzip, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    mode: Mode,
    codings: Codings,
}

impl Settings {
    /// Compression is on, with zstd at level 3, gzip at 6 and brotli at 4, in this order, as far as this build has them.
    ///
    /// The order is that of small records that leave one by one: brotli, which wins for documents, then needs more bytes
    /// than gzip and seven times the CPU time of zstd.
    #[must_use]
    pub fn on() -> Self {
        Self {
            mode: Mode::On,
            codings: Codings::new([(Coding::Zstd, 3), (Coding::Gzip, 6), (Coding::Br, 4)]),
        }
    }

    /// No response is compressed.
    #[must_use]
    pub fn off() -> Self {
        Self::on().mode(Mode::Off)
    }

    /// Codings and levels follow the CPU load, see the [crate] documentation.
    #[must_use]
    pub fn adaptive() -> Self {
        Self::on().mode(Mode::Adaptive)
    }

    /// Sets the mode and keeps the codings.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the codings with their levels, the preferred one first. A level out of the range of its [`Coding`] becomes the
    /// nearest one, and codings that this build does not have are left out. They do not apply in [`Mode::Adaptive`].
    #[must_use]
    pub fn codings(mut self, codings: impl IntoIterator<Item = (Coding, u8)>) -> Self {
        self.codings = Codings::new(codings);
        self
    }

    /// The mode.
    #[must_use]
    pub fn current_mode(&self) -> Mode {
        self.mode
    }

    /// The codings with their levels, the preferred one first.
    #[must_use]
    pub fn list(&self) -> Vec<(Coding, u8)> {
        self.codings.iter().collect()
    }

    pub(crate) fn offered(self) -> Codings {
        self.codings
    }

    pub(crate) fn pack(self) -> u32 {
        let [a, b, c] = self.codings.0;
        u32::from_be_bytes([self.mode as u8, a, b, c])
    }

    pub(crate) fn unpack(packed: u32) -> Self {
        let [mode, a, b, c] = packed.to_be_bytes();
        Self {
            mode: match mode {
                0 => Mode::Off,
                1 => Mode::On,
                _ => Mode::Adaptive,
            },
            codings: Codings([a, b, c]),
        }
    }

    #[cfg(test)]
    pub(crate) fn all_codings<const N: usize>(self, list: [(Coding, u8); N]) -> Codings {
        let mut bytes = [0; 3];
        for (byte, (coding, level)) in bytes.iter_mut().zip(list) {
            *byte = (coding as u8 + 1) << 6 | level;
        }
        Codings(bytes)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fit_into_one_word() {
        for mode in [Mode::Off, Mode::On, Mode::Adaptive] {
            for list in [
                vec![],
                vec![(Coding::Gzip, 9)],
                vec![(Coding::Br, 6), (Coding::Gzip, 1)],
                vec![(Coding::Zstd, 9), (Coding::Br, 2), (Coding::Gzip, 3)],
            ] {
                let settings = Settings::on().mode(mode).codings(list.clone());
                assert_eq!(Settings::unpack(settings.pack()), settings);
                let available = list.into_iter().filter(|(coding, _)| coding.is_available());
                assert_eq!(settings.list(), available.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_level_out_of_range_is_the_nearest() {
        let levels = |level| {
            let all = Coding::ALL.map(|coding| (coding, level));
            Settings::on().codings(all).list()
        };
        for (coding, level) in levels(0) {
            assert_eq!(level, if coding == Coding::Br { 2 } else { 1 });
        }
        for (coding, level) in levels(255) {
            assert_eq!(level, if coding == Coding::Br { 6 } else { 9 });
        }
        let twice = Settings::on().codings([(Coding::Gzip, 1), (Coding::Gzip, 9)]);
        assert!(twice.list().len() <= 1);
    }
}
