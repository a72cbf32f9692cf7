use tokio::time::Instant;
use tower_layer::Layer;
use tower_stream_core::mock;

use super::*;
use crate::Policy;

const STREAMS: usize = 10_000;

/// When each waiting stream ends after the start of a drain.
async fn ends(drain: &Drain, policy: Policy) -> Vec<Duration> {
    let layer = drain.farewell().policy(policy);
    let app = drain.layer().layer(layer.layer(service(|_| async {
        let mut response = Response::new(MockBody::new([mock::hang()]));
        let headers = response.headers_mut();
        headers.insert("content-type", "text/event-stream".parse().unwrap());
        response
    })));
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..STREAMS {
        let response = call(&app, get("/")).await;
        let ended = ended.clone();
        tokio::spawn(async move {
            let (text, _) = read(response.into_body()).await;
            assert!(text.contains("event: drain"));
            ended.send(Instant::now()).unwrap();
        });
    }
    drop(ended);
    tokio::task::yield_now().await;
    let start = Instant::now();
    drain.start();
    let mut seen = Vec::new();
    while let Some(end) = ends.recv().await {
        seen.push(end - start);
    }
    seen
}

/// EndEarly over 10 s with 10,000 streams: the busiest 100 ms have at most twice the mean.
#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_end_evenly_over_the_window() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(30 * SECOND)
        .early_end_window(10 * SECOND)
        .build();
    let mut bins = [0_usize; 101];
    for end in ends(&drain, Policy::EndEarly).await {
        bins[((end - SECOND).as_millis() / 100) as usize] += 1;
    }
    let (busiest, mean) = (bins.iter().max().unwrap(), STREAMS / 100);
    assert_eq!(bins.iter().sum::<usize>(), STREAMS);
    assert!(
        *busiest <= 2 * mean,
        "busiest {busiest}, mean {mean}: {bins:?}"
    );
    assert!(bins[..100].iter().all(|bin| *bin > 0), "{bins:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_have_their_farewell_when_the_deadline_comes() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(5 * SECOND)
        .build();
    let ends = ends(&drain, Policy::RunToDeadline).await;
    let lead = 500 * MS;
    assert_eq!(ends.len(), STREAMS);
    assert!(
        ends.iter()
            .all(|end| (5 * SECOND - lead..=5 * SECOND + MS).contains(end))
    );
    // The 10,000 streams end within 500 ms, which is 200 in each 10 ms. At most five times as many may end in the last
    // 10 ms.
    let last = ends.iter().filter(|end| **end >= 5 * SECOND - 10 * MS);
    assert!(last.count() <= 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_lead_is_no_longer_than_half_of_what_the_close_leaves() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(SECOND + 200 * MS)
        .build();
    let ends = ends(&drain, Policy::RunToDeadline).await;
    assert_eq!(ends.len(), STREAMS);
    assert!(ends.iter().all(|end| *end >= SECOND + 100 * MS));
    // Spread over the remaining time.
    let first_half = ends.iter().filter(|end| **end < SECOND + 150 * MS).count();
    assert!(
        (STREAMS * 3 / 10..=STREAMS * 6 / 10).contains(&first_half),
        "{first_half}"
    );
}
