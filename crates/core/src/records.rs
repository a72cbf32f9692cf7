//! Controls how much of a stream is passed on, so that a last record can follow.

use bytes::Bytes;

use crate::{RecordFormat, RecordHold, StreamKind, grpc::Messages};

/// Tracks the records of a stream for a layer that may write the last one (an error, or the last event of a drain).
///
/// Events and lines are held back until they are complete, see [`RecordHold`]. gRPC messages pass at once and are only
/// tracked: in the middle of one, nothing may be written. The bytes of any other stream pass.
///
/// ```
/// use bytes::Bytes;
/// use tower_stream_core::{RecordHold, Records, StreamKind};
///
/// let mut records = Records::of(StreamKind::Sse, RecordHold::DEFAULT_CAP);
/// assert!(records.passes(b"data: 1\n\n"));
/// assert!(!records.passes(b"data: 2"));
/// assert_eq!(records.push(Bytes::from("data: 2")), None);
/// assert!(records.is_clean(), "half an event is held, not sent");
///
/// let mut records = Records::of(StreamKind::Grpc, RecordHold::DEFAULT_CAP);
/// assert!(records.passes(b"\0\0\0\0\x09half"));
/// assert!(!records.is_clean());
/// ```
#[derive(Debug)]
pub struct Records {
    passes: Passes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Bytes without records.
    Opaque,
    /// Events or lines.
    Held(RecordHold),
    /// The messages of gRPC or gRPC-Web.
    Messages(Messages),
}

/// Which chunks pass without changing the state. Most chunks are recognized by this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    All,
    /// Chunks that end with a blank line: nothing of the event stream is held back, and its last event has ended.
    Events,
    /// Chunks that end with a line feed: the same for lines.
    Lines,
    Unknown,
}

impl Records {
    /// Tracks a stream of this kind. Holds back at most `cap` bytes of an incomplete event or line.
    #[must_use]
    pub fn of(kind: StreamKind, cap: usize) -> Self {
        let kind = match (kind, kind.records()) {
            (_, Some(format)) => Kind::Held(RecordHold::new(format, cap)),
            (StreamKind::Grpc | StreamKind::GrpcWeb, None) => Kind::Messages(Messages::default()),
            (_, None) => return Self::opaque(),
        };
        let passes = Passes::Unknown;
        Self { passes, kind }
    }

    /// Bytes without records; all of them pass.
    #[must_use]
    pub const fn opaque() -> Self {
        Self {
            passes: Passes::All,
            kind: Kind::Opaque,
        }
    }

    /// Returns whether the next chunk can be sent unchanged; if so, it counts as sent. Otherwise pass it to
    /// [`push`](Self::push).
    #[inline]
    #[must_use]
    pub fn passes(&mut self, chunk: &[u8]) -> bool {
        (self.passes == Passes::Events && chunk.ends_with(b"\n\n"))
            || self.passes == Passes::All
            || self.passes_closely(chunk)
    }

    #[inline(never)]
    fn passes_closely(&mut self, chunk: &[u8]) -> bool {
        if self.passes == Passes::Lines && chunk.ends_with(b"\n") {
            return true;
        }
        self.passes = Passes::Unknown;
        match &mut self.kind {
            Kind::Opaque => true,
            Kind::Held(hold) => {
                let passes = hold.passes(chunk);
                if passes {
                    self.passes = match hold.format() {
                        RecordFormat::Sse => Passes::Events,
                        RecordFormat::Lines => Passes::Lines,
                    };
                }
                passes
            }
            Kind::Messages(messages) => {
                messages.push(chunk);
                true
            }
        }
    }

    /// Takes a chunk for which `passes` returned false. Returns what can be sent now, if anything.
    pub fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        match &mut self.kind {
            Kind::Held(hold) => {
                self.passes = Passes::Unknown;
                hold.push(chunk)
            }
            Kind::Opaque | Kind::Messages(_) => Some(chunk),
        }
    }

    /// Call this when the stream ended normally. Returns the held bytes: an incomplete record, which the producer
    /// intended as its last.
    pub fn finish(&mut self) -> Option<Bytes> {
        match &mut self.kind {
            Kind::Held(hold) => hold.finish(),
            Kind::Opaque | Kind::Messages(_) => None,
        }
    }

    /// Call this when the stream failed. Drops the held bytes.
    pub fn discard(&mut self) {
        if let Kind::Held(hold) = &mut self.kind {
            hold.discard();
        }
    }

    /// Returns whether another record may follow the output so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        match &self.kind {
            Kind::Opaque => true,
            Kind::Held(hold) => hold.is_clean(),
            Kind::Messages(messages) => messages.at_boundary(),
        }
    }

    /// Number of held bytes, for `size_hint`.
    #[inline]
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.kind {
            Kind::Held(hold) => hold.held(),
            Kind::Opaque | Kind::Messages(_) => 0,
        }
    }
    /// Returns whether the stream has records that are passed on only when complete: events or lines.
    #[must_use]
    pub const fn are_held(&self) -> bool {
        matches!(self.kind, Kind::Held(_))
    }

    /// Returns whether the records of the stream are unknown.
    #[must_use]
    pub const fn are_opaque(&self) -> bool {
        matches!(self.kind, Kind::Opaque)
    }
}
