//! Brotli.

use std::io;

use brotli::enc::{
    StandardAlloc,
    encode::{BrotliEncoderOperation, BrotliEncoderStateStruct},
};

use super::{ROOM, Then};

pub(crate) struct Br(BrotliEncoderStateStruct<StandardAlloc>);

impl Br {
    pub(crate) fn new(level: u8) -> Self {
        let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
        state.params.quality = i32::from(level);
        // Binary logarithm of the window. From level 5 on, this encoder allocates 32 MiB for a window of at most 16.
        state.params.lgwin = if level < 5 { 16 } else { 18 };
        Self(state)
    }

    pub(crate) fn encode(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
        let operation = match then {
            Then::More => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
            Then::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
            Then::Finish => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
        };
        let (mut read, mut left) = (0, data.len());
        loop {
            let mut written = out.len();
            out.resize(written + ROOM, 0);
            let mut room = ROOM;
            let taken = self.0.compress_stream(
                operation,
                &mut left,
                data,
                &mut read,
                &mut room,
                out,
                &mut written,
                &mut None,
                &mut |_, _, _, _| (),
            );
            out.truncate(written);
            if !taken {
                return Err(io::Error::other("the Brotli encoder failed"));
            }
            let over = match then {
                Then::Finish => self.0.is_finished(),
                _ => left == 0 && !self.0.has_more_output(),
            };
            if over {
                return Ok(());
            }
        }
    }
}
