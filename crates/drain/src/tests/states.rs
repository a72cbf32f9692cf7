use futures_util::StreamExt;
use tokio::time::{Instant, sleep};
use tower_layer::Layer;

use super::*;
use crate::{BuildError, DrainToken, Phase, State};

const ADVERTISE: State = State::Draining(Phase::Advertise);
const CLOSE: State = State::Draining(Phase::Close);

#[tokio::test(start_paused = true)]
async fn it_goes_through_its_states_by_the_clock() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let mut seen = vec![(drain.state(), 0)];
    let start = Instant::now();
    drain.start();
    let mut states = drain.watch();
    while let Some(state) = states.next().await {
        seen.push((state, start.elapsed().as_millis()));
    }
    // `settle` takes 25 ms without a last event.
    assert_eq!(
        seen,
        [
            (State::Active, 0),
            (ADVERTISE, 0),
            (CLOSE, 1000),
            (State::Dead, 5025)
        ]
    );
    drop(hold);
    assert_eq!(drain.stats().aborted, 1);
}

/// The drain has no task: each read compares the schedule with the clock.
#[tokio::test(start_paused = true)]
async fn a_drain_that_nobody_waits_for_goes_by_the_clock() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    drain.start();
    for (wait, state) in [
        (999, ADVERTISE),
        (1, CLOSE),
        (4249, CLOSE),
        // `settle` is over at the latest 250 ms after the deadline.
        (1, State::Dead),
    ] {
        sleep(wait * MS).await;
        assert_eq!(drain.state(), state);
    }
    drop(hold);
    assert_eq!(drain.stats().aborted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ends_after_a_death_that_nobody_saw_was_aborted() {
    let drain = drain();
    let inner = service(|_| async { Response::new(MockBody::new([])) });
    let body = call(&drain.layer().layer(inner), get("/"))
        .await
        .into_body();
    drain.start();
    sleep(10 * SECOND).await;
    drop(body);
    let stats = drain.stats();
    assert_eq!((stats.served, stats.aborted, stats.in_flight), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn with_nothing_in_flight_it_is_dead_at_the_close_and_not_before() {
    let drain = drain();
    let start = Instant::now();
    drain.start();
    drain.dead().await;
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_last_one_to_leave_ends_it() {
    let drain = drain();
    let holds = [DrainToken::new(&drain), DrainToken::new(&drain)];
    let start = Instant::now();
    drain.start();
    for (n, hold) in (2..).zip(holds) {
        tokio::spawn(async move {
            sleep(n * SECOND).await;
            drop(hold);
        });
    }
    drain.dead().await;
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert_eq!(drain.stats().aborted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_start_may_only_shorten() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let start = Instant::now();
    drain.start();
    sleep(SECOND).await;
    drain.start_within(100 * SECOND);
    drain.start();
    assert_eq!(drain.deadline(), Some(start + 5 * SECOND));
    drain.start_within(SECOND);
    assert_eq!(drain.deadline(), Some(start + 2 * SECOND));
    drain.dead().await;
    assert_eq!(start.elapsed(), 2 * SECOND + 25 * MS);
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn ended_now_it_skips_what_is_left_of_every_phase() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let start = Instant::now();
    drain.start();
    sleep(100 * MS).await;
    drain.start_within(Duration::ZERO);
    drain.dead().await;
    assert_eq!(start.elapsed(), 125 * MS);
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn idle_waits_in_any_state() {
    let drain = drain();
    drain.idle().await;
    let hold = DrainToken::new(&drain);
    assert_eq!(drain.in_flight(), 1);
    let start = Instant::now();
    tokio::spawn(async move {
        sleep(SECOND).await;
        drop(hold);
    });
    drain.idle().await;
    assert_eq!((start.elapsed(), drain.in_flight()), (SECOND, 0));
}

#[tokio::test(start_paused = true)]
async fn two_drains_of_one_process_have_nothing_in_common() {
    let (one, two) = (drain(), drain());
    let _hold = DrainToken::new(&one);
    two.start();
    two.dead().await;
    assert_eq!((one.state(), one.in_flight()), (State::Active, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_runs_on_without_its_handles() {
    let drain = drain();
    let draining = drain.draining();
    let states = drain.watch();
    drain.start();
    drop(drain);
    let states: Vec<_> = states.collect().await;
    assert_eq!(states.last(), Some(&State::Dead));
    assert_eq!(draining.state(), State::Dead);
}

#[tokio::test(start_paused = true)]
async fn states_end_when_an_active_drain_is_gone() {
    let drain = drain();
    let states = drain.watch();
    drop(drain);
    assert_eq!(states.collect::<Vec<_>>().await, [State::Active]);
}

/// Real time. A waiter needs a runtime with timers; starting needs none.
#[test]
fn it_can_be_started_outside_of_a_runtime() {
    let drain = Drain::builder().advertise(MS).deadline(SECOND).build();
    drain.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(drain.dead());
}

/// Real time: the thread has its own clock. A thread that waits for a signal may have a runtime of its own.
#[test]
fn it_goes_on_when_the_runtime_that_started_it_is_gone() {
    let drain = Drain::builder().advertise(MS).deadline(SECOND).build();
    let hold = DrainToken::new(&drain);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    };
    let handle = drain.clone();
    let starter = std::thread::spawn(move || runtime().block_on(async { handle.start() }));
    starter.join().unwrap();
    let dead = async { tokio::time::timeout(60 * SECOND, drain.dead()).await };
    assert!(runtime().block_on(dead).is_ok(), "{}", drain.state());
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_no_clock_reaches_is_none() {
    let endless = [
        Drain::builder().deadline(Duration::MAX),
        Drain::builder()
            .deadline(Duration::MAX)
            .advertise(Duration::MAX - SECOND)
            .settle(Duration::MAX)
            .early_end_window(Duration::MAX)
            .retry_after(Duration::ZERO..=Duration::MAX),
    ];
    for builder in endless {
        let drain = builder.build();
        let hold = DrainToken::new(&drain);
        drain.start();
        assert_eq!((drain.state(), drain.deadline()), (ADVERTISE, None));
        sleep(10_000 * SECOND).await;
        assert!(drain.state().is_draining() && drain.state() != State::Dead);
        drain.start_within(Duration::MAX);
        assert_eq!(drain.deadline(), None);
        let app = drain
            .layer()
            .layer(service(|_| async { Response::new(MockBody::new([])) }));
        call(&app, get("/")).await;
        drain.start_within(SECOND);
        assert_eq!(drain.deadline(), Some(Instant::now() + SECOND));
        sleep(SECOND).await;
        drop(hold);
        drain.dead().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_it_waits_for_the_last_one() {
    let drain = Drain::builder().advertise(SECOND).no_deadline().build();
    let hold = DrainToken::new(&drain);
    let start = Instant::now();
    drain.start();
    tokio::spawn(async move {
        sleep(100_000 * SECOND).await;
        drop(hold);
    });
    drain.dead().await;
    assert_eq!(
        (start.elapsed(), drain.stats().aborted),
        (100_000 * SECOND, 0)
    );
}

#[test]
fn a_drain_without_a_deadline_is_over_every_budget() {
    for builder in [
        Drain::builder().no_deadline(),
        Drain::builder()
            .deadline(Duration::MAX)
            .settle(Duration::MAX),
    ] {
        let drain = builder.grace_period(30 * SECOND).build();
        let warning = drain.over_budget().unwrap().to_string();
        assert!(warning.contains("killed after 30s"), "{warning}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let reach = Drain::builder()
        .advertise(SECOND)
        .deadline(SECOND)
        .try_build();
    let error = reach.unwrap_err();
    assert!(matches!(error, BuildError::AdvertiseReachesDeadline { .. }));
    assert!(error.to_string().contains("1s"), "{error}");
    let (from, to) = (2 * SECOND, SECOND);
    let error = Drain::builder()
        .retry_after(from..=to)
        .try_build()
        .unwrap_err();
    assert_eq!(error, BuildError::EmptyRetryAfter);
}

#[test]
#[should_panic(expected = "has to be shorter than the deadline")]
fn build_panics_with_the_reason() {
    let _ = Drain::builder().advertise(SECOND).deadline(SECOND).build();
}

#[test]
fn the_budget_is_checked_with_five_seconds_in_reserve() {
    let with = |grace| {
        let drain = Drain::builder()
            .deadline(20 * SECOND)
            .grace_period(grace)
            .build();
        drain.over_budget()
    };
    assert_eq!(with(25 * SECOND + 250 * MS), None);
    let warning = with(25 * SECOND).unwrap().to_string();
    assert!(
        warning.contains("25.25s") && warning.contains("terminationGrace"),
        "{warning}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_advertise_it_closes_at_once_and_keeps_its_deadline() {
    let drain = Drain::builder()
        .advertise(Duration::from_secs(5))
        .deadline(Duration::from_secs(20))
        .build();
    let token = DrainToken::new(&drain);
    let start = Instant::now();
    drain.start_without_advertise();
    assert_eq!(drain.state(), State::Draining(Phase::Close));
    assert_eq!(drain.deadline(), Some(start + Duration::from_secs(20)));
    // A second start with an earlier deadline does not open the drain again.
    drain.start_within(Duration::from_secs(10));
    assert_eq!(drain.state(), State::Draining(Phase::Close));
    drop(token);
    drain.dead().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}
