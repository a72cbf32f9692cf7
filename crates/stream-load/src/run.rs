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

/// Runs the load that `args` describe, to its end.
///
/// # Errors
///
/// When the arguments contradict each other, the host has no address, or there are no certificates to trust. A server that does not answer is no error but
/// a result: [`Ending::ConnectFailure`].
pub async fn run(args: &Args) -> Result<Report, UsageError> {
    let mut running = Load::new(args.clone())?.start().await?;
    running.ended().await;
    Ok(running.finish().await)
}

/// A run that is to be watched or steered while it goes on; [`run`] when it is not.
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

/// A load whose streams are being opened and read.
///
/// Dropping it leaves them all.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

/// What the workers share.
pub(crate) struct Shared {
    pub(crate) args: Args,
    pub(crate) client: Client,
    pub(crate) watch: Box<dyn Watch>,
    pub(crate) tally: Mutex<Tally>,
    /// no stream goes on after this
    pub(crate) run_end: Option<Instant>,
    started: Instant,
    /// no stream is begun after this
    last_start: Option<Instant>,
    /// no stream is begun once this is true
    stopped: watch::Sender<bool>,
    /// a permit for each stream that may wait for its head
    opening: Semaphore,
    schedule: tokio::sync::Mutex<Schedule>,
    bad: AtomicU64,
    progress: ProgressBar,
}

impl Load {
    /// The load that `args` describe.
    ///
    /// # Errors
    ///
    /// When the arguments contradict each other.
    pub fn new(args: Args) -> Result<Self, UsageError> {
        args.check()?;
        Ok(Self {
            args,
            address: None,
            watch: Box::new(()),
        })
    }

    /// Asks where each new connection is to go, as a balancer in front of changing servers would say it. The host of
    /// the URL is then only what the requests name.
    #[must_use]
    pub fn connect_to(mut self, next: impl Fn() -> SocketAddr + Send + Sync + 'static) -> Self {
        self.address = Some(Address::new(next));
        self
    }

    /// Tells `watch` of each stream.
    #[must_use]
    pub fn watch(mut self, watch: impl Watch) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// Begins to open streams, on tasks of this runtime.
    ///
    /// # Errors
    ///
    /// When the host of the URL has no address, or there are no certificates to trust for an `https://` URL.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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
    /// Lets no stream begin any more. Those that run go on to their ends.
    pub fn stop(&self) {
        self.shared.stopped.send_replace(true);
    }

    /// Waits until the last stream has ended. May be dropped and called again.
    ///
    /// # Panics
    ///
    /// When the [`Watch`] has panicked.
    pub async fn ended(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended
                && let Ok(panicked) = error.try_into_panic()
            {
                panic::resume_unwind(panicked);
            }
        }
    }

    /// What was found. Leaves streams that still run: they are [`Ending::Running`].
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

/// Which stream is next.
#[derive(Debug)]
struct Schedule {
    begun: u64,
    /// the earliest time for the stream that was begun last, by `--rate`
    slot: Instant,
    /// whether the time to begin streams is over
    over: bool,
}

/// How late a stream may begin and still be on schedule: more than a timer needs to fire.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(10);

/// After a connection that failed, a worker waits before the next one, twice as long each time.
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
        // a server that is down refuses at once, and a schedule paces the attempts by itself
        pause = match ending {
            Ending::ConnectFailure if shared.args.rate.is_none() => {
                (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
            }
            _ => Duration::ZERO,
        };
    }
}

impl Shared {
    /// The number of the next stream, its start and its permit to open, when it is time to begin it; `None` when no
    /// stream is to begin any more.
    ///
    /// Whoever waits here holds the schedule, so that streams begin in order. Dropped, it has taken no stream.
    async fn next(&self) -> Option<(u64, Start, SemaphorePermit<'_>)> {
        let mut schedule = self.schedule.lock().await;
        let number = schedule.begun;
        if self.args.total().is_some_and(|total| number >= total) {
            return None;
        }
        // never closed
        let opening = self.opening.acquire().await.ok()?;
        let start = match self.args.rate {
            Some(rate) => {
                let due = self.started + Duration::from_secs_f64(number as f64 / rate);
                // a stream that begins late moves those after it, or they would exceed the rate
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

    /// How many streams were due by `--rate` in the time of a run that was not stopped before, and did not begin.
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

/// Spreads the share evenly: of 100 streams at 3 %, numbers 33, 66 and 99.
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
