//! A whole run.

use std::{
    fmt,
    io::IsTerminal,
    net::SocketAddr,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Args, Ending, Report, UsageError, Watch,
    client::{Address, Client},
    stream,
    tally::{Start, Tally},
};

/// Runs the load described by `args` to its end.
///
/// # Errors
///
/// Fails when the arguments contradict each other, the host has no address, or there are no certificates to trust. A
/// server that does not answer is not an error but a result: [`Ending::ConnectFailure`].
pub async fn run(args: &Args) -> Result<Report, UsageError> {
    let mut running = Load::new(args.clone())?.start().await?;
    running.ended().await;
    Ok(running.finish().await)
}

/// A run that can be watched and controlled. Use [`run`] when neither is needed.
///
/// ```no_run
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
/// use clap::Parser;
/// use stream_load::{Args, Ending, Load, Watch};
///
/// #[derive(Default)]
/// struct Opened(AtomicU64);
///
/// impl Watch for Opened {
///     fn opened(&self) {
///         self.0.fetch_add(1, Relaxed);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), stream_load::UsageError> {
/// let opened = Arc::new(Opened::default());
/// let args = Args::parse_from(["stream-load", "-n", "1000", "http://127.0.0.1:3000/events?count=0"]);
/// let mut running = Load::new(args)?.watch(Arc::clone(&opened)).start().await?;
/// // .. wait until `opened` says 1000, and stop the server
/// running.ended().await;
/// assert_eq!(running.finish().await.count(Ending::Drained), 1000);
/// # Ok(()) }
/// ```
pub struct Load {
    args: Args,
    address: Option<Address>,
    watch: Box<dyn Watch>,
}

/// A run in progress.
///
/// Dropping it aborts all its streams.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

/// State shared by the workers.
pub(crate) struct Shared {
    pub(crate) args: Args,
    pub(crate) client: Client,
    pub(crate) watch: Box<dyn Watch>,
    pub(crate) tally: Mutex<Tally>,
    /// The time at which every stream ends.
    pub(crate) run_end: Option<Instant>,
    started: Instant,
    /// The time after which no stream starts.
    last_start: Option<Instant>,
    /// Set to true to start no more streams.
    stopped: watch::Sender<bool>,
    /// One permit for each stream that may wait for its response head.
    opening: Semaphore,
    schedule: tokio::sync::Mutex<Schedule>,
    bad: AtomicU64,
    progress: ProgressBar,
}

impl Load {
    /// Creates the load described by `args`.
    ///
    /// # Errors
    ///
    /// Fails when the arguments contradict each other.
    pub fn new(args: Args) -> Result<Self, UsageError> {
        args.check()?;
        Ok(Self {
            args,
            address: None,
            watch: Box::new(()),
        })
    }

    /// Calls `next` for the address of each new connection, like a load balancer in front of changing servers. The
    /// host of the URL is then used only for the `Host` field or `:authority`.
    #[must_use]
    pub fn connect_to(mut self, next: impl Fn() -> SocketAddr + Send + Sync + 'static) -> Self {
        self.address = Some(Address::new(next));
        self
    }

    /// Reports each stream to `watch`.
    #[must_use]
    pub fn watch(mut self, watch: impl Watch) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// Starts to open streams, on tasks of the current runtime.
    ///
    /// # Errors
    ///
    /// Fails when the host of the URL has no address, or when there are no certificates to trust for an `https://` URL.
    ///
    /// # Panics
    ///
    /// Panics when called outside of a tokio runtime.
    pub async fn start(self) -> Result<Running, UsageError> {
        let args = self.args;
        let address = match self.address {
            Some(address) => address,
            None => Address::of(&args)
                .await
                .map_err(|error| UsageError(format!("{}: {error}", args.url)))?,
        };
        let started = Instant::now();
        let last_start = args.duration.map(|duration| started + duration);
        let shared = Arc::new(Shared {
            client: Client::new(&args, address)?,
            watch: self.watch,
            tally: Mutex::default(),
            run_end: last_start.map(|end| end + args.grace),
            started,
            last_start,
            stopped: watch::Sender::new(false),
            opening: Semaphore::new(args.opening.unwrap_or(Semaphore::MAX_PERMITS)),
            schedule: tokio::sync::Mutex::new(Schedule {
                begun: 0,
                slot: started,
                over: false,
            }),
            bad: AtomicU64::new(0),
            progress: progress(&args),
            args,
        });
        let mut workers = JoinSet::new();
        for _ in 0..shared.args.concurrency() {
            workers.spawn(work(Arc::clone(&shared)));
        }
        Ok(Running { shared, workers })
    }
}

impl Running {
    /// Starts no more streams. Open streams continue to their ends.
    pub fn stop(&self) {
        self.shared.stopped.send_replace(true);
    }

    /// Waits until the last stream has ended. Cancel safe.
    ///
    /// # Panics
    ///
    /// Panics when the [`Watch`] panicked.
    pub async fn ended(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended
                && let Ok(panicked) = error.try_into_panic()
            {
                panic::resume_unwind(panicked);
            }
        }
    }

    /// Returns the report. Streams that are still open are aborted and reported as [`Ending::Running`].
    pub async fn finish(mut self) -> Report {
        let elapsed = self.shared.started.elapsed();
        self.workers.shutdown().await;
        self.shared.progress.finish_and_clear();
        let mut tally = std::mem::take(&mut *self.shared.tally.lock());
        tally.leave_running();
        tally.not_begun = self.shared.not_begun().await;
        Report::new(&self.shared.args, tally, elapsed)
    }
}

/// Decides when the next stream starts.
#[derive(Debug)]
struct Schedule {
    begun: u64,
    /// The scheduled time of the stream that started last.
    slot: Instant,
    /// Whether the time to start streams is over.
    over: bool,
}

/// A stream that starts later than this is behind schedule. Larger than the delay of a timer.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(10);

/// Delay before the first attempt after a failed connection. It doubles with each further failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

async fn work(shared: Arc<Shared>) {
    let mut stopped = shared.stopped.subscribe();
    let mut pause = Duration::ZERO;
    loop {
        let next = async {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            shared.next().await
        };
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            next = next => next,
        };
        let Some((number, start, opening)) = next else {
            return;
        };
        let stall = is_stalled(number, shared.args.stall.ratio());
        let ending = stream::run(&shared, start, opening, stall).await;
        shared.progress.inc(1);
        if !matches!(ending, Ending::Whole | Ending::Running | Ending::Stalled) {
            let bad = shared.bad.fetch_add(1, Ordering::Relaxed) + 1;
            shared.progress.set_message(format!("{bad} not whole"));
        }
        // A host that is down refuses at once. With `--rate` the schedule already limits the attempts.
        pause = match ending {
            Ending::ConnectFailure if shared.args.rate.is_none() => {
                (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
            }
            _ => Duration::ZERO,
        };
    }
}

impl Shared {
    /// Waits until the next stream is due. Returns its number, its start and its permit to open, or `None` when no more
    /// streams start.
    ///
    /// The future holds the lock on the schedule while it waits, so that streams start in order. Cancel safe: the
    /// stream is counted last.
    async fn next(&self) -> Option<(u64, Start, SemaphorePermit<'_>)> {
        let mut schedule = self.schedule.lock().await;
        let number = schedule.begun;
        if self.args.total().is_some_and(|total| number >= total) {
            return None;
        }
        // The semaphore is never closed.
        let opening = self.opening.acquire().await.ok()?;
        let start = match self.args.rate {
            Some(rate) => {
                let due = self.started + Duration::from_secs_f64(number as f64 / rate);
                // A late stream delays those after it; otherwise they would exceed the rate.
                let slot = match number {
                    0 => due,
                    _ => due.max(schedule.slot + Duration::from_secs_f64(rate.recip())),
                };
                if self.last_start.is_some_and(|last| slot >= last) {
                    schedule.over = true;
                    return None;
                }
                sleep_until(slot).await;
                let at = Instant::now();
                schedule.slot = slot.max(at.checked_sub(TOLERANCE).unwrap_or(slot));
                Start { due, at }
            }
            None => {
                let at = Instant::now();
                Start { due: at, at }
            }
        };
        if self.last_start.is_some_and(|last| start.at >= last) {
            schedule.over = true;
            return None;
        }
        schedule.begun += 1;
        Some((number, start, opening))
    }

    /// Number of streams that were due by `--rate` before the end of the run (or before it was stopped) but did not
    /// start.
    async fn not_begun(&self) -> u64 {
        let schedule = self.schedule.lock().await;
        match (self.args.rate, self.args.duration) {
            (Some(rate), Some(duration)) if schedule.over => {
                let due = (duration.as_secs_f64() * rate).ceil() as u64;
                let due = due.min(self.args.total().unwrap_or(u64::MAX));
                due.saturating_sub(schedule.begun)
            }
            _ => 0,
        }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("args", &self.args)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// Spreads the stalled streams evenly: at 3 % of 100 streams, numbers 33, 66 and 99.
fn is_stalled(number: u64, share: f64) -> bool {
    ((number + 1) as f64 * share).floor() > (number as f64 * share).floor()
}

fn progress(args: &Args) -> ProgressBar {
    if args.no_progress || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match args.total() {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    let style = ProgressStyle::with_template(
        "{elapsed_precise} {wide_bar} {pos} streams ended, {per_sec} {msg}",
    );
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_stalled_streams_is_exact() {
        assert_eq!((0..1000).filter(|n| is_stalled(*n, 0.01)).count(), 10);
        assert_eq!((0..1000).filter(|n| is_stalled(*n, 0.0)).count(), 0);
        assert_eq!((0..1000).filter(|n| is_stalled(*n, 1.0)).count(), 1000);
    }
}
