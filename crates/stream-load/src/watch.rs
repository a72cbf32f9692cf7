//! Watching the streams of a run while it is in progress.

use std::sync::Arc;

use tokio::time::Instant;

use crate::Ending;

/// Callbacks for the streams of a run. They run on the task of the stream.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use stream_load::{Stream, Watch};
///
/// /// Streams that were cut after their first megabyte.
/// #[derive(Default)]
/// struct LateCuts(AtomicU64);
///
/// impl Watch for LateCuts {
///     fn ended(&self, stream: &Stream<'_>) {
///         let late = stream.ending == stream_load::Ending::Cut && stream.bytes > 1_000_000;
///         self.0.fetch_add(u64::from(late), Relaxed);
///     }
/// }
/// ```
pub trait Watch: Send + Sync + 'static {
    /// Called when the first chunk of a stream arrives.
    fn opened(&self) {}

    /// Called when a stream ends. Not called for streams that [`Running::finish`](crate::Running::finish) aborts.
    fn ended(&self, stream: &Stream<'_>) {
        let _ = stream;
    }
}

/// A stream that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Stream<'a> {
    /// How the stream ended.
    pub ending: Ending,
    /// More detail about the ending. Empty when the ending says everything.
    pub reason: &'a str,
    /// When the stream started: not before it was due, and before it connected.
    pub started: Instant,
    /// When the first chunk arrived.
    pub first_chunk: Option<Instant>,
    /// When the last chunk arrived.
    pub last_chunk: Option<Instant>,
    /// Size of the body in bytes.
    pub bytes: u64,
    /// Number of complete records (events or lines). 0 for a body without records.
    pub records: u64,
    /// Number of records that announce a shutdown of the server.
    pub farewells: u64,
    /// The last record as raw bytes, up to 256 KiB. For a body without records, the last 4 KiB of the body.
    pub last_record: &'a [u8],
}

impl Watch for () {}

impl<W: Watch + ?Sized> Watch for Arc<W> {
    fn opened(&self) {
        (**self).opened();
    }

    fn ended(&self, stream: &Stream<'_>) {
        (**self).ended(stream);
    }
}
