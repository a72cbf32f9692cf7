//! MD5 in safe Rust, limited only by the dependency chain of MD5, with an interleaved mode for two streams.
//!
//! [`update_two`] advances two hashers side by side. MD5 is one long chain of dependent additions and leaves most of a
//! wide core idle, so the second hasher is nearly free: hashing a body and its current segment takes little longer than
//! hashing the body alone.

mod compress;
#[cfg(test)]
mod tests;

use compress::{BLOCK, INIT, State, compress};
use digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update, consts::U16};

/// A running MD5 (RFC 1321): 96 bytes, no allocation.
#[derive(Clone)]
pub(crate) struct Kernel {
    state: State,
    /// Number of bytes hashed, modulo 2^64 (RFC 1321 section 3.2).
    len: u64,
    /// The unfinished block: the first `len % 64` bytes.
    tail: [u8; BLOCK],
}

impl Kernel {
    fn filled(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Fills the unfinished block from `data` and returns the rest of `data`, which is empty or starts at a block
    /// boundary.
    fn fill<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let filled = self.filled();
        if filled == 0 {
            return data;
        }
        let (head, rest) = data.split_at(data.len().min(BLOCK - filled));
        self.tail[filled..filled + head.len()].copy_from_slice(head);
        self.len = self.len.wrapping_add(head.len() as u64);
        if self.filled() == 0 {
            compress([&mut self.state], [&self.tail]);
        }
        rest
    }

    /// Hashes whole blocks. Call it only at a block boundary.
    fn blocks(&mut self, blocks: &[[u8; BLOCK]]) {
        let mut state = self.state;
        for block in blocks {
            compress([&mut state], [block]);
        }
        self.state = state;
        self.len = self.len.wrapping_add((blocks.len() * BLOCK) as u64);
    }

    fn keep(&mut self, rest: &[u8]) {
        self.tail[..rest.len()].copy_from_slice(rest);
        self.len = self.len.wrapping_add(rest.len() as u64);
    }

    fn finish(&mut self, out: &mut Output<Self>) {
        let bits = self.len.wrapping_mul(8);
        let filled = self.filled();
        self.tail[filled] = 0x80;
        self.tail[filled + 1..].fill(0);
        if filled >= BLOCK - 8 {
            compress([&mut self.state], [&self.tail]);
            self.tail.fill(0);
        }
        self.tail[BLOCK - 8..].copy_from_slice(&bits.to_le_bytes());
        compress([&mut self.state], [&self.tail]);
        for (out, word) in out.chunks_exact_mut(4).zip(self.state) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Feeds `first` to `a` and `second` to `b`, interleaved. The result is that of two [`Update::update`] calls, in little
/// more than the time of the longer one. The inputs may overlap, differ in length, and start at different offsets in a
/// block.
pub(crate) fn update_two((a, first): (&mut Kernel, &[u8]), (b, second): (&mut Kernel, &[u8])) {
    let (first, first_rest) = a.fill(first).as_chunks::<BLOCK>();
    let (second, second_rest) = b.fill(second).as_chunks::<BLOCK>();

    let both = first.len().min(second.len());
    let (mut x, mut y) = (a.state, b.state);
    for (first, second) in first[..both].iter().zip(&second[..both]) {
        compress([&mut x, &mut y], [first, second]);
    }
    (a.state, b.state) = (x, y);
    a.len = a.len.wrapping_add((both * BLOCK) as u64);
    b.len = b.len.wrapping_add((both * BLOCK) as u64);

    a.blocks(&first[both..]);
    b.blocks(&second[both..]);
    a.keep(first_rest);
    b.keep(second_rest);
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            state: INIT,
            len: 0,
            tail: [0; BLOCK],
        }
    }
}

impl HashMarker for Kernel {}

impl OutputSizeUser for Kernel {
    type OutputSize = U16;
}

impl Update for Kernel {
    fn update(&mut self, data: &[u8]) {
        let (blocks, rest) = self.fill(data).as_chunks::<BLOCK>();
        self.blocks(blocks);
        self.keep(rest);
    }
}

impl FixedOutput for Kernel {
    fn finalize_into(mut self, out: &mut Output<Self>) {
        self.finish(out);
    }
}
