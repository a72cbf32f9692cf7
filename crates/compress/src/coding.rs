//! The content codings.

use std::fmt;

/// A content coding (RFC 9110 section 8.4.1) that the layer can use, if the feature of its name is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// gzip (RFC 1952), levels 1 to 9.
    Gzip,
    /// Brotli (RFC 7932), levels 2 to 6. The levels below hardly compress a stream that is flushed after each record, and
    /// those above need megabytes for each stream.
    Br,
    /// Zstandard (RFC 8878), levels 1 to 9.
    Zstd,
}

impl Coding {
    pub(crate) const ALL: [Self; 3] = [Self::Gzip, Self::Br, Self::Zstd];

    /// The name in `Content-Encoding`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Returns whether this build has the coding.
    #[must_use]
    pub const fn is_available(self) -> bool {
        match self {
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Br => cfg!(feature = "br"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The level of this coding that is nearest to `level`.
    pub(crate) const fn nearest(self, level: u8) -> u8 {
        let (least, most) = match self {
            Self::Gzip | Self::Zstd => (1, 9),
            Self::Br => (2, 6),
        };
        match level {
            _ if level < least => least,
            _ if level > most => most,
            _ => level,
        }
    }

    /// Memory of one encoder in bytes at most, as measured (`benches/idle.rs`). A test compares that of zstd.
    pub(crate) const fn memory(self, level: u8) -> usize {
        let kib = match (self, level) {
            (Self::Gzip, _) => 288,
            (Self::Br, 0..=2) => 416,
            (Self::Br, 3) => 416,
            (Self::Br, 4) => 720,
            (Self::Br, _) => 1_664,
            (Self::Zstd, _) => 352,
        };
        kib * 1024
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
