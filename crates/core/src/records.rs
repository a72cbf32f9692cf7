//! What of a stream may be given out, so that a last record can follow.

use bytes::Bytes;

use crate::{RecordHold, StreamKind, grpc::Messages};

/// Follows the records of a stream for a layer that may have to write the last one: an error, a farewell.
///
/// Events and lines are held until they are whole, see [`RecordHold`]. gRPC messages pass as they come, and are
/// only followed: after half of one, nothing may be written. The bytes of any other stream pass.
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
pub enum Records {
    /// Bytes without records.
    Opaque,
    /// Events or lines.
    Held(RecordHold),
    /// The messages of gRPC or gRPC-Web.
    Messages(Messages),
}

impl Records {
    /// Follows a stream of this kind; holds at most `cap` bytes of an open event or line.
    #[must_use]
    pub fn of(kind: StreamKind, cap: usize) -> Self {
        match (kind, kind.records()) {
            (_, Some(format)) => Self::Held(RecordHold::new(format, cap)),
            (StreamKind::Grpc | StreamKind::GrpcWeb, None) => Self::Messages(Messages::default()),
            (_, None) => Self::Opaque,
        }
    }

    /// Whether the next chunk can be sent as it is; then it counts as sent. One that cannot has to be given to
    /// [`push`](Self::push).
    #[inline]
    #[must_use]
    pub fn passes(&mut self, chunk: &[u8]) -> bool {
        match self {
            Self::Opaque => true,
            Self::Held(hold) => hold.passes(chunk),
            Self::Messages(messages) => {
                messages.push(chunk);
                true
            }
        }
    }

    /// Takes a chunk that does not pass as it is; gives what can be sent now, if anything.
    pub fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        match self {
            Self::Held(hold) => hold.push(chunk),
            Self::Opaque | Self::Messages(_) => Some(chunk),
        }
    }

    /// The stream ended well: gives what is still held, an unended record that the producer meant as its last.
    pub fn finish(&mut self) -> Option<Bytes> {
        match self {
            Self::Held(hold) => hold.finish(),
            Self::Opaque | Self::Messages(_) => None,
        }
    }

    /// The stream failed: drops what is held.
    pub fn discard(&mut self) {
        if let Self::Held(hold) = self {
            hold.discard();
        }
    }

    /// Whether another record may follow what was sent so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Opaque => true,
            Self::Held(hold) => hold.is_clean(),
            Self::Messages(messages) => messages.at_boundary(),
        }
    }

    /// How many bytes are held: for `size_hint`.
    #[inline]
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Held(hold) => hold.held(),
            Self::Opaque | Self::Messages(_) => 0,
        }
    }
}
