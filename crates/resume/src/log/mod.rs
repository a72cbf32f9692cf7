//! Where the records of streams are kept.

mod end;
mod entry;
mod error;
mod id;
mod memory;
#[cfg(feature = "nats")]
mod nats;
mod reading;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_core::Stream;

#[cfg(feature = "nats")]
pub use self::nats::{Nats, NatsBuilder};
#[cfg(feature = "redis")]
pub use self::redis::{Redis, RedisBuilder};
pub use self::{
    end::End,
    entry::{CodecError, Entry},
    error::{LogError, LogErrorKind},
    id::{Epoch, InvalidStreamId, StreamId},
    memory::{Memory, MemoryBuilder},
};

/// The future of an operation of a [`StreamLog`].
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

/// The entries of a stream, from [`StreamLog::read`].
pub type LogReader = Pin<Box<dyn Stream<Item = Result<Entry, LogError>> + Send>>;

/// A log of streams: keeps the records of each stream, so that it can be read again from any offset.
///
/// A log is shared: by the tasks of one process ([`Memory`]), or by all replicas of a service (a store on the network).
/// The trait is object-safe, so that a program can select its log at run time as `Arc<dyn StreamLog>`.
///
/// # Offsets
///
/// The records of a stream have the offsets 1, 2, 3 .. without gaps, and its [`End`] has the offset after the last record.
/// Offset 0 is before the first record. A record is stored and returned as its bytes, unchanged.
///
/// # One producer
///
/// A stream has one producer at a time, the holder of its current [`Epoch`]. The producer holds a lease, which it renews
/// by [`renew`](Self::renew) and by each append. When the lease has expired, or when a stream is to be cancelled, anyone may
/// [take the stream over](Self::take_over): this opens the next epoch. From then on the log refuses the earlier
/// producer's appends with [`LogErrorKind::Fenced`], even if that producer was only paused and continues much later. An
/// expired lease alone refuses nothing: a producer that appends again before anyone has taken the stream over still holds it.
///
/// # What an implementation must guarantee
///
/// 1. **Compare and append.** An append is stored as a whole or not at all. It is stored only if its epoch is current, the
///    stream has not ended, and [`Entry::first`] is the next offset. The comparison and the write are one atomic step.
/// 2. **Idempotent retry.** An append of the current epoch that was stored already, because the answer to it was lost,
///    succeeds and stores nothing: its `first` and its length are those of the entry that was stored last. This holds for an
///    entry with an end as well.
/// 3. **Read your writes.** After an append has succeeded, every `status`, and every `read` that starts later, sees it, on
///    every replica.
/// 4. **Stored, then live, without a hole.** A reader returns every entry after its offset, in order, each once: those that are
///    stored now, and then those that are appended later, as soon as they are. An entry that is appended while the
///    reader changes from one to the other is neither lost nor returned twice. (Subscribe first; then read what is stored; drop
///    what was returned already; if an offset is missing, read the store again.)
/// 5. **A hole means trimmed.** The offsets that a reader returns have no hole, except where the oldest records were trimmed
///    before they were read. The reader then continues at the first record that is kept. The caller notices by comparing the
///    offsets.
/// 6. **The end is last.** The entry with the end is the last item of a reader, and of no reader is it missing: a reader
///    that starts at or after it returns it again, alone, or with the records after the reader's offset.
/// 7. **Bounds.** A stream and the whole log are bounded in bytes, and a stream that is no longer written to is removed
///    after some time, also if its producer died. An append that would exceed the bound of the stream either removes the oldest
///    entries or is refused, as [`Overflow`] says.
/// 8. **Absence is certain, a fault is not.** [`LogErrorKind::NotFound`] is returned only if the log has answered that the
///    stream does not exist. If the log cannot be reached, or does not answer in time, the error is
///    [`LogErrorKind::Unavailable`], and the operation may or may not have been carried out. An implementation bounds the time of each operation
///    itself.
/// 9. **Cancel safety.** The future of an operation may be dropped at any time; the operation was then carried out or not.
///    Dropping a reader frees what it holds.
///
/// With the feature `conformance`, `tower_stream_resume::conformance` checks these points, for any implementation.
pub trait StreamLog: fmt::Debug + Send + Sync + 'static {
    /// Creates a stream, with the epoch [`Epoch::FIRST`], no records, and a lease that starts now.
    ///
    /// If [`NewStream::key`] is given, the key is bound to this stream in the same atomic step, unless
    /// [`StreamKey::join`] applies.
    ///
    /// # Errors
    ///
    /// [`Exists`](LogErrorKind::Exists) if there is a stream with this id, [`Full`](LogErrorKind::Full) if the log takes
    /// no further stream, [`Unavailable`](LogErrorKind::Unavailable).
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created>;

    /// Appends records, the end of the stream, or both, and renews the lease. See points 1 and 2 of the
    /// [trait](Self). A stream has at most one append in flight.
    ///
    /// # Errors
    ///
    /// * [`NotFound`](LogErrorKind::NotFound): the stream does not exist (any more).
    /// * [`Fenced`](LogErrorKind::Fenced): the stream was taken over.
    /// * [`Ended`](LogErrorKind::Ended): the stream has its end.
    /// * [`Conflict`](LogErrorKind::Conflict): `first` is not the next offset, and this is no retry.
    /// * [`Full`](LogErrorKind::Full): the stream, or the log, is full. Try again later, or trim.
    /// * [`TooLarge`](LogErrorKind::TooLarge): the log can never store an entry of this size.
    /// * [`Unavailable`](LogErrorKind::Unavailable): try again, with the same entry.
    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()>;

    /// Renews the lease, which then lasts as long as it did when the stream was created, and keeps the stream from being removed for its age.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append), without `Conflict`, `Full` and `TooLarge`.
    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()>;

    /// Takes the stream over: opens the next epoch at the next offset, with a lease that starts now, and fences the earlier
    /// producer. The caller is the producer from now on.
    ///
    /// # Errors
    ///
    /// [`Held`](LogErrorKind::Held) if `takeover` is [`Takeover::IfExpired`] and the lease lives,
    /// [`Ended`](LogErrorKind::Ended), [`NotFound`](LogErrorKind::NotFound), [`Unavailable`](LogErrorKind::Unavailable).
    /// Of several simultaneous calls with `IfExpired`, one succeeds.
    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed>;

    /// Reads the entries after this offset (0: all of them), and then those that are appended later, up to the end. See
    /// points 4 to 6 of the [trait](Self). An entry that is partly after the offset is returned as
    /// [`Entry::after`] returns it.
    ///
    /// `after` may be at or past the last stored record: a producer's own readers can be ahead of the log. The reader
    /// then waits for records after that offset. If the stream ends before, the reader returns the end alone.
    ///
    /// Nothing is read before the stream is polled. An implementation reads ahead at most a bounded number of bytes per
    /// reader, and a reader that is not polled delays neither the producer nor other readers.
    ///
    /// # Errors
    ///
    /// An item that is an error is the last one: [`NotFound`](LogErrorKind::NotFound) if the stream does not exist or is
    /// removed while it is read, [`Unavailable`](LogErrorKind::Unavailable).
    fn read(&self, id: &StreamId, after: u64) -> LogReader;

    /// The state of a stream.
    ///
    /// # Errors
    ///
    /// [`NotFound`](LogErrorKind::NotFound), [`Unavailable`](LogErrorKind::Unavailable).
    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status>;

    /// Notes that the stream has a reader, and will have one for this long. A producer on another replica reads it from
    /// [`Status::attended`], so that it does not stop for lack of readers. Of several notes, the one that lasts longest counts. It does
    /// not renew the lease.
    ///
    /// # Errors
    ///
    /// [`NotFound`](LogErrorKind::NotFound), [`Unavailable`](LogErrorKind::Unavailable).
    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()>;

    /// The stream to which this key is bound, or `None` if there is none, or that stream does not exist any more.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](LogErrorKind::Unavailable).
    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>>;

    /// Removes a stream and its key. Its readers end with [`NotFound`](LogErrorKind::NotFound), and so do the
    /// producer's next appends. Returns false if there was none.
    ///
    /// This is not how a stream is cancelled: readers of a cancelled stream get an [`End`].
    ///
    /// # Errors
    ///
    /// [`Unavailable`](LogErrorKind::Unavailable).
    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool>;

    /// Returns whether other servers share the log, so that a client can go on there: during a drain, the readers of a shared log
    /// are asked early to come back, and find their stream on another server while its producer still runs here. Default: true.
    fn is_shared(&self) -> bool {
        true
    }
}

/// A stream that is to be created.
#[derive(Clone, Debug)]
pub struct NewStream {
    /// Bytes that are returned by every [`Status`]. At most 16 KiB.
    pub meta: Bytes,
    /// How long the producer may be silent before the stream can be taken over.
    pub lease: Duration,
    /// A name of the stream in the application.
    pub key: Option<StreamKey>,
}

impl NewStream {
    /// A stream without a key.
    #[must_use]
    pub fn new(meta: impl Into<Bytes>, lease: Duration) -> Self {
        Self {
            meta: meta.into(),
            lease,
            key: None,
        }
    }

    /// The same, found under this key.
    #[must_use]
    pub fn with_key(mut self, key: StreamKey) -> Self {
        self.key = Some(key);
        self
    }
}

/// The name of a stream in the application. A key is bound to its latest stream, as long as the log keeps that.
///
/// A handler gives its stream a name with a `StreamKey` in the extensions of its response, and
/// [`Resume::key`](crate::Resume::key) finds the stream by that name.
///
/// ```
/// use axum::Extension;
/// use tower_stream_resume::StreamKey;
///
/// async fn chat() -> impl axum::response::IntoResponse {
///     let events = "data: hello\n\n";
///     (Extension(StreamKey::new("chat 7")), [("content-type", "text/event-stream")], events)
/// }
/// # drop(chat());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// The name. It may contain any bytes, so an implementation of [`StreamLog`] that needs a safe name encodes or hashes it. A log
    /// gets at most 256 bytes: a handler's name may be of any length, because the log gets its hash.
    pub name: Bytes,
    /// If the key is bound to a stream that has not ended, no stream is created, and that one is returned. If false, the key is
    /// bound to the new stream.
    pub join: bool,
}

impl StreamKey {
    /// A key that is bound to the new stream, whether or not another stream runs under it.
    #[must_use]
    pub fn new(name: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            join: false,
        }
    }

    /// Sets whether the stream that runs under this key is returned instead of a new one. A handler's body is then dropped.
    #[must_use]
    pub fn join(mut self, join: bool) -> Self {
        self.join = join;
        self
    }
}

/// The result of [`StreamLog::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The stream was created.
    New,
    /// The key is bound to this stream, which has not ended. Nothing was created.
    Joined(StreamId),
}

/// The result of [`StreamLog::take_over`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The new epoch.
    pub epoch: Epoch,
    /// The offset of the next record or of the end.
    pub next: u64,
}

/// Whether a stream may be taken over although its producer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Only after the lease has expired.
    IfExpired,
    /// In any case: to cancel the stream.
    Always,
}

/// What happens to an append to a stream that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The append is refused with [`LogErrorKind::Full`].
    Refuse,
    /// The oldest entries of the stream are removed.
    Trim,
}

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The current epoch.
    pub epoch: Epoch,
    /// The first offset of each epoch after the first one, in order: `forks[0]` is where epoch 2 began.
    pub forks: Vec<u64>,
    /// The offset of the oldest record that is kept. Equal to `next` if none is.
    pub first: u64,
    /// The offset that the next record or the end will have. After the end, the offset after that.
    pub next: u64,
    /// The bytes of the records that are kept.
    pub bytes: u64,
    /// How the stream ended. `None` while it runs.
    pub end: Option<End>,
    /// How long the lease of the producer still lasts, by the clock of the log. `None` if it has expired or the stream has ended.
    pub lease: Option<Duration>,
    /// How long the stream still has a reader, as noted by [`StreamLog::attend`]. `None` if it has not, or if that is over.
    pub attended: Option<Duration>,
    /// [`NewStream::meta`].
    pub meta: Bytes,
}

impl Status {
    /// The offset of the end. `None` while the stream runs.
    #[must_use]
    pub fn end_offset(&self) -> Option<u64> {
        self.end.as_ref().map(|_| self.next - 1)
    }

    /// The offset at which the next epoch began, if `epoch` is not the current one. A reader of that epoch that has read this
    /// offset has seen records that the log does not have.
    #[must_use]
    pub fn forked_at(&self, epoch: Epoch) -> Option<u64> {
        forked_at(&self.forks, epoch)
    }
}

/// [`Status::forked_at`].
pub(crate) fn forked_at(forks: &[u64], epoch: Epoch) -> Option<u64> {
    let after = usize::try_from(epoch.get()).ok()?.checked_sub(1)?;
    forks.get(after).copied()
}

impl<T: StreamLog + ?Sized> StreamLog for Arc<T> {
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created> {
        (**self).create(id, stream)
    }

    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()> {
        (**self).append(id, epoch, entry, overflow)
    }

    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()> {
        (**self).renew(id, epoch)
    }

    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed> {
        (**self).take_over(id, takeover)
    }

    fn read(&self, id: &StreamId, after: u64) -> LogReader {
        (**self).read(id, after)
    }

    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status> {
        (**self).status(id)
    }

    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()> {
        (**self).attend(id, lasting)
    }

    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>> {
        (**self).find(key)
    }

    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool> {
        (**self).delete(id)
    }

    fn is_shared(&self) -> bool {
        (**self).is_shared()
    }
}
