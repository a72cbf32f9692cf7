//! A model of a log on the network, whose reader joins the stream under every order of the messages.

use std::{sync::Arc, task::Context};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{Reading, reader};
use crate::{
    End, Entry, LogError, LogErrorKind,
    tests::interleavings::{Choices, Woken, in_flight},
};

#[derive(Default)]
struct Store {
    /// The offset of the first record that is kept, and of the next.
    first: u64,
    next: u64,
    end: Option<u64>,
    is_deleted: bool,
    /// The reader gets the notifications that are sent from now on.
    is_subscribed: bool,
    /// Notifications that are in flight.
    sent: usize,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    /// Appends this many records.
    Append(u64),
    /// Removes the oldest record.
    Trim,
    End,
    /// Appends a record and the end at once.
    AppendEnd,
    Delete,
}

impl Store {
    fn write(&mut self, write: Write) {
        match write {
            Write::Append(count) => self.next += count,
            Write::Trim => self.first = self.next.min(self.first + 1),
            Write::End => self.end = Some(self.next),
            Write::AppendEnd => {
                self.next += 1;
                self.end = Some(self.next);
            }
            Write::Delete => self.is_deleted = true,
        }
        self.sent += usize::from(self.is_subscribed);
    }

    /// At most two records, and the end if nothing is in front of it.
    fn read(&self, after: u64) -> Option<Entry> {
        let first = (after + 1).max(self.first).min(self.next);
        let records: Vec<_> = (first..self.next).take(2).map(record).collect();
        let is_all = first + records.len() as u64 == self.next;
        let end = self.end.filter(|_| is_all).map(|_| End::Complete);
        let entry = Entry {
            first,
            records,
            end,
        };
        (!entry.is_empty()).then_some(entry)
    }
}

fn record(offset: u64) -> Bytes {
    offset.to_string().into()
}

struct Model {
    store: Arc<Mutex<Store>>,
    changed: Arc<Notify>,
    after: u64,
}

impl Reading for Model {
    async fn changed(&mut self) -> Result<Arc<Notify>, LogError> {
        if !self.store.lock().is_subscribed {
            self.store.lock().is_subscribed = true;
            in_flight().await;
        }
        Ok(Arc::clone(&self.changed))
    }

    async fn look(&mut self) -> Result<Option<Entry>, LogError> {
        let (entry, is_deleted) = {
            let store = self.store.lock();
            (store.read(self.after), store.is_deleted)
        };
        in_flight().await;
        if is_deleted {
            return Err(LogErrorKind::NotFound.into());
        }
        if let Some(entry) = &entry {
            self.after = entry.next() - 1;
        }
        Ok(entry)
    }

    fn look_again(&self) -> Option<Instant> {
        None
    }
}

#[derive(Clone, Copy)]
enum Step {
    Write,
    /// A notification arrives.
    Notify,
    /// The reader runs.
    Read,
}

fn run(writes: &[Write], after: u64, choices: &mut Choices) {
    let store = Store {
        first: 1,
        // A record that was there before.
        next: 2,
        ..Store::default()
    };
    let store = Arc::new(Mutex::new(store));
    let changed = Arc::new(Notify::new());
    let mut reader = reader(Model {
        store: Arc::clone(&store),
        changed: Arc::clone(&changed),
        after,
    });
    let (woken, waker) = Woken::new();
    let mut cx = Context::from_waker(&waker);
    let (mut writes_left, mut items) = (writes.iter(), Vec::new());
    loop {
        let mut steps = Vec::new();
        steps.extend(woken.is().then_some(Step::Read));
        steps.extend((store.lock().sent > 0).then_some(Step::Notify));
        steps.extend((!writes_left.as_slice().is_empty()).then_some(Step::Write));
        assert!(!steps.is_empty(), "the reader waits for ever: {items:?}");
        match choices.choose(&steps) {
            Step::Write => {
                let write = writes_left.next().expect("one is left");
                store.lock().write(*write);
            }
            Step::Notify => {
                store.lock().sent -= 1;
                changed.notify_waiters();
            }
            Step::Read => {
                woken.reset();
                match reader.as_mut().poll_next(&mut cx) {
                    std::task::Poll::Pending => {}
                    std::task::Poll::Ready(Some(item)) => {
                        items.push(item);
                        // It is polled on.
                        waker.wake_by_ref();
                    }
                    std::task::Poll::Ready(None) => break,
                }
            }
        }
    }
    check(writes, after, &items);
}

/// Each record once and in order, a hole only where one was trimmed, and the end last.
fn check(writes: &[Write], after: u64, items: &[Result<Entry, LogError>]) {
    let trims = writes.iter().filter(|write| matches!(write, Write::Trim));
    let trimmed = trims.count() as u64;
    let deleted = writes.iter().any(|write| matches!(write, Write::Delete));
    let mut next = after + 1;
    let (last, before) = items.split_last().expect("there is an end");
    for entry in items.iter().flatten() {
        let hole = entry.first > next;
        assert!(!hole || entry.first <= 1 + trimmed, "{entry:?}, not {next}");
        assert!(
            entry.first >= next || entry.records.is_empty(),
            "{entry:?} again"
        );
        for (offset, found) in (entry.first..).zip(&entry.records) {
            assert_eq!(*found, record(offset));
        }
        next = next.max(entry.next());
    }
    assert!(before.iter().flatten().all(|entry| entry.end.is_none()));
    match last {
        Ok(entry) => {
            assert_eq!(entry.end, Some(End::Complete));
            let appended: u64 = writes
                .iter()
                .map(|write| match write {
                    Write::Append(count) => *count,
                    Write::AppendEnd => 1,
                    _ => 0,
                })
                .sum();
            assert_eq!(next, 2 + appended + 1);
        }
        Err(error) => {
            assert_eq!(error.kind(), LogErrorKind::NotFound);
            assert!(deleted);
        }
    }
}

#[test]
fn what_is_appended_while_a_reader_joins_is_neither_lost_nor_doubled() {
    let mut runs = 0;
    for first in [Write::Append(3), Write::Trim] {
        for second in [Write::Append(1), Write::Trim] {
            for last in [Write::End, Write::AppendEnd, Write::Delete] {
                let writes = [first, second, last];
                let after = u64::from(matches!(last, Write::AppendEnd));
                runs += Choices::all(|choices| run(&writes, after, choices));
            }
        }
    }
    assert!(runs > 10_000, "{runs}");
}
