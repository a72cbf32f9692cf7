//! gzip by zlib-rs.

use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{ROOM, Then};

/// Binary logarithm of the window. The full one of 15 needs 96 KiB more for each stream, and saves 4 % of its bytes.
const WINDOW: u8 = 13;

pub(crate) struct Gzip(Compress);

impl Gzip {
    pub(crate) fn new(level: u8) -> Self {
        let level = Compression::new(u32::from(level));
        Self(Compress::new_gzip(level, WINDOW))
    }

    pub(crate) fn encode(
        &mut self,
        mut data: &[u8],
        then: Then,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let flush = match then {
            Then::More => FlushCompress::None,
            Then::Flush => FlushCompress::Sync,
            Then::Finish => FlushCompress::Finish,
        };
        loop {
            out.reserve(ROOM);
            let before = self.0.total_in();
            let status = self.0.compress_vec(data, out, flush);
            let status = status.map_err(io::Error::other)?;
            data = &data[(self.0.total_in() - before) as usize..];
            let over = match then {
                Then::Finish => status == Status::StreamEnd,
                // A full buffer may not have taken everything.
                _ => data.is_empty() && out.len() < out.capacity(),
            };
            if over {
                return Ok(());
            }
        }
    }
}
