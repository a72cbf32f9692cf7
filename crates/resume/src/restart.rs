//! Streams that go on after their producer was lost.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_stream_core::{BoxError, Cause, Claim, Exchange, FaultKind};
use tracing::Instrument as _;

use crate::{
    Claimed, Entry, LogError, LogErrorKind, Overflow, Status, StreamId, StreamLog, Takeover,
    head::Head, live::Live, producer::Producer, resume::Shared,
};

/// Makes a stream one that can be restarted, in the extensions of a handler's response.
///
/// If the server that produces the stream is lost, another server continues it with the function of
/// [`Builder::restart`](crate::Builder::restart), which gets the seed back. A stream without this ends with
/// [`ProducerLost`](FaultKind::ProducerLost).
///
/// ```
/// use axum::response::{IntoResponse, Response};
/// use tower_stream_resume::Restart;
///
/// async fn answer() -> Response {
///     let job = "42";
///     let events = ([("content-type", "text/event-stream")], "data: one\n\n");
///     (axum::Extension(Restart::new(job)), events).into_response()
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Restart {
    seed: Bytes,
}

impl Restart {
    /// The most bytes of a seed. It is stored with the head of the stream, in some logs with each entry.
    pub const MAX_SEED: usize = 4_096;

    /// A stream that is continued from this seed: what the function needs to know of the request, such as the id of a job or of a
    /// chat in the application's database. A stream with more than [`MAX_SEED`](Self::MAX_SEED) bytes is not restarted.
    #[must_use]
    pub fn new(seed: impl Into<Bytes>) -> Self {
        Self { seed: seed.into() }
    }

    /// The seed, if it is short enough to be stored.
    pub(crate) fn seed(&self) -> Option<Bytes> {
        let fits = self.seed.len() <= Self::MAX_SEED;
        if !fits {
            tracing::warn!("the seed of a stream is too long, so the stream cannot be restarted");
        }
        fits.then(|| self.seed.clone())
    }
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restart")
            .field("seed_bytes", &self.seed.len())
            .finish()
    }
}

/// A stream whose producer was lost, for the function of [`Builder::restart`](crate::Builder::restart).
#[derive(Clone)]
pub struct LostStream {
    seed: Bytes,
    records: u64,
    attempt: u32,
    first: u64,
    id: StreamId,
    log: Arc<dyn StreamLog>,
}

impl LostStream {
    /// The seed that the handler gave to [`Restart::new`].
    #[must_use]
    pub const fn seed(&self) -> &Bytes {
        &self.seed
    }

    /// The number of records that were stored. The continuation begins with the record after them.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Which restart of the stream this is: 1 for the first. A producer that takes its server down with it would otherwise be
    /// restarted on one server after another.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Reads the records that were stored. The first ones are missing if the log has trimmed them: see [`Entry::first`].
    ///
    /// # Errors
    ///
    /// Those of [`StreamLog::read`].
    pub async fn stored(&self) -> Result<Entry, LogError> {
        let mut stored = Entry::records(self.first, Vec::new());
        let mut reader = self.log.read(&self.id, self.first - 1);
        while stored.next() <= self.records {
            let item = reader.next().await;
            let entry = item.unwrap_or_else(|| Err(LogErrorKind::NotFound.into()))?;
            if entry.end.is_some() {
                return Err(LogErrorKind::Ended.into());
            }
            // More was trimmed since.
            if entry.first > stored.next() {
                stored = Entry::records(entry.first, Vec::new());
            }
            stored.records.extend(entry.records);
        }
        Ok(stored)
    }
}

impl fmt::Debug for LostStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LostStream")
            .field("id", &self.id)
            .field("records", &self.records)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The function of [`Builder::restart`](crate::Builder::restart), which also runs the producer.
pub(crate) type RestartFn = Arc<dyn Fn(LostStream, Resumer) -> Producing + Send + Sync>;

pub(crate) type Producing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the producer of a restarted stream gets from the server and from the reader that restarts it.
pub(crate) struct Resumer {
    shared: Arc<Shared>,
    live: Arc<Live>,
    outer: Option<Exchange>,
}

pub(crate) fn restart_fn<F, R, B>(restart: F) -> RestartFn
where
    F: Fn(LostStream) -> R + Send + Sync + 'static,
    R: Future<Output = Option<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let restart = Arc::new(restart);
    Arc::new(move |lost, resumer| {
        let Resumer {
            shared,
            live,
            outer,
        } = resumer;
        let restart = Arc::clone(&restart);
        let exchange = outer.as_ref().map_or_else(Exchange::new, Exchange::apart);
        exchange.claim(Claim::EventIds);
        let producer = Producer {
            who_left: live.head.who_left,
            drain: outer.as_ref().and_then(Exchange::hold_drain),
            permit: outer.as_ref().and_then(Exchange::permit),
            shared,
            live,
            exchange,
            body: Restarting {
                // Not called before it is polled, where the producer catches its panics and renews the lease.
                future: Some(async move { restart(lost).await }),
                body: None,
            },
        };
        Box::pin(producer.run())
    })
}

pin_project! {
    /// The body of a future that may have none.
    struct Restarting<F, B> {
        #[pin]
        future: Option<F>,
        #[pin]
        body: Option<B>,
    }
}

impl<F, B> Body for Restarting<F, B>
where
    F: Future<Output = Option<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(future) = this.future.as_mut().as_pin_mut() {
            let body = ready!(future.poll(cx));
            this.future.set(None);
            this.body.set(body);
        }
        match this.body.as_pin_mut() {
            Some(body) => body.poll_frame(cx).map_err(Into::into),
            None => Poll::Ready(Some(Err(lost().into()))),
        }
    }
}

/// The cause of the end of a stream whose producer is lost.
fn lost() -> Cause {
    let message = "the server that produced the stream was lost";
    Cause::new(FaultKind::ProducerLost, message)
}

impl Shared {
    /// The state of a stream that is not produced here. If it has no end, and the lease of its producer has expired, the stream is
    /// restarted here if it can be, and else ended.
    pub(crate) async fn look_after(
        self: &Arc<Self>,
        id: &StreamId,
        outer: Option<&Exchange>,
    ) -> Result<Status, LogError> {
        let status = self.log.status(id).await?;
        if status.end.is_some() || status.lease.is_some() {
            return Ok(status);
        }
        let head = Head::decode(status.meta.clone());
        let seed = head.as_ref().and_then(|head| head.seed.clone());
        let (shared, id, outer) = (Arc::clone(self), *id, outer.cloned());
        let taken = async move {
            match (&shared.restart, head, seed) {
                (Some(restart), Some(head), Some(seed)) => {
                    shared.restart(restart, id, status, head, seed, outer).await
                }
                _ => {
                    if shared
                        .end_elsewhere(&id, Takeover::IfExpired, lost())
                        .await?
                    {
                        shared.count(|figures| &figures.orphans);
                    }
                    Ok(())
                }
            }
        };
        // In a task: if the caller were dropped after the takeover, the stream would have no producer.
        let taken = tokio::spawn(taken.in_current_span());
        taken.await.map_err(LogError::unavailable)??;
        self.log.status(&id).await
    }

    async fn restart(
        self: &Arc<Self>,
        restart: &RestartFn,
        id: StreamId,
        mut status: Status,
        head: Head,
        seed: Bytes,
        outer: Option<Exchange>,
    ) -> Result<(), LogError> {
        let Some(claimed) = self.claim(&id, Takeover::IfExpired).await? else {
            return Ok(());
        };
        if claimed.epoch == status.epoch.next() {
            status.forks.push(claimed.next);
        } else {
            // Others had it in between.
            status = self.log.status(&id).await?;
        }
        let span = tracing::info_span!("producer", stream = ?id, epoch = %claimed.epoch);
        #[cfg(feature = "trace")]
        crate::link::add(&span, &head.traceparent);
        let lost = LostStream {
            seed,
            records: claimed.next - 1,
            attempt: claimed.epoch.get() - 1,
            first: status.first.min(claimed.next),
            id,
            log: Arc::clone(&self.log),
        };
        let reader_until = Instant::now() + self.lease;
        let live = Live::restarted(id, claimed, status.forks, head, reader_until);
        let live = Arc::new(live);
        self.remember(&live);
        self.count(|figures| &figures.restarted);
        let resumer = Resumer {
            shared: Arc::clone(self),
            live,
            outer,
        };
        tokio::spawn(restart(lost, resumer).instrument(span));
        Ok(())
    }

    /// Takes a stream over. `None`: it had ended, or another has just taken it over.
    async fn claim(&self, id: &StreamId, takeover: Takeover) -> Result<Option<Claimed>, LogError> {
        match self.log.take_over(id, takeover).await {
            Ok(claimed) => Ok(Some(claimed)),
            Err(error) => match error.kind() {
                LogErrorKind::Held | LogErrorKind::Ended => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Takes a stream over and ends it. False: it had ended, or another has just taken it over.
    pub(crate) async fn end_elsewhere(
        &self,
        id: &StreamId,
        takeover: Takeover,
        cause: Cause,
    ) -> Result<bool, LogError> {
        let Some(claimed) = self.claim(id, takeover).await? else {
            return Ok(false);
        };
        let end = Entry::end(claimed.next, crate::End::Failed(cause));
        let stored = self.log.append(id, claimed.epoch, &end, Overflow::Trim);
        match stored.await {
            Err(error) if error.kind() == LogErrorKind::Fenced => Ok(false),
            done => done.map(|()| true),
        }
    }
}
