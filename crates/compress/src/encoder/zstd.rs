//! Zstandard, in C.

use std::io;

use zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, get_error_name, zstd_sys::ZSTD_EndDirective,
};

use super::{ROOM, Then};

/// Binary logarithm of the window, and of the tables of positions. Those of level 3 would need 700 KiB more for each stream,
/// and save less than 1 % of its bytes.
const WINDOW: u32 = 14;

pub(crate) struct Zstd(CCtx<'static>);

impl Zstd {
    pub(crate) fn new(level: u8) -> io::Result<Self> {
        let context = CCtx::try_create();
        let mut context = context.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        for parameter in [
            CParameter::CompressionLevel(i32::from(level)),
            CParameter::WindowLog(WINDOW),
            CParameter::HashLog(WINDOW),
            CParameter::ChainLog(WINDOW),
        ] {
            context.set_parameter(parameter).map_err(failed)?;
        }
        Ok(Self(context))
    }

    pub(crate) fn encode(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
        let operation = match then {
            Then::More => ZSTD_EndDirective::ZSTD_e_continue,
            Then::Flush => ZSTD_EndDirective::ZSTD_e_flush,
            Then::Finish => ZSTD_EndDirective::ZSTD_e_end,
        };
        let mut input = InBuffer::around(data);
        loop {
            out.reserve(ROOM);
            let written = out.len();
            let mut output = OutBuffer::around_pos(out, written);
            let left = self.0.compress_stream2(&mut output, &mut input, operation);
            let left = left.map_err(failed)?;
            let over = match then {
                Then::More => input.pos() == data.len(),
                _ => left == 0,
            };
            if over {
                return Ok(());
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.0.sizeof()
    }
}

fn failed(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
