//! The log in the memory of this process.

mod kept;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::kept::{Kept, STREAM_COST, State};
use super::{
    Claimed, Created, Entry, Epoch, LogError, LogErrorKind, LogFuture, LogReader, NewStream,
    Overflow, Status, StreamId, StreamLog, Takeover,
    entry::RECORD_COST,
    reading::{self, Reading},
};

/// A [`StreamLog`] in the memory of this process: streams outlive their connections, but not the process.
///
/// It is bounded per stream and in all, in bytes, and by age. A record counts with its length and 64 bytes for the
/// bookkeeping, a stream with its [`NewStream::meta`] and 1 KiB. When the log is full, the streams that ended first are removed, and
/// then those whose lease has expired. A clone shares the log.
///
/// Old streams are removed when a stream is created or a reader waits; there is no task in the background.
///
/// ```
/// use std::time::Duration;
///
/// use bytes::Bytes;
/// use futures_util::StreamExt;
/// use tower_stream_resume::{End, Entry, Epoch, Memory, NewStream, Overflow, StreamId, StreamLog};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_stream_resume::LogError> {
/// let log = Memory::new();
/// let id = StreamId::random();
/// log.create(&id, NewStream::new("", Duration::from_secs(5))).await?;
/// let records = Entry::records(1, vec![Bytes::from("one"), Bytes::from("two")]);
/// log.append(&id, Epoch::FIRST, &records, Overflow::Refuse).await?;
/// log.append(&id, Epoch::FIRST, &Entry::end(3, End::Complete), Overflow::Refuse).await?;
///
/// let mut reader = log.read(&id, 1);
/// let entry = reader.next().await.unwrap()?;
/// assert_eq!((entry.first, &entry.records[..]), (2, &[Bytes::from("two")][..]));
/// assert_eq!(entry.end, Some(End::Complete));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// Sets the bounds of a [`Memory`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until its log is built"]
pub struct MemoryBuilder {
    max_stream_bytes: usize,
    max_bytes: usize,
    max_age: Duration,
}

impl MemoryBuilder {
    /// Sets how many bytes of one stream are kept. Default: 4 MiB.
    pub fn max_stream_bytes(mut self, bytes: usize) -> Self {
        self.max_stream_bytes = bytes;
        self
    }

    /// Sets how many bytes of all streams together are kept. Default: 256 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how long a stream is kept after its last append or renewal. Default: 10 min.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Creates the log.
    #[must_use]
    pub fn build(self) -> Memory {
        Memory {
            shared: Arc::new(Shared {
                bounds: self,
                streams: Mutex::default(),
                bytes: AtomicUsize::new(0),
            }),
        }
    }
}

struct Shared {
    bounds: MemoryBuilder,
    streams: Mutex<Streams>,
    /// The cost of all streams.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Streams {
    by_id: HashMap<StreamId, Arc<Kept>>,
    by_key: HashMap<Bytes, StreamId>,
    /// Each stream once, by when it is to be looked at: it may have been written to since, but is not too old before.
    by_age: BTreeSet<(Instant, StreamId)>,
}

impl Memory {
    /// A log with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets the bounds of a log.
    pub const fn builder() -> MemoryBuilder {
        MemoryBuilder {
            max_stream_bytes: 4 * 1_024 * 1_024,
            max_bytes: 256 * 1_024 * 1_024,
            max_age: Duration::from_secs(600),
        }
    }

    /// The number of streams that are kept.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.lock().by_id.len()
    }

    /// The number of bytes that are kept, as the bounds count them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn get(&self, id: &StreamId) -> Result<Arc<Kept>, LogError> {
        let mut streams = self.streams.lock();
        let kept = streams.by_id.get(id).ok_or(LogErrorKind::NotFound)?;
        if self.is_expired(&kept.state.lock()) {
            self.remove(&mut streams, id);
            return Err(LogErrorKind::NotFound.into());
        }
        Ok(Arc::clone(kept))
    }

    fn is_expired(&self, state: &State) -> bool {
        state.written.elapsed() >= self.bounds.max_age
    }

    fn remove(&self, streams: &mut Streams, id: &StreamId) -> bool {
        let Some(kept) = streams.by_id.remove(id) else {
            return false;
        };
        if let Some(key) = &kept.key
            && streams.by_key.get(key) == Some(id)
        {
            streams.by_key.remove(key);
        }
        let mut state = kept.state.lock();
        streams.by_age.remove(&(state.looked_at, *id));
        state.is_removed = true;
        let cost = STREAM_COST + kept.meta.len() + state.cost();
        self.bytes.fetch_sub(cost, Ordering::Relaxed);
        drop(state);
        kept.changed.notify_waiters();
        true
    }

    /// Removes the streams that are too old. Looks at a stream at most once in `max_age`.
    fn sweep(&self, streams: &mut Streams) {
        while let Some((looked_at, id)) = streams.by_age.first().copied()
            && looked_at.elapsed() >= self.bounds.max_age
        {
            streams.by_age.pop_first();
            let Some(kept) = streams.by_id.get(&id) else {
                continue;
            };
            let mut state = kept.state.lock();
            if self.is_expired(&state) {
                drop(state);
                self.remove(streams, &id);
            } else {
                state.looked_at = state.written;
                streams.by_age.insert((state.looked_at, id));
            }
        }
    }

    fn has_room(&self, cost: usize) -> bool {
        self.bytes.load(Ordering::Relaxed) + cost <= self.bounds.max_bytes
    }

    /// Makes room for this many bytes, if there are streams that may be removed: those that have ended, and then those
    /// whose producer is lost, the oldest first. Makes some more room than needed, so that this does not run for each append.
    #[cold]
    fn make_room(&self, streams: &mut Streams, cost: usize) -> bool {
        self.sweep(streams);
        let now = Instant::now();
        let idle = streams.by_id.iter().filter_map(|(id, kept)| {
            let state = kept.state.lock();
            let may_go = state.lease(now).is_none();
            may_go.then(|| (state.end.is_none(), state.written, *id))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        for (_, _, id) in idle {
            if self.has_room(cost + self.bounds.max_bytes / 16) {
                break;
            }
            self.remove(streams, &id);
        }
        self.has_room(cost)
    }

    fn create(&self, id: &StreamId, new: NewStream) -> Result<Created, LogError> {
        let cost = STREAM_COST + new.meta.len();
        let mut streams = self.streams.lock();
        if streams.by_id.contains_key(id) {
            return Err(LogErrorKind::Exists.into());
        }
        if let Some(key) = new.key.as_ref().filter(|key| key.join)
            && let Some(bound) = streams.by_key.get(&key.name)
            && let Some(kept) = streams.by_id.get(bound)
        {
            let state = kept.state.lock();
            if state.end.is_none() && !self.is_expired(&state) {
                return Ok(Created::Joined(*bound));
            }
        }
        self.sweep(&mut streams);
        if !self.has_room(cost) && !self.make_room(&mut streams, cost) {
            return Err(LogErrorKind::Full.into());
        }
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        let key = new.key.map(|key| key.name);
        if let Some(key) = &key {
            streams.by_key.insert(key.clone(), *id);
        }
        let now = Instant::now();
        let kept = Kept::new(new.meta, new.lease, key, now);
        streams.by_age.insert((now, *id));
        streams.by_id.insert(*id, Arc::new(kept));
        Ok(Created::New)
    }

    fn append(
        &self,
        id: &StreamId,
        epoch: Epoch,
        entry: &Entry,
        overflow: Overflow,
    ) -> Result<(), LogError> {
        let kept = self.get(id)?;
        let added = entry.cost();
        if !self.has_room(added) {
            self.make_room(&mut self.streams.lock(), added);
        }
        let mut state = kept.state.lock();
        if state.is_removed {
            return Err(LogErrorKind::NotFound.into());
        }
        let now = Instant::now();
        if state.check(epoch, entry)? {
            let of_stream = self.bounds.max_stream_bytes;
            if added > of_stream.min(self.bounds.max_bytes) {
                return Err(LogErrorKind::TooLarge.into());
            }
            // The end of a stream is always stored: it takes no room.
            let in_all = self.bounds.max_bytes + state.cost();
            let in_all = in_all.saturating_sub(self.bytes.load(Ordering::Relaxed));
            let at_most = of_stream.min(in_all);
            if added > 0 && state.cost() + added > at_most {
                if overflow == Overflow::Refuse || added > at_most {
                    return Err(LogErrorKind::Full.into());
                }
                let removed = state.trim(at_most - added);
                self.bytes.fetch_sub(removed, Ordering::Relaxed);
            }
            state.records.extend(entry.records.iter().cloned());
            state.bytes += added - RECORD_COST * entry.records.len();
            state.end.clone_from(&entry.end);
            state.last_first = entry.first;
            self.bytes.fetch_add(added, Ordering::Relaxed);
        }
        state.written = now;
        state.lease_until = now + kept.lease;
        drop(state);
        kept.changed.notify_waiters();
        Ok(())
    }

    fn renew(&self, id: &StreamId, epoch: Epoch) -> Result<(), LogError> {
        Ok(self.get(id)?.renew(epoch)?)
    }

    fn take_over(&self, id: &StreamId, takeover: Takeover) -> Result<Claimed, LogError> {
        Ok(self.get(id)?.take_over(takeover)?)
    }

    fn status(&self, id: &StreamId) -> Result<Status, LogError> {
        Ok(self.get(id)?.status())
    }

    fn attend(&self, id: &StreamId, lasting: Duration) -> Result<(), LogError> {
        let kept = self.get(id)?;
        let mut state = kept.state.lock();
        state.attended_until = state.attended_until.max(Instant::now() + lasting);
        Ok(())
    }
}

struct Reader {
    shared: Arc<Shared>,
    id: StreamId,
    /// The offset up to which everything was returned.
    after: u64,
    kept: Option<Arc<Kept>>,
    /// When the stream is too old, if nothing is written.
    expires: Option<Instant>,
}

impl Reading for Reader {
    async fn changed(&mut self) -> Result<Arc<Notify>, LogError> {
        let kept = self.shared.get(&self.id)?;
        Ok(Arc::clone(&self.kept.insert(kept).changed))
    }

    async fn look(&mut self) -> Result<Option<Entry>, LogError> {
        let kept = self.kept.as_ref().ok_or(LogErrorKind::NotFound)?;
        let state = kept.state.lock();
        if state.is_removed {
            return Err(LogErrorKind::NotFound.into());
        }
        self.expires = state.written.checked_add(self.shared.bounds.max_age);
        let entry = state.read(self.after);
        if let Some(entry) = &entry {
            self.after = entry.next() - 1;
        }
        Ok(entry)
    }

    fn look_again(&self) -> Option<Instant> {
        self.expires
    }
}

impl StreamLog for Memory {
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created> {
        Box::pin(async move { self.shared.create(id, stream) })
    }

    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()> {
        Box::pin(async move { self.shared.append(id, epoch, entry, overflow) })
    }

    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()> {
        Box::pin(async move { self.shared.renew(id, epoch) })
    }

    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed> {
        Box::pin(async move { self.shared.take_over(id, takeover) })
    }

    fn read(&self, id: &StreamId, after: u64) -> LogReader {
        reading::reader(Reader {
            shared: Arc::clone(&self.shared),
            id: *id,
            after,
            kept: None,
            expires: None,
        })
    }

    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status> {
        Box::pin(async move { self.shared.status(id) })
    }

    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()> {
        Box::pin(async move { self.shared.attend(id, lasting) })
    }

    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>> {
        Box::pin(async move {
            let mut streams = self.shared.streams.lock();
            self.shared.sweep(&mut streams);
            Ok(streams.by_key.get(key).copied())
        })
    }

    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool> {
        Box::pin(async move {
            let mut streams = self.shared.streams.lock();
            Ok(self.shared.remove(&mut streams, id))
        })
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("streams", &self.streams())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
