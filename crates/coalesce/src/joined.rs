//! The frames that have been joined so far.

use bytes::{Bytes, BytesMut};

/// A pending body keeps a buffer of at most this size for its next frames.
const IDLE: usize = 1024;

/// Frames in the order of the body. One frame alone is kept as it is; a second one makes it a copy in the buffer.
pub(crate) struct Joined {
    alone: Bytes,
    buffer: BytesMut,
    pub(crate) frames: u32,
    /// Whether all of them are heartbeats.
    heartbeat: bool,
    /// Length of the last joined frame: the next one is likely to be as long.
    expected: usize,
}

impl Joined {
    pub(crate) fn new() -> Self {
        Self {
            alone: Bytes::new(),
            buffer: BytesMut::new(),
            frames: 0,
            heartbeat: false,
            expected: 0,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.alone.len() + self.buffer.len()
    }

    /// Adds a frame. `most` is the greatest length of all frames together.
    #[inline(always)]
    pub(crate) fn push(&mut self, data: Bytes, heartbeat: bool, most: usize) {
        self.frames += 1;
        if self.frames == 1 {
            self.heartbeat = heartbeat;
            self.alone = data;
            return;
        }
        self.heartbeat &= heartbeat;
        if self.frames == 2 {
            let alone = std::mem::take(&mut self.alone);
            self.make_room(alone.len() + data.len(), most);
            self.buffer.extend_from_slice(&alone);
        } else if self.buffer.capacity() - self.buffer.len() < data.len() {
            self.make_room(data.len(), most);
        }
        self.buffer.extend_from_slice(&data);
    }

    #[inline(never)]
    fn make_room(&mut self, needed: usize, most: usize) {
        if self.buffer.capacity() - self.buffer.len() >= needed {
            return;
        }
        let length = self.buffer.len();
        let expected = self.expected.saturating_sub(length);
        let room = expected.max(length).max(IDLE / 2);
        // Reuses the buffer if the server has sent all frames that were taken from it.
        self.buffer.reserve(room.min(most - length).max(needed));
    }

    /// Takes the frames as one, and whether all of them are heartbeats.
    #[inline]
    pub(crate) fn take(&mut self) -> (Bytes, bool) {
        let joined = match self.frames {
            0 | 1 => std::mem::take(&mut self.alone),
            _ => {
                self.expected = self.buffer.len();
                self.buffer.split().freeze()
            }
        };
        self.frames = 0;
        (joined, self.heartbeat)
    }

    /// The body is idle: its share of the memory becomes small.
    #[inline]
    pub(crate) fn shrink(&mut self) {
        if self.buffer.capacity() > IDLE {
            self.buffer = BytesMut::new();
        }
    }
}
