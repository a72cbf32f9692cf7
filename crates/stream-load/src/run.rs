//! A whole run.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{Args, Ending, Report, UsageError, client::Client, stream, tally::Tally};

/// What the workers share.
#[derive(Debug)]
struct Shared {
    args: Args,
    client: Client,
    started: Instant,
    /// no stream is begun after this
    last_start: Option<Instant>,
    /// no stream goes on after this
    run_end: Option<Instant>,
    /// streams begun
    begun: AtomicUsize,
    bad: AtomicU64,
    tally: Mutex<Tally>,
    progress: ProgressBar,
}

/// Runs the load that `args` describe, to its end.
///
/// # Errors
///
/// When the arguments contradict each other or the host has no address. A server that does not answer is no error but
/// a result: [`Ending::ConnectFailure`].
pub async fn run(args: &Args) -> Result<Report, UsageError> {
    args.check()?;
    let client = Client::new(args)
        .await
        .map_err(|error| UsageError(format!("{}: {error}", args.url)))?;
    let started = Instant::now();
    let last_start = args.duration.map(|duration| started + duration);
    let shared = Arc::new(Shared {
        client,
        started,
        last_start,
        run_end: last_start.map(|end| end + args.grace),
        begun: AtomicUsize::new(0),
        bad: AtomicU64::new(0),
        tally: Mutex::default(),
        progress: progress(args),
        args: args.clone(),
    });
    let mut workers = JoinSet::new();
    for _ in 0..args.streams.get() {
        workers.spawn(work(Arc::clone(&shared)));
    }
    workers.join_all().await;
    shared.progress.finish_and_clear();
    let tally = std::mem::take(&mut *shared.tally.lock());
    Ok(Report::new(args, tally, started.elapsed()))
}

async fn work(shared: Arc<Shared>) {
    while let Some(number) = shared.next().await {
        let stall = is_stalled(number, shared.args.stall.ratio());
        let ending = stream::run(
            &shared.args,
            &shared.client,
            stall,
            shared.run_end,
            &shared.tally,
        )
        .await;
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
    /// The number of the next stream, when it is time to begin it; `None` when there is no next one.
    async fn next(&self) -> Option<usize> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let total = match (self.args.total, self.args.duration) {
            (Some(total), _) => Some(total.get()),
            (None, None) => Some(self.args.streams.get()),
            (None, Some(_)) => None,
        };
        if total.is_some_and(|total| number >= total) {
            return None;
        }
        if let Some(rate) = self.args.rate {
            let start = self.started + Duration::from_secs_f64(number as f64 / rate);
            if self.last_start.is_some_and(|last| start >= last) {
                return None;
            }
            sleep_until(start).await;
        }
        (self.last_start.is_none_or(|last| Instant::now() < last)).then_some(number)
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
    let bar = match args.total {
        Some(total) => ProgressBar::new(total.get() as u64),
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
