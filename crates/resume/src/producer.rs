//! The task that drives the body of a handler.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval_at, sleep, sleep_until, timeout};
use tower_stream_core::{BoxError, Cause, DrainHold, Exchange, FaultKind};

use crate::{
    End, LogErrorKind, Overflow, WhoLeft,
    live::{Live, Next, Work},
    resume::Shared,
    splitter::Splitter,
};

/// Everything of the request that the producer keeps.
pub(crate) struct Producer<B> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: Arc<Live>,
    pub(crate) body: B,
    pub(crate) exchange: Exchange,
    pub(crate) who_left: WhoLeft,
    pub(crate) drain: Option<Box<dyn DrainHold>>,
    /// The permit of the request: the producer counts against its limit too.
    pub(crate) permit: Option<Arc<dyn Any + Send + Sync>>,
}

impl<B> Producer<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Runs until the body has ended and its end is stored.
    pub(crate) async fn run(self) {
        let Self {
            shared,
            live,
            body,
            exchange,
            who_left,
            drain,
            permit,
        } = self;
        // Also if this task is dropped with its runtime.
        let registered = Registered {
            shared: Arc::clone(&shared),
            live: Arc::clone(&live),
        };
        let deadline = drain.as_ref().map(|drain| {
            let (deadline, live) = (drain.deadline(), Arc::clone(&live));
            Box::pin(async move {
                deadline.await;
                // The readers get their farewell first, with when to come back. `leave` wakes this task.
                let left = poll_fn(|_| match live.has_readers() {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                });
                drop(timeout(FAREWELL, left).await);
            }) as Pin<Box<dyn Future<Output = ()> + Send>>
        });
        let pump = async {
            let mut pump = Pump {
                live: &live,
                body: Some(Box::pin(body)),
                splitter: Splitter::new(live.head.format()),
                exchange,
                deadline,
                // Without a shared log, nothing outlives this process.
                goes_on: shared.restart.is_some()
                    && live.head.seed.is_some()
                    && shared.log.is_shared(),
                alone: None,
                records: Vec::new(),
                bytes: 0,
                woken: Vec::new(),
            };
            let end = loop {
                match poll_fn(|cx| pump.poll(who_left, cx)).await {
                    Pumped::End(end) => break Some(end),
                    Pumped::Deadline => break None,
                    // The stream may have a reader on another replica.
                    Pumped::Alone => match attended(&shared, &live).await {
                        Some(left) => live.attended(Instant::now() + left),
                        None => {
                            let message = "the last reader left";
                            let cause = Cause::new(FaultKind::Cancelled, message);
                            live.stop(cause);
                        }
                    },
                }
            };
            pump.drop_body();
            match end {
                Some(end) => live.finish(end),
                None => live.release(Cause::new(FaultKind::Drain, SHUT_DOWN)),
            }
        };
        tokio::join!(pump, store(&shared, &live, who_left));
        drop((registered, permit));
        // Last, so that the drain waits for the end to be stored.
        drop(drain);
    }
}

const TOO_LONG: &str = "a record is longer than a stream that can be resumed may have";
const SHUT_DOWN: &str = "the server was shut down before the stream was complete";

/// How long readers may take to leave at the deadline of a drain.
const FAREWELL: Duration = Duration::from_millis(100);

/// Takes the stream out of the list of those that run here.
struct Registered {
    shared: Arc<Shared>,
    live: Arc<Live>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.forget(&self.live);
        if !self.live.has_ended() {
            let cause = Cause::new(FaultKind::Unfinished, "the producer was dropped");
            self.live.finish(End::Failed(cause));
        }
    }
}

/// How long the stream still has a reader on another replica.
async fn attended(shared: &Shared, live: &Live) -> Option<Duration> {
    let status = shared.log.status(&live.id);
    match timeout(shared.lease, status).await {
        Ok(Ok(status)) => status.attended,
        // If it is not known, a reader is assumed, and the log is asked again.
        Err(_) => Some(shared.lease),
        Ok(Err(error)) if error.kind() == LogErrorKind::Unavailable => Some(shared.lease),
        Ok(Err(_)) => None,
    }
}

struct Pump<'a, B> {
    live: &'a Live,
    /// `None` once it is dropped.
    body: Option<Pin<Box<B>>>,
    splitter: Splitter,
    exchange: Exchange,
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether another server can restart the stream.
    goes_on: bool,
    alone: Option<Pin<Box<Sleep>>>,
    /// The records of one poll, and their bytes.
    records: Vec<Bytes>,
    bytes: usize,
    woken: Vec<Waker>,
}

/// A body that is always ready must not keep the thread, nor its readers waiting: after this many frames or bytes, what was read is
/// passed on and other tasks run.
const TURN_FRAMES: usize = 64;
const TURN_BYTES: usize = 64 * 1_024;

enum Pumped {
    End(End),
    /// The deadline of a drain was reached, and another server goes on.
    Deadline,
    /// There was no reader for as long as the policy allows.
    Alone,
}

impl<B> Pump<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, who_left: WhoLeft, cx: &mut Context<'_>) -> Poll<Pumped> {
        let (next, alone_since) = self.live.poll_next(cx);
        let room = match next {
            Next::Stop(cause) => return Poll::Ready(Pumped::End(End::Failed(cause))),
            Next::Full => 0,
            Next::Room(room) => room.min(TURN_FRAMES),
        };
        let taken = catch_unwind(AssertUnwindSafe(|| self.poll_frames(room, cx)));
        let (yields, ended) = match taken {
            Ok(Poll::Ready(ended)) => (ended.is_none() && room > 0, ended),
            Ok(Poll::Pending) => (false, None),
            Err(panic) => (false, Some(self.failed(panicked(panic)))),
        };
        self.live.push(&mut self.records, &mut self.woken);
        self.bytes = 0;
        if let Some(end) = ended {
            return Poll::Ready(Pumped::End(end));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.exchange
                .record(Cause::new(FaultKind::Drain, SHUT_DOWN));
            if self.goes_on {
                return Poll::Ready(Pumped::Deadline);
            }
            // Not `Drain`, which asks a client to come back: whoever reads this end is told that no more comes.
            let cause = Cause::new(FaultKind::ProducerLost, SHUT_DOWN);
            return Poll::Ready(Pumped::End(End::Failed(cause)));
        }
        let alone = self.poll_alone(who_left, alone_since, cx);
        if yields && alone.is_pending() {
            cx.waker().wake_by_ref();
        }
        alone
    }

    /// Waits until there was no reader for too long.
    fn poll_alone(
        &mut self,
        who_left: WhoLeft,
        since: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Pumped> {
        let Some(since) = since else {
            self.alone = None;
            return Poll::Pending;
        };
        let Some(at) = since.checked_add(who_left.longest_alone()) else {
            return Poll::Pending;
        };
        let alone = self.alone.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alone.deadline() != at {
            alone.as_mut().reset(at);
        }
        ready!(alone.as_mut().poll(cx));
        self.alone = None;
        Poll::Ready(Pumped::Alone)
    }

    /// Takes frames until the turn is over. `Some`: the body has ended.
    fn poll_frames(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(End::Complete));
        };
        // Of a frame with many records, as many are over the room.
        for _ in 0..room {
            if self.records.len() >= room || self.bytes >= TURN_BYTES {
                break;
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers belong to one response.
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    let taken = self.splitter.push(data, |record| {
                        self.bytes += record.len();
                        self.records.push(record);
                    });
                    if taken.is_err() {
                        let cause = Cause::new(FaultKind::Other, TOO_LONG);
                        return Poll::Ready(Some(self.failed(cause)));
                    }
                }
                Some(Err(error)) => {
                    let error: BoxError = error.into();
                    return Poll::Ready(Some(self.failed(Cause::of(&*error))));
                }
                None => return Poll::Ready(Some(self.ended())),
            }
        }
        Poll::Ready(None)
    }

    fn ended(&mut self) -> End {
        if let Some(cause) = self.exchange.cause() {
            return End::Failed(cause.clone());
        }
        if let Some(last) = self.splitter.finish() {
            self.records.push(last);
        }
        End::Complete
    }

    /// The end of a body that failed: by the cause that a layer inside has recorded, or by this one.
    fn failed(&self, cause: Cause) -> End {
        let known = self.exchange.cause();
        End::Failed(known.cloned().unwrap_or(cause))
    }

    fn drop_body(&mut self) {
        let body = self.body.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(body))) {
            std::mem::forget(panic);
        }
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Cause {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    // A panic payload may panic when it is dropped.
    std::mem::forget(panic);
    let message = text.unwrap_or_else(|| "the body panicked".to_owned());
    Cause::new(FaultKind::Panic, message)
}

/// Stores the records, and renews the lease, until the end is stored.
async fn store(shared: &Shared, live: &Live, who_left: WhoLeft) {
    let mut renew = interval_at(Instant::now() + shared.renew, shared.renew);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0_u32;
    // When the log last got an append, which renews the lease as well.
    let mut appended = None;
    // An append without an answer. It may have been stored, so it is repeated as it was: with more records it would conflict with itself.
    let mut unanswered = None;
    let mut must_renew = false;
    loop {
        let work = match unanswered.take().filter(|_| live.is_resumable()) {
            Some(work) => Some(work),
            None if std::mem::take(&mut must_renew) => None,
            None => tokio::select! {
                biased;
                work = poll_fn(|cx| live.poll_work(cx)) => Some(work),
                _ = renew.tick() => None,
            },
        };
        if work.is_none()
            && let Some(at) = appended.take()
        {
            renew.reset_at(at + shared.renew);
            continue;
        }
        let done = match &work {
            Some(Work::Done) => return,
            None => shared.log.renew(&live.id, live.epoch),
            Some(Work::Append(entry)) => {
                // Without readers the producer waits for one rather than lose what none has seen.
                let may_wait = !live.has_readers() && !live.has_ended();
                let overflow = match may_wait && !who_left.is_detached() {
                    true => Overflow::Refuse,
                    false => Overflow::Trim,
                };
                shared.log.append(&live.id, live.epoch, entry, overflow)
            }
        };
        #[cfg(feature = "metrics")]
        let done = timed(shared, matches!(work, Some(Work::Append(_))), done);
        // A log bounds its time itself; this is for one that does not.
        let done = match timeout(shared.lease * 2, done).await {
            Ok(done) => done.map_err(|error| error.kind()),
            Err(_) => Err(LogErrorKind::Unavailable),
        };
        match done {
            Ok(()) => {
                failures = 0;
                if let Some(Work::Append(entry)) = &work {
                    live.stored(entry);
                    appended = Some(Instant::now());
                }
            }
            Err(LogErrorKind::Fenced | LogErrorKind::Ended) => {
                match fenced(shared, live).await {
                    Fenced::Ended(cause) => {
                        live.stop(cause.clone());
                        live.break_off(cause);
                    }
                    Fenced::GoesOn(cause) => live.hand_over(cause),
                }
                return;
            }
            Err(LogErrorKind::Full) if !live.has_ended() => {
                // An append that was refused does not renew the lease, and the next one is ready at once.
                must_renew = tokio::select! {
                    biased;
                    _ = renew.tick() => true,
                    () = sleep(shared.renew / 4) => false,
                };
            }
            Err(LogErrorKind::Unavailable) if !live.has_ended() || failures < LAST_TRIES => {
                failures = failures.saturating_add(1);
                let wait = Duration::from_millis(50) * failures.min(20);
                sleep(wait).await;
                unanswered = work;
            }
            Err(error) => {
                tracing::warn!(%error, "a stream is no longer stored and cannot be resumed");
                shared.count(|figures| &figures.broken);
                let message = format!("the stream is not stored: {error}");
                live.break_off(Cause::new(FaultKind::Io, message));
                return;
            }
        }
    }
}

/// Records how long an append takes, if someone observes it.
#[cfg(feature = "metrics")]
async fn timed<T>(shared: &Shared, is_append: bool, done: impl Future<Output = T>) -> T {
    let Some(histogram) = shared.appends().get().filter(|_| is_append) else {
        return done.await;
    };
    let started = Instant::now();
    let done = done.await;
    histogram.record(started.elapsed().as_secs_f64(), &[]);
    done
}

/// How often the end of a stream is tried to be stored: for some 15 s.
const LAST_TRIES: u32 = 25;

/// Why another producer has taken the stream over.
enum Fenced {
    /// To end it: the cause that it has stored, or will store at once.
    Ended(Cause),
    /// To restart it.
    GoesOn(Cause),
}

async fn fenced(shared: &Shared, live: &Live) -> Fenced {
    let until = Instant::now() + shared.renew;
    while live.head.seed.is_none() && Instant::now() < until {
        let status = timeout(shared.renew, shared.log.status(&live.id)).await;
        match status {
            Ok(Ok(status)) => match status.end {
                Some(End::Failed(cause)) => return Fenced::Ended(cause),
                Some(End::Complete) => break,
                None => sleep(Duration::from_millis(20)).await,
            },
            _ => break,
        }
    }
    let message = "another producer has taken the stream over";
    let cause = Cause::new(FaultKind::ProducerLost, message);
    match live.head.seed {
        // The log has the rest, be it more records or the end.
        Some(_) => Fenced::GoesOn(cause),
        None => Fenced::Ended(cause),
    }
}
