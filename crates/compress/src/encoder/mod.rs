//! The encoders.

#[cfg(feature = "br")]
mod br;
#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "zstd")]
pub(crate) mod zstd;

use std::{cell::Cell, io};

use crate::Coding;

/// An encoder makes room for this much at a time.
const ROOM: usize = 8 * 1024;

/// A larger output buffer is not kept for other streams.
const KEPT: usize = 256 * 1024;

/// One stream of compressed data.
pub(crate) enum Encoder {
    #[cfg(feature = "gzip")]
    Gzip(gzip::Gzip),
    #[cfg(feature = "br")]
    Br(Box<br::Br>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Zstd),
}

/// What follows the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// More data follows, so the encoder may hold data back.
    More,
    /// The stream waits after the data, so everything so far must become readable.
    Flush,
    /// The stream ends after the data.
    Finish,
}

impl Encoder {
    /// # Errors
    ///
    /// Fails if the encoder cannot allocate its memory, or if this build does not have the coding.
    pub(crate) fn new(coding: Coding, level: u8) -> io::Result<Self> {
        match coding {
            #[cfg(feature = "gzip")]
            Coding::Gzip => Ok(Self::Gzip(gzip::Gzip::new(level))),
            #[cfg(feature = "br")]
            Coding::Br => Ok(Self::Br(Box::new(br::Br::new(level)))),
            #[cfg(feature = "zstd")]
            Coding::Zstd => zstd::Zstd::new(level).map(Self::Zstd),
            #[allow(unreachable_patterns)]
            _ => Err(io::Error::other(format!(
                "this build has no {coding} at level {level}"
            ))),
        }
    }

    /// Appends to `out` what `data` becomes.
    ///
    /// # Errors
    ///
    /// Fails if the encoder does. It must not be used after that.
    pub(crate) fn encode(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip(encoder) => encoder.encode(data, then, out),
            #[cfg(feature = "br")]
            Self::Br(encoder) => encoder.encode(data, then, out),
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.encode(data, then, out),
            #[allow(unreachable_patterns)]
            _ => {
                let _ = (data, then, out, ROOM);
                Err(io::Error::other("no coding"))
            }
        }
    }
}

thread_local! {
    /// The output buffer of the thread. Streams write into it one after the other, so that none needs one of its own.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `write` with an empty buffer. A nested call gets another one.
pub(crate) fn with_output<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut out = OUT.take();
    let written = write(&mut out);
    out.clear();
    if out.capacity() <= KEPT {
        OUT.set(out);
    }
    written
}
