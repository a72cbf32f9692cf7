//! One stream of the log in memory.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{Claimed, End, Entry, Epoch, LogErrorKind, Status, Takeover, log::entry::RECORD_COST};

/// One stream. Its lock is taken inside of that of the list of streams, or alone.
pub(super) struct Kept {
    pub(super) meta: Bytes,
    pub(super) lease: Duration,
    pub(super) key: Option<Bytes>,
    pub(super) state: Mutex<State>,
    /// Notified of every change that a reader waits for.
    pub(super) changed: Arc<Notify>,
}

pub(super) struct State {
    pub(super) epoch: Epoch,
    pub(super) forks: Vec<u64>,
    pub(super) records: VecDeque<Bytes>,
    /// The offset of the first of the records.
    pub(super) first: u64,
    /// The number of bytes of the records.
    pub(super) bytes: usize,
    pub(super) end: Option<End>,
    pub(super) lease_until: Instant,
    pub(super) written: Instant,
    /// The value of `written` when the stream was last looked at for its age.
    pub(super) looked_at: Instant,
    pub(super) attended_until: Instant,
    /// The first offset of the entry that was stored last.
    pub(super) last_first: u64,
    pub(super) is_removed: bool,
}

pub(super) const STREAM_COST: usize = 1_024;

/// The largest item of a reader.
pub(super) const READ_RECORDS: usize = 1_024;
const READ_BYTES: usize = 256 * 1_024;

impl Kept {
    pub(super) fn new(meta: Bytes, lease: Duration, key: Option<Bytes>, now: Instant) -> Self {
        let state = State {
            epoch: Epoch::FIRST,
            forks: Vec::new(),
            records: VecDeque::new(),
            first: 1,
            bytes: 0,
            end: None,
            lease_until: now + lease,
            written: now,
            looked_at: now,
            attended_until: now,
            last_first: 0,
            is_removed: false,
        };
        Self {
            meta,
            lease,
            key,
            state: Mutex::new(state),
            changed: Arc::default(),
        }
    }

    pub(super) fn renew(&self, epoch: Epoch) -> Result<(), LogErrorKind> {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            return Err(LogErrorKind::Fenced);
        }
        if state.end.is_some() {
            return Err(LogErrorKind::Ended);
        }
        state.written = Instant::now();
        state.lease_until = state.written + self.lease;
        Ok(())
    }

    pub(super) fn take_over(&self, takeover: Takeover) -> Result<Claimed, LogErrorKind> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.end.is_some() {
            return Err(LogErrorKind::Ended);
        }
        if takeover == Takeover::IfExpired && state.lease(now).is_some() {
            return Err(LogErrorKind::Held);
        }
        let next = state.next();
        state.epoch = state.epoch.next();
        state.forks.push(next);
        // An entry of the earlier producer is no retry of the new one.
        state.last_first = 0;
        state.written = now;
        state.lease_until = now + self.lease;
        Ok(Claimed {
            epoch: state.epoch,
            next,
        })
    }

    pub(super) fn status(&self) -> Status {
        let state = self.state.lock();
        let now = Instant::now();
        let attended = state.attended_until.saturating_duration_since(now);
        Status {
            epoch: state.epoch,
            forks: state.forks.clone(),
            first: match state.records.is_empty() {
                true => state.next(),
                false => state.first,
            },
            next: state.next(),
            bytes: state.bytes as u64,
            end: state.end.clone(),
            lease: state.lease(now),
            attended: (!attended.is_zero()).then_some(attended),
            meta: self.meta.clone(),
        }
    }
}

impl State {
    /// The offset after the records and the end.
    pub(super) fn next(&self) -> u64 {
        self.first + self.records.len() as u64 + u64::from(self.end.is_some())
    }

    pub(super) fn cost(&self) -> usize {
        self.bytes + RECORD_COST * self.records.len()
    }

    pub(super) fn lease(&self, now: Instant) -> Option<Duration> {
        let left = self.lease_until.saturating_duration_since(now);
        (self.end.is_none() && !left.is_zero()).then_some(left)
    }

    /// The next item of a reader. `None` if it has to wait.
    pub(super) fn read(&self, after: u64) -> Option<Entry> {
        let start = (after + 1).max(self.first);
        let skipped = usize::try_from(start - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            let taken = bytes < READ_BYTES;
            bytes += record.len();
            taken
        };
        let left = self.records.iter().skip(skipped);
        let records: Vec<_> = left.take(READ_RECORDS).take_while(fits).cloned().collect();
        let end_at = self.first + self.records.len() as u64;
        let first = start.min(end_at);
        let is_all = first + records.len() as u64 == end_at;
        let entry = Entry {
            first,
            records,
            end: self.end.clone().filter(|_| is_all),
        };
        (!entry.is_empty()).then_some(entry)
    }

    /// Compares an append with what is stored. False: it was stored already.
    pub(super) fn check(&self, epoch: Epoch, entry: &Entry) -> Result<bool, LogErrorKind> {
        if self.epoch != epoch {
            return Err(LogErrorKind::Fenced);
        }
        let next = self.next();
        let is_retry = entry.first == self.last_first && entry.next() == next;
        if is_retry && entry.end == self.end && !entry.is_empty() {
            return Ok(false);
        }
        if self.end.is_some() {
            return Err(LogErrorKind::Ended);
        }
        match entry.first == next {
            true => Ok(true),
            false => Err(LogErrorKind::Conflict { next }),
        }
    }

    /// Removes the oldest records until the rest costs at most this. Returns the cost of what was removed.
    pub(super) fn trim(&mut self, at_most: usize) -> usize {
        let before = self.cost();
        while self.cost() > at_most {
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.first += 1;
            self.bytes -= oldest.len();
        }
        before - self.cost()
    }
}
