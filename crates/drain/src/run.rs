//! The drain itself: phase after phase, against the clock.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    Policy, State,
    drain::{Shared, Step},
    settings::FOR_EVER,
    state::Phase,
};

/// Runs the drain that began at `started`, as a task or, outside of a runtime, as a thread.
pub(crate) fn spawn(shared: Arc<Shared>, started: Instant) {
    let driver = Driver {
        shared,
        started,
        over: false,
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(driver.run())),
        // its drop begins the thread
        Err(_) => drop(driver),
    }
}

/// Drives a drain to its end. If the runtime that it runs in ends before, it goes on in a thread of its own.
struct Driver {
    shared: Arc<Shared>,
    started: Instant,
    over: bool,
}

impl Driver {
    async fn run(mut self) {
        run(&self.shared, self.started).await;
        self.over = true;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (shared, started) = (Arc::clone(&self.shared), self.started);
        let alone = move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            runtime.block_on(run(&shared, started));
            Ok(())
        };
        let thread = std::thread::Builder::new().name("drain".to_owned());
        let spawned = thread.spawn(move || {
            if let Err(error) = alone() {
                tracing::error!(%error, "the drain cannot run: no runtime");
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the drain cannot run: no thread");
        }
    }
}

/// Each step is one way and depends on the clock alone, so a second run goes on where the first was dropped.
async fn run(shared: &Shared, started: Instant) {
    let settings = &shared.settings;
    let mut deadline = shared.deadline.subscribe();
    let close = started + settings.advertise.min(FOR_EVER);

    reach(&mut deadline, close - settings.handover()).await;
    shared.step(Step::Handover);
    reach(&mut deadline, close).await;
    shared.advance(State::Draining(Phase::Close));

    let in_time = tokio::select! {
        biased;
        () = shared.finished() => true,
        () = run_out(shared, &mut deadline) => false,
        never = end_early(shared, close) => match never {},
    };
    if !in_time {
        shared.streams.end_all();
        tokio::select! {
            biased;
            () = shared.finished() => {}
            () = settle(shared) => {}
        }
    }
    shared.advance(State::Dead);
}

/// Waits for `at`, or for the deadline if that is sooner.
async fn reach(deadline: &mut watch::Receiver<Option<Instant>>, at: Instant) {
    loop {
        let due = deadline
            .borrow_and_update()
            .map_or(at, |deadline| deadline.min(at));
        tokio::select! {
            () = sleep_until(due) => return,
            // the sender lives in the drain, which is running
            _ = deadline.changed() => {}
        }
    }
}

/// What one farewell costs a small machine, its connection's end and a client on the same cores included.
const A_FAREWELL: Duration = Duration::from_micros(50);
const MOST_LEAD: Duration = Duration::from_secs(1);
const LEAD_TICK: Duration = Duration::from_millis(10);

/// Waits for the deadline. Streams that are many begin to end before it, so that the last has its farewell when it comes:
/// thousands at once take longer than [`settle`] may wait.
async fn run_out(shared: &Shared, deadline: &mut watch::Receiver<Option<Instant>>) {
    // nobody sets it later than it was, so the one that is known bounds it; a drain without one waits for a second start
    let known = match deadline.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(known)) => *known,
        // the sender lives in the drain, which is running
        _ => return,
    };
    let most = MOST_LEAD.min(known.saturating_duration_since(Instant::now()) / 2);
    reach(deadline, known - most).await;
    let streams = u32::try_from(shared.streams.waiting()).unwrap_or(u32::MAX);
    let lead = A_FAREWELL.saturating_mul(streams).min(most);
    reach(deadline, known - lead).await;
    let mut left = lead;
    while left > LEAD_TICK {
        let part = 1.0 - left.as_secs_f64() / lead.as_secs_f64();
        shared.streams.end_part(Policy::RunToDeadline, part);
        reach(deadline, Instant::now() + LEAD_TICK).await;
        let due = deadline.borrow().unwrap_or(known);
        left = due.saturating_duration_since(Instant::now());
    }
    reach(deadline, known).await;
}

/// How finely the ends are spread: well below what a client could notice as a herd.
const EARLY_TICK: Duration = Duration::from_millis(20);

/// Ends the streams that may end early, each by its own lot. Never done: a stream may still begin.
async fn end_early(shared: &Shared, close: Instant) -> Infallible {
    // a second start may have made it close sooner
    let begun = close.min(Instant::now());
    let left = shared.deadline.borrow().map(|deadline| deadline - begun);
    let window = left.map_or(shared.settings.early_end_window, |left| {
        left.min(shared.settings.early_end_window)
    });
    loop {
        sleep(EARLY_TICK).await;
        let part = match window.is_zero() {
            true => 1.0,
            false => (begun.elapsed().as_secs_f64() / window.as_secs_f64()).min(1.0),
        };
        shared.streams.end_part(Policy::EndEarly, part);
        if part >= 1.0 {
            // a stream that begins now ends by itself
            std::future::pending::<()>().await;
        }
    }
}

/// Farewells leave within one poll of their connection, so this many ticks in which nothing ended say that whoever reads
/// has its own. Ticks, not time: on a machine that is out of breath they are late together with the streams.
const QUIET_TICKS: u32 = 5;
const SETTLE_TICK: Duration = Duration::from_millis(5);

/// Waits for the farewells to leave: until nothing happens any more, and each stream that took one is dropped. An error
/// writer outside may keep a stream for a moment, so that what it gave is flushed before it fails.
async fn settle(shared: &Shared) {
    let mut at_most = pin!(sleep(shared.settings.settle));
    let mut seen = shared.progress();
    let mut quiet = 0;
    while quiet < QUIET_TICKS || shared.has_open_farewells() {
        tokio::select! {
            biased;
            () = at_most.as_mut() => return,
            () = sleep(SETTLE_TICK) => {}
        }
        let now = shared.progress();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}
