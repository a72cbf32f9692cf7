//! A conformance test for implementations of [`StreamLog`] (feature `conformance`).
//!
//! [`Conformance::run`] checks what the documentation of [`StreamLog`] requires. It needs a tokio runtime with a timer.
//! [`Memory`](crate::Memory) and the other logs of this crate pass it.
//!
//! ```
//! use std::sync::Arc;
//!
//! use tower_stream_resume::{Memory, conformance::Conformance};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! Conformance::new(Arc::new(Memory::new())).run().await;
//! # }
//! ```
//!
//! A log of the network is best checked from two sides, as two replicas see it: [`Conformance::second`].

mod cases;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::{
    Created, End, Entry, Epoch, LogError, LogErrorKind, LogReader, NewStream, Overflow, StreamId,
    StreamLog,
};

/// The checks for one log.
///
/// The streams that it creates have random ids, so the log may be one that is in use.
#[derive(Clone)]
pub struct Conformance {
    first: Arc<dyn StreamLog>,
    second: Arc<dyn StreamLog>,
    lease: Duration,
    patience: Duration,
    fills: Option<usize>,
}

impl Conformance {
    /// Checks this log.
    #[must_use]
    pub fn new(log: Arc<dyn StreamLog>) -> Self {
        Self {
            second: Arc::clone(&log),
            first: log,
            lease: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            fills: None,
        }
    }

    /// Reads and takes over through another handle of the same log, as another replica does.
    #[must_use]
    pub fn second(mut self, log: Arc<dyn StreamLog>) -> Self {
        self.second = log;
        self
    }

    /// Sets the lease of the streams. The checks wait for its end several times. Default: 500 ms. Longer if the clock of the store is coarse.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets after what time a reader that gives nothing fails the test. Default: 30 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Also checks the bound of a stream: the log is one that keeps at most about this many bytes per stream. The check
    /// appends four times as many. Without it, the bound is not checked.
    #[must_use]
    pub fn max_stream_bytes(mut self, bytes: usize) -> Self {
        self.fills = Some(bytes);
        self
    }

    /// Runs all checks, one after another.
    ///
    /// # Panics
    ///
    /// Panics if the log does not conform, with the name of the check.
    pub async fn run(&self) {
        cases::all(self).await;
    }

    /// Creates a stream.
    async fn stream(&self, name: &'static str) -> Case<'_> {
        let id = StreamId::random();
        let new = NewStream::new(name, self.lease);
        let created = self.first.create(&id, new).await;
        assert_eq!(created.expect(name), Created::New, "{name}: create");
        Case {
            suite: self,
            name,
            id,
        }
    }
}

impl fmt::Debug for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conformance")
            .field("log", &self.first)
            .finish_non_exhaustive()
    }
}

/// One check, with a stream of its own.
struct Case<'a> {
    suite: &'a Conformance,
    name: &'static str,
    id: StreamId,
}

/// The record with this offset.
fn record(offset: u64) -> Bytes {
    // Bytes that a store might change: NUL, CR, LF, 0xff, an empty record.
    match offset % 4 {
        0 => Bytes::new(),
        1 => Bytes::from(format!("data: {offset}\r\n\r\n")),
        2 => Bytes::from(format!("\0\u{ff}{offset}\n").into_bytes()),
        _ => Bytes::from([&[0xff, 0xfe, 0x1e][..], &offset.to_be_bytes()].concat()),
    }
}

/// `count` records from this offset on.
fn entry(first: u64, count: u64) -> Entry {
    Entry::records(first, (first..first + count).map(record).collect())
}

impl Case<'_> {
    async fn append(&self, epoch: Epoch, entry: &Entry) -> Result<(), LogError> {
        let append = self
            .suite
            .first
            .append(&self.id, epoch, entry, Overflow::Refuse);
        append.await
    }

    async fn appended(&self, first: u64, count: u64) {
        let stored = self.append(Epoch::FIRST, &entry(first, count)).await;
        stored.unwrap_or_else(|error| panic!("{}: append at {first}: {error:?}", self.name));
    }

    async fn ended(&self, at: u64) {
        let end = Entry::end(at, End::Complete);
        let stored = self.append(Epoch::FIRST, &end).await;
        stored.unwrap_or_else(|error| panic!("{}: end at {at}: {error:?}", self.name));
    }

    fn fails<T: fmt::Debug>(&self, what: &str, done: Result<T, LogError>, kind: LogErrorKind) {
        let found = done.map_err(|error| error.kind());
        assert_eq!(found.err(), Some(kind), "{}: {what}", self.name);
    }

    fn read(&self, after: u64) -> Reading<'_> {
        Reading {
            name: self.name,
            patience: self.suite.patience,
            reader: self.suite.second.read(&self.id, after),
            next: after + 1,
        }
    }

    /// Waits until the lease has expired by the clock of the log.
    async fn expired(&self) {
        let wait = async {
            loop {
                let status = self.suite.second.status(&self.id).await;
                match status.expect(self.name).lease {
                    None => return,
                    Some(left) => sleep(left.max(Duration::from_millis(5))).await,
                }
            }
        };
        let waited = timeout(self.suite.patience, wait).await;
        assert!(waited.is_ok(), "{}: the lease does not expire", self.name);
    }
}

/// A reader that checks the offsets and the bytes.
struct Reading<'a> {
    name: &'a str,
    patience: Duration,
    reader: LogReader,
    next: u64,
}

impl Reading<'_> {
    async fn item(&mut self) -> Option<Result<Entry, LogError>> {
        let item = timeout(self.patience, self.reader.next()).await;
        item.unwrap_or_else(|_| panic!("{}: nothing at offset {}", self.name, self.next))
    }

    /// Reads the records up to this offset.
    async fn up_to(&mut self, last: u64) {
        while self.next <= last {
            let end = self.entry().await;
            assert_eq!(end, None, "{}: an end before {last}", self.name);
        }
        assert_eq!(self.next, last + 1, "{}: too much", self.name);
    }

    /// Reads everything, up to the end at this offset.
    async fn until_end(&mut self, at: u64) -> End {
        let end = loop {
            if let Some(end) = self.entry().await {
                break end;
            }
        };
        assert_eq!(self.next, at, "{}: the offset of the end", self.name);
        let more = self.item().await;
        assert!(more.is_none(), "{}: {more:?} after the end", self.name);
        end
    }

    async fn entry(&mut self) -> Option<End> {
        let (name, next) = (self.name, self.next);
        let item = self.item().await;
        let item = item.unwrap_or_else(|| panic!("{name}: no end, at offset {next}"));
        let item = item.unwrap_or_else(|error| panic!("{name}: at offset {next}: {error:?}"));
        assert!(!item.is_empty(), "{name}: an empty item");
        assert_eq!(item.first, next, "{name}: the first offset of an item");
        for found in &item.records {
            assert_eq!(*found, record(self.next), "{name}: record {}", self.next);
            self.next += 1;
        }
        item.end
    }
}
