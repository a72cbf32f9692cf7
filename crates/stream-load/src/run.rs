//! A whole run.

use std::{
    fmt,
    io::IsTerminal,
    net::SocketAddr,
    num::NonZeroUsize,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Args, Ending, Report, UsageError, Watch,
    client::{Address, Client},
    stream,
    tally::Tally,
};

/// Runs the load that `args` describe, to its end.
///
/// # Errors
///
/// When the arguments contradict each other or the host has no address. A server that does not answer is no error but
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
    /// streams begun
    begun: AtomicUsize,
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
    /// When the host of the URL has no address.
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
            client: Client::new(&args, address),
            watch: self.watch,
            tally: Mutex::default(),
            run_end: last_start.map(|end| end + args.grace),
            started,
            last_start,
            stopped: watch::Sender::new(false),
            opening: Semaphore::new(
                args.opening
                    .map_or(Semaphore::MAX_PERMITS, NonZeroUsize::get),
            ),
            begun: AtomicUsize::new(0),
            bad: AtomicU64::new(0),
            progress: progress(&args),
            args,
        });
        let mut workers = JoinSet::new();
        for _ in 0..shared.args.streams.get() {
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

    /// What was found. Leaves streams that still run: they are [`Ending::Unfinished`].
    pub async fn finish(mut self) -> Report {
        let elapsed = self.shared.started.elapsed();
        self.workers.shutdown().await;
        self.shared.progress.finish_and_clear();
        let mut tally = std::mem::take(&mut *self.shared.tally.lock());
        tally.leave_unfinished();
        Report::new(&self.shared.args, tally, elapsed)
    }
}

async fn work(shared: Arc<Shared>) {
    let mut stopped = shared.stopped.subscribe();
    loop {
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return,
            next = shared.next() => next,
        };
        let Some((number, opening)) = next else {
            return;
        };
        let stall = is_stalled(number, shared.args.stall.ratio());
        let ending = stream::run(&shared, opening, stall).await;
        shared.progress.inc(1);
        if !matches!(ending, Ending::Whole | Ending::Unfinished | Ending::Stalled) {
            let bad = shared.bad.fetch_add(1, Ordering::Relaxed) + 1;
            shared.progress.set_message(format!("{bad} not whole"));
        }
        if ending == Ending::ConnectFailure {
            // a server that is down answers at once: do not spin
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Shared {
    /// The number of the next stream and its permit to open, when it is time to begin it; `None` when there is no next
    /// one.
    async fn next(&self) -> Option<(usize, SemaphorePermit<'_>)> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if self.args.total().is_some_and(|total| number >= total) {
            return None;
        }
        if let Some(rate) = self.args.rate {
            let start = self.started + Duration::from_secs_f64(number as f64 / rate);
            if self.last_start.is_some_and(|last| start >= last) {
                return None;
            }
            sleep_until(start).await;
        }
        // never closed
        let opening = self.opening.acquire().await.ok()?;
        (self.last_start.is_none_or(|last| Instant::now() < last)).then_some((number, opening))
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
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

/// Spreads the share evenly: of 100 streams at 3 %, numbers 33, 66 and 99.
fn is_stalled(number: usize, share: f64) -> bool {
    ((number + 1) as f64 * share).floor() > (number as f64 * share).floor()
}

fn progress(args: &Args) -> ProgressBar {
    if args.no_progress || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match args.total() {
        Some(total) => ProgressBar::new(total as u64),
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
