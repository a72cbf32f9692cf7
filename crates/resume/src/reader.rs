//! The body of a response that reads a stream.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::{Instant, sleep, timeout};
use tower_stream_core::{BoxError, Cause, Exchange, FaultKind, StreamKind};

use crate::{
    End, Entry, Epoch, LogErrorKind, LogReader, Status, StreamId,
    epochs::{Epochs, Looked, Watch, watch},
    head::Head,
    live::Taken,
    place::Place,
    resume::Shared,
};

/// Reads one stream for one client.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    id: StreamId,
    head: Head,
    events: Events,
    /// The exchange of the layers outside.
    outer: Option<Exchange>,
    /// The offset that is read next.
    next: u64,
    epochs: Epochs,
    source: Source,
    /// Records from `next` on that were taken from a live stream.
    taken: VecDeque<Bytes>,
    /// Frames that are ready. Empty if `taken` is not.
    out: VecDeque<Bytes>,
    state: State,
}

/// Writes records with their cursors.
struct Events {
    /// The last line that was written: `id: <public id>.<epoch>.<offset>` and its LF.
    line: Vec<u8>,
    /// Where the epoch and the offset begin in it.
    epoch: usize,
    digits: usize,
    offset: u64,
    in_band: bool,
    buffer: BytesMut,
}

impl Events {
    fn new(public: &str, in_band: bool) -> Self {
        let line = format!("id: {public}.");
        Self {
            epoch: line.len(),
            digits: line.len(),
            line: line.into_bytes(),
            offset: 0,
            in_band,
            buffer: BytesMut::new(),
        }
    }

    fn set_epoch(&mut self, epoch: Epoch) {
        self.line.truncate(self.epoch);
        self.line.extend_from_slice(format!("{epoch}.").as_bytes());
        self.digits = self.line.len();
        self.write(self.offset);
    }

    /// The frame of a record.
    #[inline]
    fn frame(&mut self, offset: u64, record: Bytes) -> Bytes {
        if !self.in_band {
            return record;
        }
        self.line(offset);
        let length = self.line.len() + record.len();
        // One allocation for many records.
        if self.buffer.capacity() < length {
            self.buffer.reserve(length.max(4_096));
        }
        self.buffer.extend_from_slice(&self.line);
        self.buffer.extend_from_slice(&record);
        self.buffer.split().freeze()
    }

    /// The line of this offset. That of the next one is the last line, counted on.
    #[inline]
    fn line(&mut self, offset: u64) -> &[u8] {
        let is_next = offset == self.offset.wrapping_add(1);
        self.offset = offset;
        if !is_next || !self.count_on() {
            self.write(offset);
        }
        &self.line
    }

    /// Adds one to the digits. False: another digit is needed.
    #[inline]
    fn count_on(&mut self) -> bool {
        let digits = self.digits..self.line.len() - 1;
        for digit in self.line[digits].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return true;
            }
            *digit = b'0';
        }
        false
    }

    fn write(&mut self, offset: u64) {
        self.line.truncate(self.digits);
        let mut digits = itoa::Buffer::new();
        self.line
            .extend_from_slice(digits.format(offset).as_bytes());
        self.line.push(b'\n');
    }
}

enum Source {
    /// The producer runs here.
    Live(Place),
    /// The producer runs here, but the next record is only in the log.
    Behind(Place, LogReader),
    /// The producer runs elsewhere, or has ended.
    Log(Elsewhere),
    /// The log failed, and is asked again later.
    Again(Watch, u32),
}

/// A stream that is read from the log.
struct Elsewhere {
    reader: LogReader,
    watch: Watch,
    /// What was read when the epochs were no longer known.
    held: Option<Entry>,
}

#[derive(Debug)]
enum State {
    Reading,
    Failed(Cause),
    Ended,
}

/// How often a log that is unavailable is asked again, once a second.
const RETRIES: u32 = 10;

impl Source {
    fn elsewhere(
        shared: &Arc<Shared>,
        id: StreamId,
        outer: Option<&Exchange>,
        after: u64,
        wait: Duration,
    ) -> Self {
        Self::Log(Elsewhere {
            reader: shared.log.read(&id, after),
            watch: watch(shared, id, outer, wait),
            held: None,
        })
    }
}

impl Reader {
    /// Reads a stream that is produced here.
    pub(crate) fn live(
        shared: &Arc<Shared>,
        place: Place,
        outer: Option<&Exchange>,
        public: &str,
        after: u64,
    ) -> Self {
        let live = Arc::clone(&place.live);
        let epochs = Epochs::new(&live.forks, None);
        let (head, source) = (live.head.clone(), Source::Live(place));
        Self::new(shared, live.id, head, outer, public, after, epochs, source)
    }

    /// Reads a stream from the log, which had this status.
    pub(crate) fn stored(
        shared: &Arc<Shared>,
        id: StreamId,
        head: Head,
        outer: Option<&Exchange>,
        public: &str,
        after: u64,
        looked: (&Status, Instant),
    ) -> Self {
        let (status, asked) = looked;
        // Only streams that can be restarted have records after a fork.
        let known_until = head.seed.as_ref().and(Looked::known_until(status, asked));
        let epochs = Epochs::new(&status.forks, known_until);
        let source = Source::elsewhere(shared, id, outer, after, shared.renew);
        Self::new(shared, id, head, outer, public, after, epochs, source)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the reader")]
    fn new(
        shared: &Arc<Shared>,
        id: StreamId,
        head: Head,
        outer: Option<&Exchange>,
        public: &str,
        after: u64,
        epochs: Epochs,
        source: Source,
    ) -> Self {
        let mut reader = Self {
            shared: Arc::clone(shared),
            id,
            events: Events::new(public, head.in_band),
            outer: outer.cloned(),
            next: after + 1,
            epochs,
            source,
            taken: VecDeque::new(),
            out: VecDeque::new(),
            state: State::Reading,
            head,
        };
        reader.reach_epoch();
        // So that a client whose connection is cut before the first event has a cursor. Else it would start a second producer.
        if after == 0 {
            reader.cursor_alone(0);
        }
        reader
    }

    /// The next record is written with its epoch.
    fn reach_epoch(&mut self) {
        self.epochs.reach(self.next);
        self.events.set_epoch(self.epochs.current);
    }

    /// Tells the client that its last records are not those of the stream: the stream goes on with another record at this offset.
    pub(crate) fn forked(&mut self) {
        self.gap(self.next, 0, true);
    }

    /// Takes what was learned of a stream that is read from the log.
    fn learn(&mut self, looked: Looked) {
        let Looked { status, asked } = looked;
        if self.head.seed.is_none() {
            return self.watch_on(None);
        }
        let fork = status.forked_at(self.epochs.current);
        // After the end nothing follows, so a client that has more than was stored learns that from the end.
        let cut = fork.filter(|fork| *fork < self.next && status.end_offset() != Some(*fork));
        self.epochs.known_until = Looked::known_until(&status, asked);
        self.epochs.next_fork = fork.unwrap_or(u64::MAX);
        self.epochs.forks = status.forks;
        if let Some(fork) = cut {
            self.next = fork;
            self.forked();
        }
        self.reach_epoch();
        let live = self.shared.live(&self.id);
        if let Some(live) = live.filter(|live| live.epoch == status.epoch) {
            // It was restarted here.
            let outer = self.outer.as_ref();
            let place = Place::new(&self.shared, &live, live.join(), outer);
            self.source = Source::Live(place);
        } else {
            self.watch_on(cut);
        }
    }

    /// Goes on with the log, from a fork if the epochs part before what was read.
    fn watch_on(&mut self, cut: Option<u64>) {
        let wait = self.shared.renew;
        let watch = watch(&self.shared, self.id, self.outer.as_ref(), wait);
        let Source::Log(elsewhere) = &mut self.source else {
            return;
        };
        elsewhere.watch = watch;
        let held = elsewhere.held.take();
        if let Some(fork) = cut {
            elsewhere.reader = self.shared.log.read(&self.id, fork - 1);
        } else if let Some(entry) = held {
            self.entry(entry);
        }
    }

    /// Writes a block that gives the client a cursor and no event.
    fn cursor_alone(&mut self, offset: u64) {
        if self.head.in_band {
            let block = [self.events.line(offset), b"\n"].concat();
            self.out.push_back(block.into());
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.out.is_empty() && matches!(self.state, State::Ended)
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(record) = self.taken.pop_front() {
                let offset = self.next;
                self.next += 1;
                let frame = self.events.frame(offset, record);
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if let Some(bytes) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match &self.state {
                State::Reading => {}
                State::Failed(cause) => {
                    let error = cause.clone();
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(error.into())));
                }
                State::Ended => return Poll::Ready(None),
            }
            ready!(self.poll_source(cx));
        }
    }

    /// Reads on: there are records or frames afterwards, or the state has changed.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = self.next;
        match &mut self.source {
            Source::Live(place) => {
                match ready!(place.live.poll_take(place.place, next, &mut self.taken, cx)) {
                    Taken::Records => {}
                    Taken::End(end) => self.end(end),
                    Taken::Behind if !place.live.is_resumable() => {
                        self.fail(Cause::new(FaultKind::Other, NOT_KEPT));
                    }
                    Taken::Behind => {
                        let reader = self.shared.log.read(&self.id, self.next - 1);
                        self.replace(|source| match source {
                            Source::Live(place) => Source::Behind(place, reader),
                            source => source,
                        });
                    }
                    Taken::Moved => self.move_on(),
                }
            }
            Source::Behind(place, _) if place.live.is_moved() => self.move_on(),
            Source::Behind(place, reader) => {
                let item = ready!(reader.as_mut().poll_next(cx));
                let live = Arc::clone(&place.live);
                match item {
                    Some(Ok(entry)) => {
                        self.entry(entry);
                        if live.taken_elsewhere(self.next - 1) {
                            self.reach_epoch();
                            self.replace(|source| match source {
                                Source::Behind(place, _) => Source::Live(place),
                                source => source,
                            });
                        }
                    }
                    Some(Err(error)) => {
                        let cause = Cause::new(FaultKind::Io, format!("{NOT_KEPT}: {error}"));
                        self.fail(cause);
                    }
                    None => self.state = State::Ended,
                }
            }
            Source::Log(elsewhere) => {
                if elsewhere.held.is_none() {
                    match elsewhere.reader.as_mut().poll_next(cx) {
                        Poll::Ready(Some(Ok(entry))) if self.epochs.are_known() => {
                            self.entry(entry);
                            return Poll::Ready(());
                        }
                        Poll::Ready(Some(Ok(entry))) => {
                            let outer = self.outer.as_ref();
                            elsewhere.watch = watch(&self.shared, self.id, outer, Duration::ZERO);
                            elsewhere.held = Some(entry);
                        }
                        Poll::Ready(Some(Err(error))) => {
                            self.retry(error.kind(), 0);
                            return Poll::Ready(());
                        }
                        Poll::Ready(None) => {
                            self.state = State::Ended;
                            return Poll::Ready(());
                        }
                        Poll::Pending => {}
                    }
                }
                match ready!(elsewhere.watch.as_mut().poll(cx)) {
                    Ok(Some(looked)) => self.learn(looked),
                    Ok(None) => {
                        let (outer, wait) = (self.outer.as_ref(), self.shared.renew);
                        elsewhere.watch = watch(&self.shared, self.id, outer, wait);
                    }
                    Err(kind) => self.retry(kind, 0),
                }
            }
            Source::Again(waiting, tries) => {
                let tries = *tries;
                match ready!(waiting.as_mut().poll(cx)) {
                    Ok(_) => {
                        let (outer, wait) = (self.outer.as_ref(), self.shared.renew);
                        let after = self.next - 1;
                        self.source = Source::elsewhere(&self.shared, self.id, outer, after, wait);
                    }
                    Err(kind) => self.retry(kind, tries + 1),
                }
            }
        }
        Poll::Ready(())
    }

    /// Another producer goes on with the stream. Its epoch has to be known before its records are.
    fn move_on(&mut self) {
        self.epochs.known_until = Some(Instant::now());
        let (outer, after) = (self.outer.as_ref(), self.next - 1);
        self.source = Source::elsewhere(&self.shared, self.id, outer, after, Duration::ZERO);
    }

    fn replace(&mut self, with: impl FnOnce(Source) -> Source) {
        let none = Source::Again(Box::pin(std::future::pending()), 0);
        let source = std::mem::replace(&mut self.source, none);
        self.source = with(source);
    }

    /// The log failed. It is asked again later, if it may have the stream.
    fn retry(&mut self, kind: LogErrorKind, tries: u32) {
        if kind != LogErrorKind::Unavailable || tries >= RETRIES {
            return self.fail(Cause::new(FaultKind::Io, kind.to_string()));
        }
        let (shared, id) = (Arc::clone(&self.shared), self.id);
        let waiting = Box::pin(async move {
            sleep(Duration::from_secs(1)).await;
            let status = timeout(shared.lease, shared.log.status(&id)).await;
            match status {
                Ok(status) => status.map(|_| None).map_err(|error| error.kind()),
                Err(_) => Err(LogErrorKind::Unavailable),
            }
        });
        self.source = Source::Again(waiting, tries);
    }

    fn entry(&mut self, entry: Entry) {
        let Some(entry) = entry.after(self.next - 1) else {
            return;
        };
        let missed = entry.first.saturating_sub(self.next);
        if missed > 0 && !(entry.records.is_empty() && entry.end.is_some()) {
            self.next = entry.first;
            self.reach_epoch();
            self.gap(entry.first, missed, false);
        }
        if !entry.records.is_empty() {
            self.next = entry.first;
        }
        for record in entry.records {
            let offset = self.next;
            if offset >= self.epochs.next_fork {
                self.reach_epoch();
            }
            self.next += 1;
            let frame = self.events.frame(offset, record);
            self.out.push_back(frame);
        }
        if let Some(end) = entry.end {
            self.end(end);
        }
    }

    /// Tells the client that records are lost. What cannot be told fails the stream.
    fn gap(&mut self, first: u64, missed: u64, is_fork: bool) {
        self.shared.count(|figures| &figures.gaps);
        let fork = match is_fork {
            true => format!(",\"forked_at\":{first}"),
            false => String::new(),
        };
        let content = format!("{{\"first\":{first},\"missed\":{missed}{fork}}}");
        match self.head.kind {
            StreamKind::Sse if self.head.in_band => {
                let data = format!("data: {content}\n\n");
                let cursor = self.events.line(first - 1);
                let event = [b"event: gap\n", cursor, data.as_bytes()].concat();
                self.out.push_back(event.into());
            }
            StreamKind::JsonLines => {
                let line = format!("{{\"gap\":{content}}}\n");
                self.out.push_back(line.into());
            }
            StreamKind::JsonSeq => {
                let line = format!("\u{1e}{{\"gap\":{content}}}\n");
                self.out.push_back(line.into());
            }
            _ => {
                let message = match is_fork {
                    true => format!("the records from {first} on are not those of the stream"),
                    false => format!("{missed} records before {first} are no longer kept"),
                };
                self.fail(Cause::new(FaultKind::Incomplete, message));
            }
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Complete => {
                self.reach_epoch();
                self.cursor_alone(self.next);
                self.state = State::Ended;
            }
            End::Failed(cause) => self.fail(cause),
        }
    }

    fn fail(&mut self, cause: Cause) {
        if matches!(self.state, State::Reading) {
            self.state = State::Failed(cause);
        }
    }
}

const NOT_KEPT: &str = "the records that the client has not read are not kept";

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("id", &self.id)
            .field("next", &self.next)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
