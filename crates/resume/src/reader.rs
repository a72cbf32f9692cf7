//! The body of a response that reads a stream.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::{sleep, timeout};
use tower_stream_core::{BoxError, Cause, Exchange, FaultKind, StreamKind};

use crate::{
    End, Entry, Epoch, LogErrorKind, LogReader, Overflow, StreamId, Takeover,
    head::Head,
    live::{Live, Taken},
    resume::Shared,
};

/// Reads one stream for one client.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    id: StreamId,
    head: Head,
    events: Events,
    /// The offset that is read next.
    next: u64,
    source: Source,
    out: VecDeque<Bytes>,
    state: State,
}

/// Writes records with their cursors.
struct Events {
    /// What the `id:` of each event starts with: `id: <public id>.<epoch>.`.
    prefix: String,
    in_band: bool,
    buffer: BytesMut,
}

impl Events {
    /// The frame of a record.
    #[inline]
    fn frame(&mut self, offset: u64, record: Bytes) -> Bytes {
        if !self.in_band {
            return record;
        }
        let length = self.prefix.len() + LONGEST_OFFSET + record.len();
        // One allocation for many records.
        if self.buffer.capacity() < length {
            self.buffer.reserve(length.max(4_096));
        }
        self.buffer.extend_from_slice(self.prefix.as_bytes());
        let mut digits = itoa::Buffer::new();
        self.buffer
            .extend_from_slice(digits.format(offset).as_bytes());
        self.buffer.extend_from_slice(b"\n");
        self.buffer.extend_from_slice(&record);
        self.buffer.split().freeze()
    }
}

/// The digits of an offset, and a line end.
const LONGEST_OFFSET: usize = 21;

enum Source {
    /// The producer runs here.
    Live(Place),
    /// The producer runs here, but the next record is only in the log.
    Behind(Place, LogReader),
    /// The producer runs elsewhere, or has ended.
    Log(LogReader, Option<Watch>),
    /// The log failed, and is asked again later.
    Again(Watch, u32),
}

/// A reader's place in a stream that is produced here.
pub(crate) struct Place {
    live: Arc<Live>,
    place: usize,
    /// The exchange of the response.
    exchange: Option<Exchange>,
    lease: Duration,
}

impl Place {
    /// The place that [`Live::join`] returned.
    pub(crate) fn new(
        shared: &Shared,
        live: &Arc<Live>,
        place: usize,
        exchange: Option<&Exchange>,
    ) -> Self {
        Self {
            live: Arc::clone(live),
            place,
            exchange: exchange.cloned(),
            lease: shared.lease,
        }
    }

    /// How long the client may take to come back, if a drain has asked it to: the wait that it was told, and a lease for the
    /// connection. A reader on another server is noted in the log by then.
    fn back_within(&self) -> Option<Duration> {
        let cause = self.exchange.as_ref()?.cause()?;
        let is_drain = cause.kind() == FaultKind::Drain;
        is_drain.then(|| cause.retry_after().unwrap_or_default() + self.lease)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.leave(self.place, self.back_within());
    }
}

type Watch = Pin<Box<dyn Future<Output = Result<(), LogErrorKind>> + Send>>;

#[derive(Debug)]
enum State {
    Reading,
    Failed(Cause),
    Ended,
}

/// How often a log that is unavailable is asked again, once a second.
const RETRIES: u32 = 10;

impl Reader {
    /// Reads a stream that is produced here.
    pub(crate) fn live(shared: &Arc<Shared>, place: Place, public: &str, after: u64) -> Self {
        let live = Arc::clone(&place.live);
        let source = Source::Live(place);
        let head = live.head.clone();
        Self::new(shared, live.id, head, public, live.epoch, after, source)
    }

    /// Reads a stream from the log.
    pub(crate) fn stored(
        shared: &Arc<Shared>,
        id: StreamId,
        head: Head,
        public: &str,
        epoch: Epoch,
        after: u64,
    ) -> Self {
        let reader = shared.log.read(&id, after);
        let watch = watch(Arc::clone(shared), id);
        let source = Source::Log(reader, Some(watch));
        Self::new(shared, id, head, public, epoch, after, source)
    }

    fn new(
        shared: &Arc<Shared>,
        id: StreamId,
        head: Head,
        public: &str,
        epoch: Epoch,
        after: u64,
        source: Source,
    ) -> Self {
        let mut reader = Self {
            shared: Arc::clone(shared),
            id,
            events: Events {
                prefix: format!("id: {public}.{epoch}."),
                in_band: head.in_band,
                buffer: BytesMut::new(),
            },
            next: after + 1,
            source,
            out: VecDeque::new(),
            state: State::Reading,
            head,
        };
        // So that a client whose connection is cut before the first event has a cursor. Else it would start a second producer.
        if after == 0 {
            reader.cursor_alone(0);
        }
        reader
    }

    /// Writes a block that gives the client a cursor and no event.
    fn cursor_alone(&mut self, offset: u64) {
        if self.head.in_band {
            let block = format!("{}{offset}\n\n", self.events.prefix);
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
            if let Some(record) = ready!(self.poll_source(cx)) {
                return Poll::Ready(Some(Ok(Frame::data(record))));
            }
        }
    }

    /// Reads on: a record that is ready to be sent, or a change of the state.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Live(place) => match ready!(place.live.poll_take(place.place, self.next, cx)) {
                Taken::Record(record) => {
                    let offset = self.next;
                    self.next += 1;
                    return Poll::Ready(Some(self.events.frame(offset, record)));
                }
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
            },
            Source::Behind(place, reader) => {
                let item = ready!(reader.as_mut().poll_next(cx));
                let live = Arc::clone(&place.live);
                match item {
                    Some(Ok(entry)) => {
                        self.entry(entry);
                        if live.taken_elsewhere(self.next - 1) {
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
            Source::Log(reader, watch_) => match reader.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(entry))) => self.entry(entry),
                Poll::Ready(Some(Err(error))) => self.retry(error.kind(), 0),
                Poll::Ready(None) => self.state = State::Ended,
                Poll::Pending => {
                    let Some(watching) = watch_ else {
                        return Poll::Pending;
                    };
                    match ready!(watching.as_mut().poll(cx)) {
                        Ok(()) => *watching = watch(Arc::clone(&self.shared), self.id),
                        Err(kind) => self.retry(kind, 0),
                    }
                }
            },
            Source::Again(waiting, tries) => {
                let tries = *tries;
                match ready!(waiting.as_mut().poll(cx)) {
                    Ok(()) => {
                        let reader = self.shared.log.read(&self.id, self.next - 1);
                        let watch = watch(Arc::clone(&self.shared), self.id);
                        self.source = Source::Log(reader, Some(watch));
                    }
                    Err(kind) => self.retry(kind, tries + 1),
                }
            }
        }
        Poll::Ready(None)
    }

    fn replace(&mut self, with: impl FnOnce(Source) -> Source) {
        let none = Source::Log(Box::pin(futures_util::stream::empty()), None);
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
                Ok(status) => status.map(drop).map_err(|error| error.kind()),
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
            self.gap(entry.first, missed);
        }
        if !entry.records.is_empty() {
            self.next = entry.first;
        }
        for record in entry.records {
            let offset = self.next;
            self.next += 1;
            let frame = self.events.frame(offset, record);
            self.out.push_back(frame);
        }
        if let Some(end) = entry.end {
            self.end(end);
        }
    }

    /// Tells the client that records are lost. What cannot be told fails the stream.
    fn gap(&mut self, first: u64, missed: u64) {
        self.shared.count(|figures| &figures.gaps);
        let content = format!("{{\"first\":{first},\"missed\":{missed}}}");
        match self.head.kind {
            StreamKind::Sse if self.head.in_band => {
                let cursor = format!("{}{}\n", self.events.prefix, first - 1);
                let event = format!("event: gap\n{cursor}data: {content}\n\n");
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
                let message = format!("{missed} records before {first} are no longer kept");
                self.fail(Cause::new(FaultKind::Incomplete, message));
            }
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Complete => {
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

/// Waits a while, tells the producer that the stream has a reader, and looks whether the producer lives. If not, the end of the
/// stream is stored, which the reader then gets.
fn watch(shared: Arc<Shared>, id: StreamId) -> Watch {
    Box::pin(async move {
        sleep(shared.renew).await;
        let look = async {
            shared.log.attend(&id, shared.lease).await?;
            shared.bury(&id).await
        };
        match timeout(shared.lease, look).await {
            Ok(Err(error)) if error.kind() == LogErrorKind::NotFound => Err(LogErrorKind::NotFound),
            // If the log does not answer, it is not known whether the producer is lost, so the reader goes on.
            _ => Ok(()),
        }
    })
}

impl Shared {
    /// Ends a stream whose producer is lost: if the stream has no end and the lease of its producer has expired, stores
    /// [`FaultKind::ProducerLost`] as its end. Otherwise does nothing.
    pub(crate) async fn bury(&self, id: &StreamId) -> Result<(), crate::LogError> {
        let status = self.log.status(id).await?;
        if status.end.is_some() || status.lease.is_some() {
            return Ok(());
        }
        let cause = Cause::new(
            FaultKind::ProducerLost,
            "the server that produced the stream was lost",
        );
        if self.end_elsewhere(id, Takeover::IfExpired, cause).await? {
            self.count(|figures| &figures.orphans);
        }
        Ok(())
    }

    /// Takes a stream over and ends it. False: it had ended, or another has just taken it over.
    pub(crate) async fn end_elsewhere(
        &self,
        id: &StreamId,
        takeover: Takeover,
        cause: Cause,
    ) -> Result<bool, crate::LogError> {
        let claimed = match self.log.take_over(id, takeover).await {
            Ok(claimed) => claimed,
            Err(error) => {
                let late = matches!(error.kind(), LogErrorKind::Held | LogErrorKind::Ended);
                return if late { Ok(false) } else { Err(error) };
            }
        };
        let end = Entry::end(claimed.next, End::Failed(cause));
        let stored = self.log.append(id, claimed.epoch, &end, Overflow::Trim);
        match stored.await {
            Err(error) if error.kind() == LogErrorKind::Fenced => Ok(false),
            done => done.map(|()| true),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("id", &self.id)
            .field("next", &self.next)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
