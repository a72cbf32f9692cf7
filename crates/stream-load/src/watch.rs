//! Following the streams of a run while it goes on.

use std::sync::Arc;

use tokio::time::Instant;

use crate::Ending;

/// Is told of every stream of a run, on the task of that stream.
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
    /// The first chunk of a stream is here.
    fn opened(&self) {}

    /// A stream has ended. Not called for streams that [`Running::finish`](crate::Running::finish) leaves.
    fn ended(&self, stream: &Stream<'_>) {
        let _ = stream;
    }
}

/// What is known of a stream that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Stream<'a> {
    /// How it ended.
    pub ending: Ending,
    /// Why, in words, where the ending alone does not say it.
    pub reason: &'a str,
    /// When it began: before its connection, and not before it was due.
    pub started: Instant,
    /// When its first chunk came.
    pub first_chunk: Option<Instant>,
    /// When its last chunk came, which may be the first.
    pub last_chunk: Option<Instant>,
    /// Bytes of its body.
    pub bytes: u64,
    /// Records that arrived to their end: events, or lines. 0 for a stream that has none.
    pub records: u64,
    /// How many of them say that the server goes away.
    pub farewells: u64,
    /// The last of them as it was sent, as far as 256 KiB. Of a stream without records, the last 4 KiB.
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
