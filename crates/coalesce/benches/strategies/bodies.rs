//! The frames, and the bodies that join those that are ready.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tower_stream_coalesce::CoalesceLayer;

/// A joined frame has at most this length.
const MOST: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    EachFrame,
    Nagle,
    Flattened,
    FixedRing,
    Growing,
    Pooled,
    Predicted,
    Exact,
    Vectored,
    Coalesce,
    CoalesceNagle,
    Linger,
}

impl Strategy {
    pub(crate) const ALL: [Self; 12] = [
        Self::EachFrame,
        Self::Nagle,
        Self::Flattened,
        Self::FixedRing,
        Self::Growing,
        Self::Pooled,
        Self::Predicted,
        Self::Exact,
        Self::Vectored,
        Self::Coalesce,
        Self::CoalesceNagle,
        Self::Linger,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EachFrame => "each frame, as hyper does",
            Self::Nagle => "each frame, without TCP_NODELAY",
            Self::Flattened => "each frame, `writev(false)`",
            Self::FixedRing => "joined in a fixed ring",
            Self::Growing => "joined in a buffer that grows",
            Self::Pooled => "joined in a buffer of a pool",
            Self::Predicted => "joined, the size predicted",
            Self::Exact => "joined, the size counted first",
            Self::Vectored => "joined without a copy (vectored)",
            Self::Coalesce => "**`CoalesceLayer`**",
            Self::CoalesceNagle => "`CoalesceLayer`, without TCP_NODELAY",
            Self::Linger => "`CoalesceLayer::linger`, 1 ms",
        }
    }

    pub(crate) fn nodelay(self) -> bool {
        !matches!(self, Self::Nagle | Self::CoalesceNagle)
    }

    pub(crate) fn layer(self) -> CoalesceLayer {
        match self {
            Self::Linger => CoalesceLayer::new().linger(Duration::from_millis(1)),
            _ => CoalesceLayer::new(),
        }
    }
}

/// The frames of the handler. A paced one contains the time at which it was made.
pub(crate) struct Events {
    frame: Bytes,
    left: u32,
    pace: Option<(Interval, Instant)>,
}

impl Events {
    pub(crate) fn new(frames: u32, bytes: usize, pace: Option<Duration>, epoch: Instant) -> Self {
        let pace = pace.map(|pace| {
            let mut interval = interval(pace);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            (interval, epoch)
        });
        Self {
            frame: vec![b'x'; bytes].into(),
            left: frames,
            pace,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut frame = self.frame.clone();
        if let Some((interval, epoch)) = &mut self.pace {
            ready!(interval.poll_tick(cx));
            let now = epoch.elapsed().as_nanos();
            frame = format!("@{now:020}@{:41}\n", "").into();
        }
        self.left -= 1;
        Poll::Ready(Some(frame))
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll(cx)
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// Where frames are joined.
pub(crate) trait Buffer: Unpin {
    type Data: Buf;

    fn push(&mut self, frame: Bytes);
    fn take(&mut self) -> Self::Data;
}

/// Joins what is ready, as `CoalesceLayer` does; frames that are long already are joined too.
pub(crate) struct Joining<B> {
    events: Events,
    buffer: B,
}

impl<B: Buffer> Joining<B> {
    pub(crate) fn new(events: Events, buffer: B) -> Self {
        Self { events, buffer }
    }
}

impl<B: Buffer> Body for Joining<B> {
    type Data = B::Data;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Infallible>>> {
        let this = &mut *self;
        let mut held = 0;
        loop {
            match this.events.poll(cx) {
                Poll::Ready(Some(frame)) => {
                    held += frame.len();
                    let next = frame.len();
                    this.buffer.push(frame);
                    if held + next <= MOST {
                        continue;
                    }
                }
                Poll::Pending if held == 0 => return Poll::Pending,
                Poll::Ready(None) if held == 0 => return Poll::Ready(None),
                _ => {}
            }
            return Poll::Ready(Some(Ok(Frame::data(this.buffer.take()))));
        }
    }
}

/// Buffers of one size that are used in turns. hyper queues at most 16 buffers.
pub(crate) struct FixedRing(Vec<BytesMut>, usize);

impl FixedRing {
    pub(crate) fn new() -> Self {
        Self((0..20).map(|_| BytesMut::with_capacity(MOST)).collect(), 0)
    }
}

impl Buffer for FixedRing {
    type Data = Bytes;

    fn push(&mut self, frame: Bytes) {
        self.0[self.1].extend_from_slice(&frame);
    }

    fn take(&mut self) -> Bytes {
        let joined = self.0[self.1].split().freeze();
        self.1 = (self.1 + 1) % self.0.len();
        // Reuses the memory if the server has sent what was in it.
        self.0[self.1].reserve(MOST);
        joined
    }
}

#[derive(Default)]
pub(crate) struct Growing(Vec<u8>);

impl Buffer for Growing {
    type Data = Bytes;

    fn push(&mut self, frame: Bytes) {
        self.0.extend_from_slice(&frame);
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }
}

/// Buffers that all streams share.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

struct Leased(Vec<u8>, Pool);

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        self.1.0.lock().push(buffer);
    }
}

#[derive(Default)]
pub(crate) struct Pooled(Vec<u8>, Pool);

impl Buffer for Pooled {
    type Data = Bytes;

    fn push(&mut self, frame: Bytes) {
        if self.0.capacity() == 0 {
            let pooled = self.1.0.lock().pop();
            self.0 = pooled.unwrap_or_else(|| Vec::with_capacity(MOST));
        }
        self.0.extend_from_slice(&frame);
    }

    fn take(&mut self) -> Bytes {
        Bytes::from_owner(Leased(std::mem::take(&mut self.0), self.1.clone()))
    }
}

/// As long as the one before.
#[derive(Default)]
pub(crate) struct Predicted(Vec<u8>, usize);

impl Buffer for Predicted {
    type Data = Bytes;

    fn push(&mut self, frame: Bytes) {
        if self.0.capacity() == 0 {
            self.0 = Vec::with_capacity(self.1);
        }
        self.0.extend_from_slice(&frame);
    }

    fn take(&mut self) -> Bytes {
        self.1 = self.0.len();
        std::mem::take(&mut self.0).into()
    }
}

#[derive(Default)]
pub(crate) struct Exact(Vec<Bytes>);

impl Buffer for Exact {
    type Data = Bytes;

    fn push(&mut self, frame: Bytes) {
        self.0.push(frame);
    }

    fn take(&mut self) -> Bytes {
        let mut joined = Vec::with_capacity(self.0.iter().map(Bytes::len).sum());
        self.0
            .drain(..)
            .for_each(|frame| joined.extend_from_slice(&frame));
        joined.into()
    }
}

#[derive(Default)]
pub(crate) struct Vectored(VecDeque<Bytes>);

impl Buffer for Vectored {
    type Data = Self;

    fn push(&mut self, frame: Bytes) {
        self.0.push_back(frame);
    }

    fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

impl Buf for Vectored {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |frame| frame)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pairs = slices.iter_mut().zip(&self.0);
        pairs
            .map(|(slice, frame)| *slice = IoSlice::new(frame))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(frame) = self.0.front_mut() {
            if count < frame.len() {
                frame.advance(count);
                return;
            }
            count -= frame.len();
            self.0.pop_front();
        }
    }
}
