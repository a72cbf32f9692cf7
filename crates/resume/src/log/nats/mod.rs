//! The log in NATS JetStream.

mod jetstream;
mod reader;
mod state;
mod watch;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{
    ConnectOptions, ServerAddr,
    jetstream::stream::{Config, StorageType},
};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, time::timeout, try_join};

use self::{
    jetstream::{JetStream, Message, Unstored},
    state::{Gone, KEY_BYTES, State},
    watch::Watches,
};
use super::{
    Claimed, Created, Entry, Epoch, LogError, LogErrorKind, LogFuture, LogReader, NewStream,
    Overflow, Status, StreamId, StreamLog, Takeover,
};

/// A [`StreamLog`] in NATS JetStream, server 2.9 or later (feature `nats`): every replica of a service reads and continues the
/// streams of the others.
///
/// All streams are in one JetStream stream, each on a subject of its own, with one message per append. An append names the sequence
/// number of the subject's last message, so the server stores it only if no other producer has written in between; each message carries
/// the epoch and the next offset. All of a process goes over one connection, which is made by the first operation, and again after it
/// was lost.
///
/// The JetStream stream is created by the first stream that is stored, and again if someone has deleted it. To choose its replicas, its
/// placement or its storage, create it beforehand, with roll-ups allowed and the subjects `NAME.stream.*`, `NAME.attended.*`,
/// `NAME.key.*` and `NAME.clock`. Wake-ups of the readers are plain messages on `NAME.changed.*`.
///
/// The clock is that of the server: leases do not depend on those of the replicas. A server stores at most `max_payload` bytes at once
/// (1 MiB by default): a larger record is [`LogErrorKind::TooLarge`].
///
/// ```no_run
/// use tower_stream_resume::Nats;
///
/// # fn main() -> Result<(), tower_stream_resume::LogError> {
/// let log = Nats::builder("nats://127.0.0.1:4222").name("chat").build()?;
/// # drop(log);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
}

/// Sets the bounds of a [`Nats`].
#[derive(Clone)]
#[must_use = "a builder does nothing until its log is built"]
pub struct NatsBuilder {
    urls: String,
    options: ConnectOptions,
    name: String,
    replicas: usize,
    max_stream_bytes: usize,
    max_bytes: u64,
    max_age: Duration,
    timeout: Duration,
}

impl NatsBuilder {
    /// Sets how the client connects: credentials, TLS, the delay before it connects again.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets the name of the JetStream stream, which all subjects start with. Default: `tower-stream`. Logs with different names
    /// share nothing.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how many servers of a cluster have the JetStream stream, if this log creates it. Default: 1.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets how many bytes of one stream are kept. Default: 4 MiB. A record counts with its length and 64 bytes.
    pub fn max_stream_bytes(mut self, bytes: usize) -> Self {
        self.max_stream_bytes = bytes;
        self
    }

    /// Sets how many bytes of all streams together are kept, if this log creates the JetStream stream. Default: 256 MiB. When it is
    /// full, the oldest records of all streams are removed.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how long a record is kept, if this log creates the JetStream stream, and so how long a stream is after its last append or
    /// renewal. Default: 1 h, and at least 100 ms.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Sets after what time an operation fails with [`LogErrorKind::Unavailable`]. Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates the log. Nothing is sent to the server before the first operation.
    ///
    /// # Errors
    ///
    /// [`LogErrorKind::Unavailable`] if the URL is not one of NATS, or if the name has a character other than letters, digits, `-`
    /// and `_`.
    pub fn build(self) -> Result<Nats, LogError> {
        let servers = self.urls.split(',').map(str::parse);
        let servers: Result<Vec<ServerAddr>, _> = servers.collect();
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if self.name.is_empty() || !self.name.bytes().all(is_safe) {
            return Err(LogError::unavailable(
                "the name is not one of a JetStream stream",
            ));
        }
        Ok(Nats {
            shared: Arc::new(Shared {
                servers: servers.map_err(LogError::unavailable)?,
                server: OnceCell::new(),
                watches: Watches::default(),
                produced: Mutex::default(),
                bounds: self,
            }),
        })
    }

    /// What the JetStream stream is created with.
    fn config(&self) -> Config {
        let subjects = ["stream.*", "attended.*", "key.*", "clock"];
        Config {
            name: self.name.clone(),
            subjects: subjects.map(|rest| format!("{}.{rest}", self.name)).into(),
            max_bytes: i64::try_from(self.max_bytes).unwrap_or(i64::MAX),
            max_age: self.max_age,
            storage: StorageType::File,
            num_replicas: self.replicas,
            allow_rollup: true,
            ..Config::default()
        }
    }
}

struct Shared {
    servers: Vec<ServerAddr>,
    server: OnceCell<JetStream>,
    watches: Watches,
    /// The last messages of streams that this process appends to, so that an append is one request.
    produced: Mutex<HashMap<StreamId, Known>>,
    bounds: NatsBuilder,
}

/// The last message of a stream.
#[derive(Clone)]
struct Known {
    sequence: u64,
    state: State,
    /// At least so much is no longer kept.
    gone: Gone,
}

/// More are not remembered: the next append of a stream that was forgotten takes one more request.
const MOST_PRODUCED: usize = 16_384;

/// How often an operation begins anew because another one was faster.
const TRIES: usize = 16;

impl Nats {
    /// A log in the server with this URL, or in the cluster with these URLs, separated by commas:
    /// `nats://[user:password@]host[:port]`, or `tls://..`.
    pub fn builder(urls: impl Into<String>) -> NatsBuilder {
        let options = ConnectOptions::new().reconnect_delay_callback(|attempts| {
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX).min(20);
            Duration::from_millis(50) * attempts
        });
        NatsBuilder {
            urls: urls.into(),
            options,
            name: "tower-stream".to_owned(),
            replicas: 1,
            max_stream_bytes: 4 * 1_024 * 1_024,
            max_bytes: 256 * 1_024 * 1_024,
            max_age: Duration::from_secs(3_600),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Shared {
    fn subject(&self, id: &StreamId) -> String {
        format!("{}.stream.{id}", self.bounds.name)
    }

    fn attended(&self, id: &StreamId) -> String {
        format!("{}.attended.{id}", self.bounds.name)
    }

    fn changed(&self, id: &StreamId) -> String {
        format!("{}.changed.{id}", self.bounds.name)
    }

    /// A key may have any bytes, and a subject may not.
    fn key(&self, hash: &[u8; KEY_BYTES]) -> String {
        let hash = hash.map(|byte| format!("{byte:02x}")).concat();
        format!("{}.key.{hash}", self.bounds.name)
    }

    /// The connection. It is made in the background, so this does not wait for the server.
    async fn server(&self) -> Result<&JetStream, LogError> {
        let connect = || async {
            let options = self.bounds.options.clone().retry_on_initial_connect();
            let client = options.connect(self.servers.clone()).await;
            JetStream::new(client.map_err(LogError::unavailable)?, &self.bounds).await
        };
        self.server.get_or_try_init(connect).await
    }

    /// Bounds the time of an operation.
    async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        match timeout(self.bounds.timeout, operation).await {
            Ok(done) => done,
            Err(elapsed) => Err(LogError::unavailable(elapsed)),
        }
    }

    async fn last(&self, id: &StreamId) -> Result<(Message, State), LogError> {
        let server = self.server().await?;
        let message = server.last(&self.subject(id)).await?;
        let message = message.ok_or(LogErrorKind::NotFound)?;
        let state = message.state()?;
        Ok((message, state))
    }

    async fn known(&self, id: &StreamId) -> Result<Known, LogError> {
        let (message, state) = self.last(id).await?;
        Ok(Known {
            sequence: message.sequence,
            state: state.without_records(),
            gone: Gone::default(),
        })
    }

    fn remember(&self, id: &StreamId, known: Known) {
        let mut produced = self.produced.lock();
        if known.state.end().is_some() {
            produced.remove(id);
            return;
        }
        if produced.len() >= MOST_PRODUCED && !produced.contains_key(id) {
            produced.clear();
        }
        produced.insert(*id, known);
    }

    /// Stores the next message of a stream.
    async fn publish(&self, id: &StreamId, state: &State, after: u64) -> Result<u64, Unstored> {
        let server = self.server().await.map_err(Unstored::Failed)?;
        let sequence = server
            .publish(self.subject(id), state.encode(), after)
            .await?;
        // Only after it is stored, so that the readers find it. A wake-up that is lost delays a reader until it looks again.
        self.wake(server, id).await;
        Ok(sequence)
    }

    async fn wake(&self, server: &JetStream, id: &StreamId) {
        let woken = server.client.publish(self.changed(id), Bytes::new()).await;
        if let Err(error) = woken {
            tracing::debug!(%error, "the readers of a stream are not woken");
        }
    }

    /// The last message of a stream as this process remembers it, which may be old, or else as it is stored. The latter is true.
    async fn before(&self, id: &StreamId, turn: usize) -> Result<(Known, bool), LogError> {
        let remembered = match turn {
            0 => self.produced.lock().get(id).cloned(),
            _ => None,
        };
        match remembered {
            Some(known) => Ok((known, false)),
            None => Ok((self.known(id).await?, true)),
        }
    }

    /// Stores the next message after this one. False: another message was faster.
    async fn store(&self, id: &StreamId, before: &Known, state: State) -> Result<bool, LogError> {
        match self.publish(id, &state, before.sequence).await {
            Ok(sequence) => {
                let known = Known {
                    sequence,
                    state: state.without_records(),
                    gone: before.gone,
                };
                self.remember(id, known);
                Ok(true)
            }
            // Without a JetStream stream there is no message either, which the next turn finds.
            Err(Unstored::Changed | Unstored::NoStream) => {
                self.produced.lock().remove(id);
                Ok(false)
            }
            Err(Unstored::Failed(error)) => Err(error),
        }
    }

    async fn append(
        &self,
        id: &StreamId,
        epoch: Epoch,
        entry: &Entry,
        overflow: Overflow,
    ) -> Result<(), LogError> {
        let bound = self.bounds.max_stream_bytes as u64;
        let added = entry.cost() as u64;
        for turn in 0..TRIES {
            let (mut before, is_true) = self.before(id, turn).await?;
            match before.state.check(epoch, entry) {
                Ok(true) => {}
                _ if !is_true => continue,
                Ok(false) => return Ok(()),
                Err(kind) => return Err(kind.into()),
            }
            if added > bound {
                return Err(LogErrorKind::TooLarge.into());
            }
            let mut old = None;
            if added > 0 && before.state.cost(before.gone) + added > bound {
                let at_most = bound - added;
                old = self.make_room(id, &mut before, at_most, overflow).await?;
            }
            let state = before.state.clone().appended(entry);
            if !self.store(id, &before, state).await? {
                continue;
            }
            if old.is_some() {
                // The entry is stored, whatever becomes of the old ones: the next append tries to remove them again.
                let subject = self.subject(id);
                if let Err(error) = self.server().await?.purge(&subject, old).await {
                    tracing::debug!(%error, "the oldest records of a stream stay");
                }
            }
            return Ok(());
        }
        Err(contended())
    }

    /// Finds out what is kept, and what has to go so that the rest costs at most this. Returns the sequence number before which
    /// everything is to be removed.
    #[cold]
    async fn make_room(
        &self,
        id: &StreamId,
        known: &mut Known,
        at_most: u64,
        overflow: Overflow,
    ) -> Result<Option<u64>, LogError> {
        let (server, subject) = (self.server().await?, self.subject(id));
        let mut oldest = server.next(&subject, 0).await?;
        if let Some(first) = &oldest {
            known.gone = first.state()?.before();
        }
        if known.state.cost(known.gone) <= at_most {
            return Ok(None);
        }
        if overflow == Overflow::Refuse {
            return Err(LogErrorKind::Full.into());
        }
        // Some more than needed, so that this does not happen for each append.
        let at_most = at_most.saturating_sub(self.bounds.max_stream_bytes as u64 / 8);
        let mut before = None;
        while known.state.cost(known.gone) > at_most {
            let Some(message) = oldest else { break };
            known.gone = message.state()?.through();
            before = Some(message.sequence + 1);
            oldest = server.next(&subject, message.sequence + 1).await?;
        }
        Ok(before)
    }

    async fn renew(&self, id: &StreamId, epoch: Epoch) -> Result<(), LogError> {
        for turn in 0..TRIES {
            let (before, is_true) = self.before(id, turn).await?;
            let refused = match before.state.epoch == epoch {
                true => before.state.end().map(|_| LogErrorKind::Ended),
                false => Some(LogErrorKind::Fenced),
            };
            match refused {
                Some(_) if !is_true => continue,
                Some(kind) => return Err(kind.into()),
                None => {}
            }
            let state = before.state.clone().renewed();
            if !self.store(id, &before, state).await? {
                continue;
            }
            if before.state.entry.is_none() {
                // The new message has all that this one had.
                self.server().await?.remove(before.sequence).await;
            }
            return Ok(());
        }
        Err(contended())
    }

    async fn take_over(&self, id: &StreamId, takeover: Takeover) -> Result<Claimed, LogError> {
        // Always by what the log has now.
        self.produced.lock().remove(id);
        for _ in 0..TRIES {
            let (message, state) = self.last(id).await?;
            if state.end().is_some() {
                return Err(LogErrorKind::Ended.into());
            }
            if takeover == Takeover::IfExpired {
                let now = self.server().await?.now().await?;
                if left(&message, state.lease, now).is_some() {
                    return Err(LogErrorKind::Held.into());
                }
            }
            let state = state.taken_over();
            match self.publish(id, &state, message.sequence).await {
                Ok(_) => {
                    return Ok(Claimed {
                        epoch: state.epoch,
                        next: state.next,
                    });
                }
                Err(Unstored::Changed | Unstored::NoStream) => {}
                Err(Unstored::Failed(error)) => return Err(error),
            }
        }
        Err(contended())
    }

    async fn create(&self, id: &StreamId, new: NewStream) -> Result<Created, LogError> {
        let server = self.server().await?;
        let key = new.key.as_ref().map(|key| hash(&key.name));
        let joins = new.key.as_ref().is_some_and(|key| key.join);
        let state = State {
            epoch: Epoch::FIRST,
            next: 1,
            bytes: 0,
            last: 0,
            lease: new.lease,
            forks: Vec::new(),
            key,
            meta: new.meta,
            entry: None,
        };
        let mut is_created = false;
        for _ in 0..TRIES {
            let mut bound = None;
            if let Some(key) = &key {
                bound = server.last(&self.key(key)).await?;
            }
            if let Some(other) = bound.as_ref().filter(|_| joins) {
                let other = stream_id(&other.payload)?;
                if other != *id && self.is_running(&other).await? {
                    if is_created {
                        server.purge(&self.subject(id), None).await?;
                    }
                    return Ok(Created::Joined(other));
                }
            }
            if !is_created {
                match server.publish(self.subject(id), state.encode(), 0).await {
                    Ok(_) => is_created = true,
                    Err(Unstored::Changed) => return Err(LogErrorKind::Exists.into()),
                    Err(Unstored::NoStream) => {
                        server.create().await?;
                        continue;
                    }
                    Err(Unstored::Failed(error)) => return Err(error),
                }
            }
            let Some(key) = &key else {
                return Ok(Created::New);
            };
            let after = bound.map_or(0, |bound| bound.sequence);
            let payload = Bytes::copy_from_slice(id.as_bytes());
            match server.publish(self.key(key), payload, after).await {
                Ok(_) => return Ok(Created::New),
                Err(Unstored::Failed(error)) => return Err(error),
                // Another stream was bound to the key at the same time.
                Err(_) => {}
            }
        }
        Err(contended())
    }

    /// Whether there is such a stream, and it has not ended.
    async fn is_running(&self, id: &StreamId) -> Result<bool, LogError> {
        match self.last(id).await {
            Ok((_, state)) => Ok(state.end().is_none()),
            Err(error) if error.kind() == LogErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn status(&self, id: &StreamId) -> Result<Status, LogError> {
        let server = self.server().await?;
        let (subject, attended) = (self.subject(id), self.attended(id));
        let (last, first, attended) = try_join!(
            server.last(&subject),
            server.next(&subject, 0),
            server.last(&attended),
        )?;
        let last = last.ok_or(LogErrorKind::NotFound)?;
        // Read after the last one, and so perhaps of a later time, or even gone.
        let first = first.as_ref().unwrap_or(&last).state()?;
        let state = last.state()?;
        let now = server.now().await?;
        let end = state.end().cloned();
        let records = state.next - u64::from(end.is_some());
        let has_records = first.first() < records;
        Ok(Status {
            epoch: state.epoch,
            first: if has_records {
                first.first()
            } else {
                state.next
            },
            next: state.next,
            bytes: state.bytes.saturating_sub(first.before().bytes),
            lease: left(&last, state.lease, now).filter(|_| end.is_none()),
            attended: attended.and_then(|note| left(&note, note_of(&note), now)),
            end,
            forks: state.forks,
            meta: state.meta,
        })
    }

    async fn attend(&self, id: &StreamId, lasting: Duration) -> Result<(), LogError> {
        let server = self.server().await?;
        let subject = self.attended(id);
        let (last, note) = try_join!(self.last(id), server.last(&subject))?;
        drop(last);
        if let Some(note) = note {
            let now = server.now().await?;
            if left(&note, note_of(&note), now).is_some_and(|left| left >= lasting) {
                return Ok(());
            }
        }
        let lasting = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
        let note = Bytes::copy_from_slice(&lasting.to_be_bytes());
        server.replace(subject, note).await.map(drop)
    }

    async fn find(&self, key: &[u8]) -> Result<Option<StreamId>, LogError> {
        let server = self.server().await?;
        let Some(bound) = server.last(&self.key(&hash(key))).await? else {
            return Ok(None);
        };
        let id = stream_id(&bound.payload)?;
        let exists = server.last(&self.subject(&id)).await?;
        Ok(exists.map(|_| id))
    }

    async fn delete(&self, id: &StreamId) -> Result<bool, LogError> {
        let server = self.server().await?;
        let state = match self.last(id).await {
            Ok((_, state)) => state,
            Err(error) if error.kind() == LogErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let purged = server.purge(&self.subject(id), None).await?;
        self.wake(server, id).await;
        server.purge(&self.attended(id), None).await?;
        if let Some(key) = state.key.map(|key| self.key(&key))
            && let Some(bound) = server.last(&key).await?
            && bound.payload == id.as_bytes()[..]
        {
            server.purge(&key, Some(bound.sequence + 1)).await?;
        }
        Ok(purged > 0)
    }
}

fn contended() -> LogError {
    LogError::unavailable("other operations on the same stream were faster each time")
}

fn hash(key: &[u8]) -> [u8; KEY_BYTES] {
    Sha256::digest(key).into()
}

fn stream_id(payload: &[u8]) -> Result<StreamId, LogError> {
    let bytes = <[u8; 16]>::try_from(payload).map_err(LogError::unavailable)?;
    Ok(StreamId::from_bytes(bytes))
}

/// How long a reader said that it will be there.
fn note_of(note: &Message) -> Duration {
    let millis = <[u8; 8]>::try_from(&note.payload[..]).unwrap_or_default();
    Duration::from_millis(u64::from_be_bytes(millis))
}

/// How much is left of what lasts for this time from the message on.
fn left(message: &Message, lasting: Duration, now: SystemTime) -> Option<Duration> {
    let age = now.duration_since(message.at).unwrap_or_default();
    lasting.checked_sub(age).filter(|left| !left.is_zero())
}

impl StreamLog for Nats {
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created> {
        Box::pin(self.shared.within(self.shared.create(id, stream)))
    }

    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()> {
        let append = self.shared.append(id, epoch, entry, overflow);
        Box::pin(self.shared.within(append))
    }

    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()> {
        Box::pin(self.shared.within(self.shared.renew(id, epoch)))
    }

    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed> {
        Box::pin(self.shared.within(self.shared.take_over(id, takeover)))
    }

    fn read(&self, id: &StreamId, after: u64) -> LogReader {
        reader::read(Arc::clone(&self.shared), *id, after)
    }

    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status> {
        Box::pin(self.shared.within(self.shared.status(id)))
    }

    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()> {
        Box::pin(self.shared.within(self.shared.attend(id, lasting)))
    }

    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>> {
        Box::pin(self.shared.within(self.shared.find(key)))
    }

    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool> {
        Box::pin(self.shared.within(self.shared.delete(id)))
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("bounds", &self.shared.bounds)
            .finish_non_exhaustive()
    }
}

/// The URLs may have a password.
impl fmt::Debug for NatsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBuilder")
            .field("name", &self.name)
            .field("replicas", &self.replicas)
            .field("max_stream_bytes", &self.max_stream_bytes)
            .field("max_bytes", &self.max_bytes)
            .field("max_age", &self.max_age)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
