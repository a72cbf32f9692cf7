//! A stream whose producer runs in this process: the records that its readers have not all seen, or that are not yet stored.

use std::{
    collections::VecDeque,
    ops::Range,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_stream_core::Cause;

use crate::{Claimed, Durability, End, Entry, Epoch, StreamId, head::Head};

/// How far the producer may run ahead of its fastest reader, or of the log if there is no reader. As many records are
/// kept here for slower readers; a reader that is further behind reads the log.
const AHEAD_RECORDS: usize = 1_024;
const AHEAD_BYTES: usize = 1_024 * 1_024;

/// With readers, the log may be behind by this much. After that the stream is no longer stored.
const UNSTORED_RECORDS: usize = 4 * AHEAD_RECORDS;
const UNSTORED_BYTES: usize = 4 * AHEAD_BYTES;

/// What a reader takes at once.
const TAKE_RECORDS: usize = 64;
const TAKE_BYTES: usize = 64 * 1_024;

/// The largest append.
const APPEND_RECORDS: usize = 256;
const APPEND_BYTES: usize = 256 * 1_024;

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) head: Head,
    /// The first offset of each epoch after the first one, as in [`Status`](crate::Status).
    pub(crate) forks: Vec<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: VecDeque<Bytes>,
    /// The offset of the first of the records.
    first: u64,
    bytes: usize,
    /// The next offset to store.
    to_store: u64,
    unstored_bytes: usize,
    /// Whether readers get only what is stored.
    is_durable: bool,
    /// The first offset that readers do not get yet. `u64::MAX`: they get everything.
    readable: u64,
    end: Option<End>,
    end_is_stored: bool,
    /// The log has not got the rest of the stream, and will not get it.
    is_broken: bool,
    /// Another producer goes on with the stream, so the readers go on with the log.
    is_moved: bool,
    /// The end is not stored: another producer is to go on.
    is_released: bool,
    /// Why the producer must stop.
    stop: Option<Cause>,
    /// The readers by their place, each with its waker if it waits. `None` is a free place.
    readers: Vec<Option<Option<Waker>>>,
    count: usize,
    /// The last offset that a reader has taken, and the bytes after it.
    fastest: u64,
    ahead_bytes: usize,
    /// Since when there is no reader. Later than now if one is expected until then.
    alone_since: Option<Instant>,
    /// Until when a reader that a drain has sent away may come back.
    expected_until: Option<Instant>,
    pump: Option<Waker>,
    /// Whether the producer waits for a reader or the log.
    is_full: bool,
    store: Option<Waker>,
}

/// What the producer may do.
#[derive(Debug)]
pub(crate) enum Next {
    /// Produce up to this many records.
    Room(usize),
    /// Wait: the readers or the log are too far behind.
    Full,
    Stop(Cause),
}

/// What is to be done for the log.
#[derive(Debug)]
pub(crate) enum Work {
    Append(Entry),
    /// The end is stored, or the log gets no more of the stream.
    Done,
}

/// What a reader gets.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The next records are in the buffer of the reader.
    Records,
    End(End),
    /// The record is no longer here: read the log.
    Behind,
    /// Another producer goes on with the stream.
    Moved,
}

impl Live {
    /// A stream without records, and with one reader at place 0.
    pub(crate) fn new(id: StreamId, epoch: Epoch, head: Head) -> Self {
        let is_durable = head.durability == Durability::Stored;
        Self {
            id,
            epoch,
            head,
            forks: Vec::new(),
            state: Mutex::new(State {
                records: VecDeque::new(),
                first: 1,
                bytes: 0,
                to_store: 1,
                unstored_bytes: 0,
                is_durable,
                readable: if is_durable { 1 } else { u64::MAX },
                end: None,
                end_is_stored: false,
                is_broken: false,
                is_moved: false,
                is_released: false,
                stop: None,
                readers: vec![Some(None)],
                count: 1,
                fastest: 0,
                ahead_bytes: 0,
                alone_since: None,
                expected_until: None,
                pump: None,
                is_full: false,
                store: None,
            }),
        }
    }

    /// A stream that goes on here, with these forks. There is no reader yet, but one is expected until then.
    pub(crate) fn restarted(
        id: StreamId,
        claimed: Claimed,
        forks: Vec<u64>,
        head: Head,
        reader_until: Instant,
    ) -> Self {
        let mut live = Self::new(id, claimed.epoch, head);
        live.forks = forks;
        let state = live.state.get_mut();
        state.first = claimed.next;
        state.to_store = claimed.next;
        state.fastest = claimed.next - 1;
        if state.is_durable {
            state.readable = claimed.next;
        }
        state.readers.clear();
        state.count = 0;
        state.alone_since = Some(reader_until);
        live
    }

    /// Adds these records of the producer, and wakes the readers and the store. Both are empty afterwards, and `woken` before as
    /// well: they are kept by the caller to save allocations.
    pub(crate) fn push(&self, records: &mut Vec<Bytes>, woken: &mut Vec<Waker>) {
        if records.is_empty() {
            return;
        }
        {
            let mut state = self.state.lock();
            let length: usize = records.iter().map(Bytes::len).sum();
            state.bytes += length;
            state.ahead_bytes += length;
            state.records.extend(records.drain(..));
            if !state.is_broken {
                state.unstored_bytes += length;
                let unstored = usize::try_from(state.next() - state.to_store).unwrap_or(usize::MAX);
                let too_far = unstored > UNSTORED_RECORDS || state.unstored_bytes > UNSTORED_BYTES;
                // Readers that wait for the log hold the producer long before.
                if too_far && state.count > 0 && !state.is_durable {
                    state.is_broken = true;
                    state.settle();
                }
            }
            state.trim();
            match state.is_durable {
                true => woken.extend(state.store.take()),
                false => state.wakers(woken),
            }
        }
        // Not under the lock: a waker may be anyone's code.
        woken.drain(..).for_each(Waker::wake);
    }

    /// The producer has ended. Its readers get this end after the records.
    pub(crate) fn finish(&self, end: End) {
        self.change(|state, woken| {
            state.end.get_or_insert(end);
            state.wakers(woken);
        });
    }

    /// Changes the state, and wakes who is collected. Not under the lock: a waker may be anyone's code.
    fn change(&self, change: impl FnOnce(&mut State, &mut Vec<Waker>)) {
        let mut woken = Vec::new();
        change(&mut self.state.lock(), &mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Asks the producer to stop.
    pub(crate) fn stop(&self, cause: Cause) {
        let mut state = self.state.lock();
        state.stop.get_or_insert(cause);
        wake(state.pump.take());
    }

    /// What the producer may do next. It is woken when that changes.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> (Next, Option<Instant>) {
        let mut state = self.state.lock();
        if let Some(cause) = &state.stop {
            return (Next::Stop(cause.clone()), None);
        }
        let unstored = usize::try_from(state.next() - state.to_store).unwrap_or(usize::MAX);
        let log_is_behind = unstored >= AHEAD_RECORDS || state.unstored_bytes >= AHEAD_BYTES;
        let ahead = state.next() - 1 - state.fastest.min(state.next() - 1);
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        let is_ahead = ahead >= AHEAD_RECORDS || state.ahead_bytes >= AHEAD_BYTES;
        let (is_full, ahead) = match state.count {
            0 if !state.is_broken => (log_is_behind, unstored),
            // Without a log, the records stay here until a reader comes.
            _ => (is_ahead, ahead),
        };
        store_waker(&mut state.pump, cx);
        state.is_full = is_full;
        let next = match is_full {
            true => Next::Full,
            false => Next::Room(AHEAD_RECORDS.saturating_sub(ahead)),
        };
        (next, state.alone_since)
    }

    /// Sets the time since which the stream has no reader: a reader on another replica counts until then.
    pub(crate) fn attended(&self, until: Instant) {
        if let Some(since) = &mut self.state.lock().alone_since {
            *since = until;
        }
    }

    /// What is to be stored next.
    pub(crate) fn poll_work(&self, cx: &mut Context<'_>) -> Poll<Work> {
        let mut state = self.state.lock();
        if state.is_broken || state.end_is_stored {
            return Poll::Ready(Work::Done);
        }
        let skipped = usize::try_from(state.to_store - state.first).unwrap_or(usize::MAX);
        let left = state.records.len().saturating_sub(skipped);
        if left == 0 && state.is_released {
            let mut woken = Vec::new();
            state.end_is_stored = true;
            state.readable = u64::MAX;
            state.wakers(&mut woken);
            drop(state);
            woken.into_iter().for_each(Waker::wake);
            return Poll::Ready(Work::Done);
        }
        if left == 0 && state.end.is_none() {
            store_waker(&mut state.store, cx);
            return Poll::Pending;
        }
        let unstored = state.fitting(skipped, APPEND_RECORDS, APPEND_BYTES);
        let records: Vec<_> = state.records.range(unstored).cloned().collect();
        let is_all = records.len() == left;
        Poll::Ready(Work::Append(Entry {
            first: state.to_store,
            records,
            end: state.end.clone().filter(|_| is_all && !state.is_released),
        }))
    }

    /// The entry is stored.
    pub(crate) fn stored(&self, entry: &Entry) {
        self.change(|state, woken| {
            state.to_store = entry.first + entry.records.len() as u64;
            state.unstored_bytes = state.unstored_bytes.saturating_sub(entry.bytes());
            state.end_is_stored = entry.end.is_some();
            if state.is_durable {
                state.readable = match state.end_is_stored {
                    true => u64::MAX,
                    false => state.to_store,
                };
                state.wakers(woken);
            }
            state.trim();
            if state.count == 0 && state.is_full {
                woken.extend(state.pump.take());
            }
        });
    }

    /// Nothing more is stored. Readers that get only what is stored get this cause as the end, and the producer stops.
    pub(crate) fn break_off(&self, cause: Cause) {
        self.change(|state, woken| {
            if state.is_durable {
                state.stop.get_or_insert_with(|| cause.clone());
                state.end = Some(End::Failed(cause));
            }
            state.abandon(woken);
        });
    }

    /// The producer has stopped, but another one is to go on: the records are stored, and no end. The readers here get this cause.
    pub(crate) fn release(&self, cause: Cause) {
        self.state.lock().is_released = true;
        self.finish(End::Failed(cause));
    }

    /// Another producer goes on with the stream. Nothing more is stored, the readers go on with the log, and the producer stops.
    pub(crate) fn hand_over(&self, cause: Cause) {
        self.change(|state, woken| {
            state.is_moved = true;
            state.stop.get_or_insert(cause);
            state.abandon(woken);
        });
    }

    pub(crate) fn is_moved(&self) -> bool {
        self.state.lock().is_moved
    }

    pub(crate) fn is_resumable(&self) -> bool {
        !self.state.lock().is_broken
    }

    /// Whether the producer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// The number of records that are in memory here.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().records.len()
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.state.lock().count > 0
    }

    /// The offset of the end, if the producer has ended and none on another server goes on.
    pub(crate) fn end_offset(&self) -> Option<u64> {
        let state = self.state.lock();
        let goes_on = state.is_released || state.is_moved;
        let end = state.end.as_ref().filter(|_| !goes_on);
        end.map(|_| state.next())
    }

    /// Adds a reader. Returns its place.
    pub(crate) fn join(&self) -> usize {
        let mut state = self.state.lock();
        state.count += 1;
        state.alone_since = None;
        wake(state.pump.take());
        match state.readers.iter().position(Option::is_none) {
            Some(place) => {
                state.readers[place] = Some(None);
                place
            }
            None => {
                state.readers.push(Some(None));
                state.readers.len() - 1
            }
        }
    }

    /// Removes a reader. It may come back within this time, here or at another server.
    pub(crate) fn leave(&self, place: usize, back_within: Option<Duration>) {
        let mut state = self.state.lock();
        state.readers[place] = None;
        state.count -= 1;
        let now = Instant::now();
        if let Some(within) = back_within {
            state.expected_until = state.expected_until.max(now.checked_add(within));
        }
        if state.count == 0 {
            state.alone_since = state.expected_until.max(Some(now));
        }
        wake(state.pump.take());
    }

    /// Copies records from this offset on to `out`, or returns the end. One lock and one search serve many records.
    pub(crate) fn poll_take(
        &self,
        place: usize,
        at: u64,
        out: &mut VecDeque<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Taken> {
        let mut state = self.state.lock();
        if state.is_moved {
            return Poll::Ready(Taken::Moved);
        }
        if at < state.first {
            return Poll::Ready(Taken::Behind);
        }
        let index = usize::try_from(at - state.first).unwrap_or(usize::MAX);
        // Those before it have been sent. A cursor that is ahead of the stream says nothing of what was read.
        if index <= state.records.len() {
            state.taken(at - 1);
        }
        if at < state.readable && index < state.records.len() {
            let readable = usize::try_from(state.readable - at).unwrap_or(usize::MAX);
            let taken = state.fitting(index, readable.min(TAKE_RECORDS), TAKE_BYTES);
            out.extend(state.records.range(taken).cloned());
            return Poll::Ready(Taken::Records);
        }
        let may_end = state.readable == u64::MAX || state.is_broken;
        if let Some(end) = state.end.as_ref().filter(|_| may_end) {
            return Poll::Ready(Taken::End(end.clone()));
        }
        if let Some(waker) = &mut state.readers[place] {
            store_waker(waker, cx);
        }
        Poll::Pending
    }

    /// A reader has taken this record from the log. Returns whether the next one is here.
    pub(crate) fn taken_elsewhere(&self, at: u64) -> bool {
        let mut state = self.state.lock();
        state.taken(at);
        at + 1 >= state.first
    }
}

impl State {
    /// The offset of the next record, or of the end.
    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The records from this index on that are at most so many and so long, but at least one.
    fn fitting(&self, from: usize, records: usize, bytes: usize) -> Range<usize> {
        let from = from.min(self.records.len());
        let mut left = bytes;
        let all = self.records.range(from..).take(records);
        let fitting = all.take_while(|record| {
            let fits = left == bytes || record.len() <= left;
            left = left.saturating_sub(record.len().max(1));
            fits
        });
        from..from + fitting.count()
    }

    fn taken(&mut self, at: u64) {
        if at <= self.fastest {
            return;
        }
        let index = |at: u64| {
            let index = usize::try_from(at.saturating_sub(self.first));
            index.map_or(self.records.len(), |index| index.min(self.records.len()))
        };
        let taken = self.records.range(index(self.fastest + 1)..index(at + 1));
        let taken: usize = taken.map(Bytes::len).sum();
        self.ahead_bytes = self.ahead_bytes.saturating_sub(taken);
        self.fastest = at;
        if self.is_full {
            wake(self.pump.take());
        }
    }

    /// Takes the wakers of the readers and of the store.
    fn wakers(&mut self, woken: &mut Vec<Waker>) {
        woken.extend(self.readers.iter_mut().flatten().filter_map(Option::take));
        woken.extend(self.store.take());
    }

    /// Nothing is left to store.
    fn settle(&mut self) {
        self.unstored_bytes = 0;
        self.to_store = self.next();
        wake(self.store.take());
    }

    /// The log gets no more of the stream. Collects everyone who waits.
    fn abandon(&mut self, woken: &mut Vec<Waker>) {
        self.is_broken = true;
        self.settle();
        self.wakers(woken);
        woken.extend(self.pump.take());
    }

    /// Drops the records that are stored and that no fast reader needs.
    fn trim(&mut self) {
        while self.first < self.to_store
            && (self.records.len() > AHEAD_RECORDS || self.bytes > AHEAD_BYTES)
        {
            // Without a log, a record is kept until the fastest reader has it.
            if self.is_broken && self.first > self.fastest {
                break;
            }
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            if self.first > self.fastest {
                self.ahead_bytes = self.ahead_bytes.saturating_sub(oldest.len());
            }
            self.first += 1;
        }
        if self.is_broken {
            self.to_store = self.next();
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[inline]
fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) if known.will_wake(cx.waker()) => {}
        place => *place = Some(cx.waker().clone()),
    }
}
