use tokio::time::Instant;
use tower_layer::Layer;
use tower_stream_body::mock;

use super::*;
use crate::Policy;

/// drain.md: EndEarly over 10 s, 10,000 streams, the busiest 100 ms at most twice the mean.
#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_end_evenly_over_the_window() {
    const STREAMS: usize = 10_000;
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(30 * SECOND)
        .early_end_window(10 * SECOND)
        .build();
    let layer = drain.farewell().policy(Policy::EndEarly);
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
    let close = Instant::now() + SECOND;
    drain.start();
    let mut bins = [0_usize; 101];
    while let Some(end) = ends.recv().await {
        bins[((end - close).as_millis() / 100) as usize] += 1;
    }
    let (busiest, mean) = (bins.iter().max().unwrap(), STREAMS / 100);
    assert_eq!(bins.iter().sum::<usize>(), STREAMS);
    assert!(
        *busiest <= 2 * mean,
        "busiest {busiest}, mean {mean}: {bins:?}"
    );
    assert!(bins[..100].iter().all(|bin| *bin > 0), "{bins:?}");
}
