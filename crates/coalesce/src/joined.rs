//! The frames that have been joined so far.

use bytes::{Bytes, BytesMut};

/// A longer frame costs more to copy than to send by itself.
pub(crate) const LARGE: usize = 4096;

/// A pending body keeps a buffer of at most this size for its next frames.
const IDLE: usize = 1024;

/// Frames in the order of the body. One frame alone is kept as it is; a second one makes it a copy in the buffer.
pub(crate) struct Joined {
    alone: Bytes,
    buffer: BytesMut,
    pub(crate) frames: u32,
    /// A frame that is shorter is added to the buffer without another check. Zero unless there are two frames or more.
    room: usize,
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
            room: 0,
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

    /// Returns whether a frame of this length can be added. All frames together have `most` bytes at most.
    #[inline(always)]
    pub(crate) fn takes(&self, length: usize, most: usize) -> bool {
        length < self.room || (length <= LARGE && self.len() + length <= most)
    }

    /// Adds a frame that [`takes`](Self::takes) allows.
    #[inline(always)]
    pub(crate) fn push(&mut self, data: Bytes, heartbeat: bool, most: usize) {
        self.frames += 1;
        if data.len() < self.room {
            self.room -= data.len();
            self.heartbeat &= heartbeat;
            self.buffer.extend_from_slice(&data);
        } else {
            self.push_slowly(data, heartbeat, most);
        }
    }

    #[inline(never)]
    fn push_slowly(&mut self, data: Bytes, heartbeat: bool, most: usize) {
        if self.frames == 1 {
            self.heartbeat = heartbeat;
            self.alone = data;
            return;
        }
        self.heartbeat &= heartbeat;
        let alone = std::mem::take(&mut self.alone);
        self.make_room(alone.len() + data.len(), most);
        self.buffer.extend_from_slice(&alone);
        self.buffer.extend_from_slice(&data);
        let room = self.buffer.capacity().min(most) - self.buffer.len();
        self.room = room.min(LARGE);
    }

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
        self.room = 0;
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
