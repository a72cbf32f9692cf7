//! Which chunks get a span.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// Selects which chunks of a stream get a span, so that a stream of a million chunks does not overload a backend.
///
/// A chunk is selected if **any** rule applies and the stream has spans left. Spans are reserved for the last and the
/// slowest chunk, so both have one within `max_per_stream`. The request span records the number of chunks that were not
/// selected as [`CHUNK_SPANS_SKIPPED`](crate::attribute::CHUNK_SPANS_SKIPPED).
///
/// The slowness of a chunk is the longer of the wait for it and the time for which it was held, see
/// [`CHUNK_PRODUCER_WAIT`](crate::attribute::CHUNK_PRODUCER_WAIT) and
/// [`CHUNK_CONSUMER_HOLD`](crate::attribute::CHUNK_CONSUMER_HOLD).
///
/// ```
/// use std::num::NonZeroU64;
/// use tower_stream_trace::ChunkSelection;
///
/// let selection = ChunkSelection {
///     every: NonZeroU64::new(1000),
///     ..ChunkSelection::default()
/// };
/// assert_eq!(selection.first, 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSelection {
    /// This many chunks at the start. Default: 16.
    pub first: u64,
    /// Chunks whose index is a power of two. Default: true.
    pub powers_of_two: bool,
    /// Every chunk whose index is a multiple of this. Default: none.
    pub every: Option<NonZeroU64>,
    /// Chunks at least this slow. Default: one second.
    pub slower_than: Option<Duration>,
    /// The slowest chunk of the stream, which is known at its end. Default: true.
    pub slowest: bool,
    /// The last chunk of the stream, however it ended. Default: true.
    pub last: bool,
    /// Maximum number of spans per stream. Default: 128.
    pub max_per_stream: u64,
}

impl Default for ChunkSelection {
    fn default() -> Self {
        Self {
            first: 16,
            powers_of_two: true,
            every: None,
            slower_than: Some(Duration::from_secs(1)),
            slowest: true,
            last: true,
            max_per_stream: 128,
        }
    }
}

impl ChunkSelection {
    /// Every chunk of every stream. For tests and short streams.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            first: u64::MAX,
            powers_of_two: false,
            every: None,
            slower_than: None,
            slowest: false,
            last: false,
            max_per_stream: u64::MAX,
        }
    }

    /// No chunk, like [`ChunkSpanLayer::off`](crate::ChunkSpanLayer::off).
    #[must_use]
    pub const fn none() -> Self {
        Self {
            first: 0,
            max_per_stream: 0,
            ..Self::all()
        }
    }

    fn picks(&self, chunk: &Chunk) -> bool {
        chunk.index < self.first
            || (self.powers_of_two && chunk.index.is_power_of_two())
            || self.every.is_some_and(|every| chunk.index % every == 0)
            || self
                .slower_than
                .is_some_and(|limit| chunk.slowness() >= limit)
    }

    /// Number of spans for the other rules; the rest is reserved for the last and the slowest chunk.
    fn ordinary_max(&self) -> u64 {
        let kept = u64::from(self.last) + u64::from(self.slowest);
        self.max_per_stream.saturating_sub(kept)
    }
}

/// A chunk that was passed on, with its times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) index: u64,
    pub(crate) length: usize,
    /// Time of the first poll for it.
    pub(crate) asked: Instant,
    pub(crate) ready: Instant,
    /// Time from the previous chunk, or the call, until it was ready.
    pub(crate) gap: Duration,
    pub(crate) hold: Duration,
    pub(crate) sequence: Option<u64>,
}

impl Chunk {
    pub(crate) fn wait(&self) -> Duration {
        self.ready.saturating_duration_since(self.asked)
    }

    fn slowness(&self) -> Duration {
        self.wait().max(self.hold)
    }
}

/// Applies a [`ChunkSelection`] to one stream.
#[derive(Debug)]
pub(crate) struct Picker {
    selection: ChunkSelection,
    picked: u64,
    left_out: u64,
    /// The most recent chunk, if it was not selected.
    previous: Option<Chunk>,
    /// The slowest chunk that was not selected.
    slowest: Option<Chunk>,
    slowest_picked: Duration,
}

impl Picker {
    pub(crate) fn new(selection: ChunkSelection) -> Self {
        Self {
            selection,
            picked: 0,
            left_out: 0,
            previous: None,
            slowest: None,
            slowest_picked: Duration::ZERO,
        }
    }

    /// Offers a chunk whose times are all known. Returns true if it gets a span.
    pub(crate) fn offer(&mut self, chunk: Chunk) -> bool {
        self.leave_previous();
        if self.picked < self.selection.ordinary_max() && self.selection.picks(&chunk) {
            self.pick(&chunk);
            true
        } else {
            self.previous = Some(chunk);
            false
        }
    }

    /// The stream has ended. Returns the chunks that still get a span: the last one and the slowest.
    pub(crate) fn finish(&mut self) -> [Option<Chunk>; 2] {
        let room = |picked| picked < self.selection.max_per_stream;
        let last = match self.previous {
            Some(last) if self.selection.last && room(self.picked) => {
                self.previous = None;
                self.pick(&last);
                Some(last)
            }
            _ => {
                self.leave_previous();
                None
            }
        };
        let slowest = self.slowest.take().filter(|chunk| {
            self.selection.slowest
                && self.picked < self.selection.max_per_stream
                && chunk.slowness() > self.slowest_picked
        });
        if let Some(slowest) = &slowest {
            self.left_out -= 1;
            self.pick(slowest);
        }
        [last, slowest]
    }

    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    fn pick(&mut self, chunk: &Chunk) {
        self.picked += 1;
        self.slowest_picked = self.slowest_picked.max(chunk.slowness());
    }

    fn leave_previous(&mut self) {
        if let Some(chunk) = self.previous.take() {
            self.left_out += 1;
            if self
                .slowest
                .is_none_or(|slowest| chunk.slowness() > slowest.slowness())
            {
                self.slowest = Some(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The indexes of the chunks that get a span if the chunk at `index` waits for `wait(index)` ms.
    fn picked(selection: ChunkSelection, count: u64, wait: impl Fn(u64) -> u64) -> (Vec<u64>, u64) {
        let mut picker = Picker::new(selection);
        let now = Instant::now();
        let mut indexes = Vec::new();
        for index in 0..count {
            let wait = Duration::from_millis(wait(index));
            let chunk = Chunk {
                index,
                length: 1,
                asked: now,
                ready: now + wait,
                gap: wait,
                hold: Duration::ZERO,
                sequence: None,
            };
            if picker.offer(chunk) {
                indexes.push(index);
            }
        }
        indexes.extend(picker.finish().iter().flatten().map(|chunk| chunk.index));
        (indexes, picker.left_out())
    }

    const NOTHING: ChunkSelection = ChunkSelection {
        max_per_stream: u64::MAX,
        ..ChunkSelection::none()
    };

    #[test]
    fn each_rule_alone() {
        let of = |selection| picked(selection, 10, |index| if index == 6 { 20 } else { 1 }).0;
        assert_eq!(of(NOTHING), [] as [u64; 0]);
        assert_eq!(
            of(ChunkSelection {
                first: 3,
                ..NOTHING
            }),
            [0, 1, 2]
        );
        assert_eq!(
            of(ChunkSelection {
                powers_of_two: true,
                ..NOTHING
            }),
            [1, 2, 4, 8]
        );
        assert_eq!(
            of(ChunkSelection {
                every: NonZeroU64::new(4),
                ..NOTHING
            }),
            [0, 4, 8]
        );
        let limit = Some(Duration::from_millis(20));
        assert_eq!(
            of(ChunkSelection {
                slower_than: limit,
                ..NOTHING
            }),
            [6]
        );
        assert_eq!(
            of(ChunkSelection {
                slowest: true,
                ..NOTHING
            }),
            [6]
        );
        assert_eq!(
            of(ChunkSelection {
                last: true,
                ..NOTHING
            }),
            [9]
        );
        assert_eq!(of(ChunkSelection::all()).len(), 10);
        assert_eq!(of(ChunkSelection::none()), [] as [u64; 0]);
    }

    #[test]
    fn a_chunk_gets_one_span_whatever_rules_pick_it() {
        let everything = ChunkSelection {
            slowest: true,
            last: true,
            ..ChunkSelection::all()
        };
        let (indexes, left_out) = picked(everything, 5, |index| index);
        assert_eq!((indexes, left_out), (vec![0, 1, 2, 3, 4], 0));
    }

    #[test]
    fn the_last_may_be_the_slowest() {
        let both = ChunkSelection {
            slowest: true,
            last: true,
            ..NOTHING
        };
        assert_eq!(picked(both, 5, |index| index), (vec![4], 4));
        assert_eq!(picked(both, 5, |index| 9 - index), (vec![4, 0], 3));
        assert_eq!(picked(both, 0, |_| 0), (vec![], 0));
    }

    #[test]
    fn a_million_chunks_are_bounded_and_keep_the_last_and_the_slowest() {
        let count = 1_000_000;
        // Thousands of slow chunks at the start would use up every span.
        let wait = |index| match index {
            700_001 => 9_000,
            _ if index % 97 == 0 => 1_500,
            _ => 1,
        };
        let (indexes, left_out) = picked(ChunkSelection::default(), count, wait);
        assert_eq!(indexes.len(), 128);
        assert!(indexes.contains(&700_001), "the slowest");
        assert!(indexes.contains(&(count - 1)), "the last");
        assert_eq!(left_out, count - 128);
    }

    #[test]
    fn the_cap_holds_when_it_is_smaller_than_what_is_kept() {
        let one = ChunkSelection {
            max_per_stream: 1,
            ..ChunkSelection::default()
        };
        assert_eq!(picked(one, 100, |_| 1), (vec![99], 99));
    }
}
