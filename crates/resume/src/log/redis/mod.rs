//! The log in Redis.

mod reader;
mod watch;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use redis::{
    Client, IntoConnectionInfo, ProtocolVersion, RedisError, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig, SendError},
};
use tokio::time::timeout;

use super::{
    Claimed, Created, End, Entry, Epoch, LogError, LogErrorKind, LogFuture, LogReader, NewStream,
    Overflow, Status, StreamId, StreamLog, Takeover,
};
use watch::Watches;

/// About thirty years: what a longer duration becomes, so that the sums in the scripts stay exact.
const LONGEST: Duration = Duration::from_secs(1 << 30);

/// A [`StreamLog`] in Redis 7 or Valkey (feature `redis`): every replica of a service reads and continues the streams of the
/// others.
///
/// A stream is a hash and a Redis Stream with one entry per append. A Lua script compares and appends in one atomic step, and
/// counts the bytes. All of a process goes over one connection (RESP3), on which pub/sub wakes the readers. The connection is
/// made by the first operation, and again after it was lost.
///
/// The clock is that of the server: leases do not depend on those of the replicas. An append is as durable as the server makes
/// it. With its defaults, a crash of Redis can lose the last second (`appendfsync everysec`), or everything since the last snapshot,
/// and a failover can lose what was not replicated. A stream that was lost is [`LogErrorKind::NotFound`], and one that lost its tail
/// gives its producer a [`LogErrorKind::Conflict`].
///
/// Redis must not evict the keys: with a `maxmemory-policy` of `noeviction`, a server that is out of memory refuses appends, which
/// is [`LogErrorKind::Full`]. A Redis Cluster is not supported, because the key of an application and its stream are written in one
/// step.
///
/// ```no_run
/// use tower_stream_resume::Redis;
///
/// # fn main() -> Result<(), tower_stream_resume::LogError> {
/// let log = Redis::builder("redis://127.0.0.1:6379").prefix("chat:").build()?;
/// # drop(log);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

/// Sets the bounds of a [`Redis`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until its log is built"]
pub struct RedisBuilder {
    url: Url,
    prefix: String,
    max_stream_bytes: usize,
    max_age: Duration,
    timeout: Duration,
}

/// It may have a password.
#[derive(Clone)]
struct Url(String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl RedisBuilder {
    /// Sets what the names of all keys and channels start with. Default: `tower-stream:`. Logs with different prefixes share
    /// nothing.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how many bytes of one stream are kept. Default: 4 MiB. A record counts with its length and 64 bytes.
    ///
    /// The streams together are bounded by `maxmemory` of the server.
    pub fn max_stream_bytes(mut self, bytes: usize) -> Self {
        self.max_stream_bytes = bytes;
        self
    }

    /// Sets how long a stream is kept after its last append or renewal. Default: 10 min.
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
    /// [`LogErrorKind::Unavailable`] if the URL is not one of Redis.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn build(self) -> Result<Redis, LogError> {
        let info = self.url.0.as_str().into_connection_info();
        let info = info.map_err(LogError::unavailable)?;
        let resp3 = info.redis_settings().clone();
        let info = info.set_redis_settings(resp3.set_protocol(ProtocolVersion::RESP3));
        let watches = Arc::new(Watches::default());
        let woken = Arc::clone(&watches);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_push_sender(move |push| {
                woken.pushed(push);
                Ok::<_, SendError>(())
            })
            .set_automatic_resubscription();
        let client = Client::open(info).map_err(LogError::unavailable)?;
        let connection = ConnectionManager::new_lazy_with_config(client, config);
        Ok(Redis {
            shared: Arc::new(Shared {
                connection: connection.map_err(LogError::unavailable)?,
                watches,
                bounds: self,
            }),
        })
    }
}

struct Shared {
    connection: ConnectionManager,
    watches: Arc<Watches>,
    bounds: RedisBuilder,
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));
    };
}

script!(CREATE, "create.lua");
script!(APPEND, "append.lua");
script!(RENEW, "renew.lua");
script!(ATTEND, "attend.lua");
script!(DELETE, "delete.lua");
script!(STATUS, "status.lua");
script!(READ, "read.lua");

impl Redis {
    /// A log in the server with this URL: `redis://[user:password@]host[:port][/database]`, or `redis+unix:///path`.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder {
            url: Url(url.into()),
            prefix: "tower-stream:".to_owned(),
            max_stream_bytes: 4 * 1_024 * 1_024,
            max_age: Duration::from_secs(600),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Shared {
    /// The key of the hash of a stream.
    fn fields(&self, id: &StreamId) -> String {
        format!("{}{id}", self.bounds.prefix)
    }

    fn entries(&self, id: &StreamId) -> String {
        format!("{}{id}:entries", self.bounds.prefix)
    }

    fn channel(&self, id: &StreamId) -> String {
        format!("{}{id}:changed", self.bounds.prefix)
    }

    /// The key that is bound to a stream by the application. Keys of Redis may have any bytes.
    fn key(&self, name: &[u8]) -> Vec<u8> {
        [self.bounds.prefix.as_bytes(), b"key:", name].concat()
    }

    fn max_age(&self) -> u64 {
        millis(self.bounds.max_age)
    }

    /// Bounds the time of an operation.
    async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, LogError> {
        match timeout(self.bounds.timeout, operation).await {
            Ok(done) => done.map_err(error),
            Err(elapsed) => Err(LogError::unavailable(elapsed)),
        }
    }

    /// Runs a script, and returns the values after its `Ok`.
    async fn run(&self, call: &ScriptInvocation<'_>) -> Result<Vec<Bytes>, LogError> {
        let mut connection = self.connection.clone();
        let answer = self.within(call.invoke_async(&mut connection)).await?;
        let mut answer: Vec<Bytes> = answer;
        let word = match answer.is_empty() {
            true => Bytes::new(),
            false => answer.remove(0),
        };
        Err(match &word[..] {
            b"Ok" | b"Joined" => return Ok(answer),
            b"NotFound" => LogErrorKind::NotFound,
            b"Exists" => LogErrorKind::Exists,
            b"Fenced" => LogErrorKind::Fenced,
            b"Ended" => LogErrorKind::Ended,
            b"Held" => LogErrorKind::Held,
            b"Full" => LogErrorKind::Full,
            b"TooLarge" => LogErrorKind::TooLarge,
            b"Conflict" => LogErrorKind::Conflict {
                next: number(answer.first())?,
            },
            _ => return Err(nonsense()),
        }
        .into())
    }

    async fn create(&self, id: &StreamId, new: NewStream) -> Result<Created, LogError> {
        let mut call = CREATE.key(self.fields(id));
        let key = new.key;
        if let Some(key) = &key {
            call.key(self.key(&key.name));
        }
        call.arg(id.to_string())
            .arg(&new.meta[..])
            .arg(millis(new.lease))
            .arg(self.max_age())
            .arg(u8::from(key.is_some_and(|key| key.join)))
            .arg(&self.bounds.prefix);
        match self.run(&call).await?.first() {
            None => Ok(Created::New),
            Some(bound) => Ok(Created::Joined(stream_id(bound)?)),
        }
    }

    async fn append(
        &self,
        id: &StreamId,
        epoch: Epoch,
        entry: &Entry,
        overflow: Overflow,
    ) -> Result<(), LogError> {
        let mut call = APPEND.key(self.fields(id));
        call.key(self.entries(id)).key(self.channel(id));
        call.arg(epoch.get())
            .arg(entry.first)
            .arg(entry.next())
            .arg(&encoded(entry)[..])
            .arg(&entry.encode()[..])
            .arg(entry.records.len())
            .arg(entry.bytes())
            .arg(entry.cost())
            .arg(u8::from(overflow == Overflow::Trim))
            .arg(self.bounds.max_stream_bytes)
            .arg(self.max_age());
        self.run(&call).await.map(drop)
    }

    /// Renews the lease of this epoch, or takes the stream over.
    async fn renew(
        &self,
        id: &StreamId,
        epoch: Option<Epoch>,
        takeover: Takeover,
    ) -> Result<Claimed, LogError> {
        let mut call = RENEW.key(self.fields(id));
        call.key(self.entries(id))
            .arg(epoch.map_or_else(String::new, |epoch| epoch.to_string()))
            .arg(u8::from(takeover == Takeover::Always))
            .arg(self.max_age());
        let claimed = self.run(&call).await?;
        let epoch = u32::try_from(number(claimed.first())?).ok();
        Ok(Claimed {
            epoch: epoch.and_then(Epoch::new).ok_or_else(nonsense)?,
            next: number(claimed.get(1))?,
        })
    }

    async fn status(&self, id: &StreamId) -> Result<Status, LogError> {
        let answer = self.run(&STATUS.key(self.fields(id))).await?;
        let now = number(answer.first())?;
        let fields = answer[1..].chunks_exact(2);
        let fields: HashMap<&[u8], &Bytes> =
            fields.map(|field| (&field[0][..], &field[1])).collect();
        let get = |name: &str| fields.get(name.as_bytes()).copied();
        let left = |name| {
            let until = get(name).map(|until| parsed(until)).transpose()?;
            let left = until.and_then(|until| until.checked_sub(now));
            Ok::<_, LogError>(left.filter(|left| *left > 0).map(Duration::from_millis))
        };
        let end = get("end").map(decoded_end).transpose()?;
        let epoch = u32::try_from(number(get("epoch"))?).ok();
        let (first, next) = (number(get("first"))?, number(get("next"))?);
        let has_records = first + u64::from(end.is_some()) < next;
        let forks = get("forks").map_or(&b""[..], |forks| &forks[..]);
        let forks = forks
            .split(|byte| *byte == b',')
            .filter(|fork| !fork.is_empty());
        Ok(Status {
            epoch: epoch.and_then(Epoch::new).ok_or_else(nonsense)?,
            forks: forks.map(parsed).collect::<Result<_, _>>()?,
            first: if has_records { first } else { next },
            next,
            bytes: number(get("bytes"))?,
            lease: left("until")?.filter(|_| end.is_none()),
            end,
            attended: left("attended")?,
            meta: get("meta").cloned().unwrap_or_default(),
        })
    }

    async fn find(&self, key: &[u8]) -> Result<Option<StreamId>, LogError> {
        let mut connection = self.connection.clone();
        let mut get = redis::cmd("GET");
        get.arg(self.key(key));
        let bound: Option<Bytes> = self.within(get.query_async(&mut connection)).await?;
        let Some(bound) = bound else {
            return Ok(None);
        };
        let id = stream_id(&bound)?;
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.fields(&id));
        let exists: bool = self.within(exists.query_async(&mut connection)).await?;
        Ok(exists.then_some(id))
    }
}

impl StreamLog for Redis {
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created> {
        Box::pin(self.shared.create(id, stream))
    }

    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()> {
        Box::pin(self.shared.append(id, epoch, entry, overflow))
    }

    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()> {
        let renew = self.shared.renew(id, Some(epoch), Takeover::IfExpired);
        Box::pin(async move { renew.await.map(drop) })
    }

    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed> {
        Box::pin(self.shared.renew(id, None, takeover))
    }

    fn read(&self, id: &StreamId, after: u64) -> LogReader {
        reader::read(Arc::clone(&self.shared), *id, after)
    }

    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status> {
        Box::pin(self.shared.status(id))
    }

    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()> {
        Box::pin(async move {
            let mut call = ATTEND.key(self.shared.fields(id));
            call.arg(millis(lasting));
            self.shared.run(&call).await.map(drop)
        })
    }

    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>> {
        Box::pin(self.shared.find(key))
    }

    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool> {
        Box::pin(async move {
            let mut call = DELETE.key(self.shared.fields(id));
            call.key(self.shared.entries(id))
                .key(self.shared.channel(id))
                .arg(id.to_string());
            match self.shared.run(&call).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == LogErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("bounds", &self.shared.bounds)
            .finish_non_exhaustive()
    }
}

/// A duration in whole milliseconds, rounded up.
fn millis(duration: Duration) -> u64 {
    let duration = duration.min(LONGEST);
    duration.as_nanos().div_ceil(1_000_000) as u64
}

/// The end of an entry, as the field `end` keeps it: the encoding of an entry at offset 0 that has nothing else.
fn encoded(entry: &Entry) -> Bytes {
    match &entry.end {
        Some(end) => Entry::end(0, end.clone()).encode(),
        None => Bytes::new(),
    }
}

fn decoded_end(field: &Bytes) -> Result<End, LogError> {
    let entry = Entry::decode(field.clone()).map_err(LogError::unavailable)?;
    entry.end.ok_or_else(nonsense)
}

fn number(value: Option<&Bytes>) -> Result<u64, LogError> {
    parsed(value.ok_or_else(nonsense)?)
}

fn parsed(text: &[u8]) -> Result<u64, LogError> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(nonsense)
}

fn stream_id(text: &[u8]) -> Result<StreamId, LogError> {
    let id = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    id.ok_or_else(nonsense)
}

fn nonsense() -> LogError {
    LogError::unavailable("Redis has other data under the names of this log")
}

/// Every failure is `Unavailable`, unless Redis says that it has no memory left.
fn error(error: RedisError) -> LogError {
    let kind = match error.code() {
        Some("OOM") => LogErrorKind::Full,
        _ => LogErrorKind::Unavailable,
    };
    LogError::new(kind, error)
}
