//! Times, measured with a paused clock.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::{advance, sleep as rest};
use tower_stream_core::mock::{data, error, hang, sleep, trailer};

use super::*;
use crate::names;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sum and count. The sum is in whole milliseconds, the resolution of tokio's paused clock.
fn millis(point: Point) -> (u64, u64) {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    ((point.sum * 1000.0).round() as u64, point.count)
}

impl Recorded {
    fn millis(&self, name: &str) -> (u64, u64) {
        millis(self.only(name).1)
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_chunk_is_timed_from_the_call() {
    let recorded = Recorded::new();
    let service = service_fn(|_: Request<()>| async {
        rest(ms(30)).await;
        let body = mock([sleep(ms(20)), data("a"), sleep(ms(500)), data("b")]);
        Ok::<_, Infallible>(Response::new(body))
    });
    let response = recorded
        .layer()
        .layer(service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    response.into_body().collect().await.unwrap();
    let (attributes, first) = recorded.only(names::TIME_TO_FIRST_CHUNK);
    assert_eq!(millis(first), (50, 1));
    assert_eq!(
        attributes,
        "http.request.method=GET http.response.status_code=200 http.route=_unmatched"
    );
    assert_eq!(recorded.millis(names::STREAM_DURATION), (550, 1));
}

#[tokio::test(start_paused = true)]
async fn a_frame_without_data_is_no_chunk() {
    let recorded = Recorded::new();
    let steps = [
        data(""),
        sleep(ms(40)),
        data("a"),
        data(""),
        sleep(ms(7)),
        data("b"),
        trailer("a", "b"),
    ];
    play(&mut body(&recorded.layer(), mock(steps)).await)
        .await
        .unwrap();
    assert_eq!(recorded.millis(names::TIME_TO_FIRST_CHUNK), (40, 1));
    assert_eq!(recorded.millis(names::CHUNK_GAP), (7, 1));
}

#[tokio::test(start_paused = true)]
async fn gaps_go_into_the_bucket_of_the_later_chunk() {
    let recorded = Recorded::new();
    // Chunk i comes i ms after chunk i - 1.
    let steps = (0..10).flat_map(|i| [sleep(ms(i)), data("x")]);
    play(&mut body(&recorded.layer(), mock(steps)).await)
        .await
        .unwrap();
    let gaps: BTreeMap<_, _> = recorded
        .series(names::CHUNK_GAP)
        .into_iter()
        .map(|(attributes, point)| (attributes, millis(point)))
        .collect();
    let expected = [(1, (1, 1)), (2, (5, 2)), (4, (22, 4)), (8, (17, 2))].map(|(bucket, sum)| {
        (
            format!("chunk.index_bucket={bucket} http.route=_unmatched"),
            sum,
        )
    });
    assert_eq!(gaps, BTreeMap::from(expected));
}

#[tokio::test(start_paused = true)]
async fn wait_and_hold_are_the_two_parts_of_a_gap() {
    let recorded = Recorded::new();
    let layer = recorded.layer().producer_wait(true).consumer_hold(true);
    let steps = [
        sleep(ms(5)),
        data("a"),
        sleep(ms(10)),
        data("b"),
        sleep(ms(20)),
        data("c"),
    ];
    let mut body = body(&layer, mock(steps)).await;
    advance(ms(1000)).await; // The server has not polled yet, so this counts as no wait.
    for _ in 0..3 {
        body.frame().await.unwrap().unwrap();
        advance(ms(100)).await;
    }
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(recorded.millis(names::CHUNK_PRODUCER_WAIT), (35, 3));
    assert_eq!(recorded.millis(names::CHUNK_CONSUMER_HOLD), (300, 3));
    let gaps = recorded.series(names::CHUNK_GAP).into_values().map(millis);
    assert_eq!(gaps.collect::<Vec<_>>(), [(110, 1), (120, 1)]);
    assert_eq!(recorded.millis(names::TIME_TO_FIRST_CHUNK), (1005, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_came_back_is_in_the_hold() {
    let recorded = Recorded::new();
    let mut body = body(
        &recorded.layer().consumer_hold(true),
        mock([data("a"), data("b")]),
    )
    .await;
    body.frame().await.unwrap().unwrap();
    advance(ms(60_000)).await;
    drop(body);
    assert_eq!(recorded.millis(names::CHUNK_CONSUMER_HOLD), (60_000, 1));
    assert_eq!(recorded.millis(names::STREAM_DURATION), (60_000, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_holds_nothing() {
    let recorded = Recorded::new();
    let layer = recorded.layer().consumer_hold(true);
    let mut body = body(&layer, mock([data("a"), hang()])).await;
    body.frame().await.unwrap().unwrap();
    assert!(tokio::time::timeout(ms(90), body.frame()).await.is_err());
    drop(body);
    assert_eq!(recorded.millis(names::CHUNK_CONSUMER_HOLD), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_over_is_held_by_nobody() {
    for polled_on in [false, true] {
        let recorded = Recorded::new();
        let script = mock([data("a"), data("b")]).tells_end();
        let mut body = body(&recorded.layer().consumer_hold(true), script).await;
        play_h1(&mut body).await.unwrap();
        advance(ms(60_000)).await;
        if polled_on {
            assert!(body.frame().await.is_none());
        }
        drop(body);
        assert_eq!(
            recorded.millis(names::CHUNK_CONSUMER_HOLD),
            (0, 1),
            "of the first chunk only"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_duration_ends_when_the_stream_does_not_when_its_body_is_dropped() {
    for script in [
        mock([sleep(ms(70)), data("a")]).tells_end(),
        mock([sleep(ms(70)), data("a")]).with_true_size(),
        mock([data("a"), sleep(ms(70))]),
        mock([data("a"), sleep(ms(70)), error("broken")]),
    ] {
        let recorded = Recorded::new();
        let mut body = body(&recorded.layer(), script).await;
        let _ = play_h1(&mut body).await;
        advance(ms(1000)).await;
        drop(body);
        assert_eq!(recorded.millis(names::STREAM_DURATION), (70, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_vain_for_its_first_chunk_has_none() {
    let recorded = Recorded::new();
    let mut body = body(&recorded.layer().producer_wait(true), mock([hang()])).await;
    assert!(tokio::time::timeout(ms(90), body.frame()).await.is_err());
    drop(body);
    assert!(recorded.series(names::TIME_TO_FIRST_CHUNK).is_empty());
    assert!(recorded.series(names::CHUNK_PRODUCER_WAIT).is_empty());
    assert_eq!(recorded.millis(names::STREAM_DURATION), (90, 1));
}

#[tokio::test(start_paused = true)]
async fn only_gaps_are_on_by_default_and_each_can_be_switched() {
    let steps = || [data("a"), sleep(ms(3)), data("b"), data("c")];
    let count = |recorded: &Recorded, name| {
        recorded
            .series(name)
            .values()
            .map(|point| point.count)
            .sum::<u64>()
    };
    for (layer, expected) in [
        (
            StreamMetricsLayer::new as fn(&Meter) -> StreamMetricsLayer,
            [2, 0, 0],
        ),
        (
            |meter| StreamMetricsLayer::new(meter).chunk_gap(false),
            [0, 0, 0],
        ),
        (
            |meter| {
                StreamMetricsLayer::new(meter)
                    .chunk_gap(false)
                    .producer_wait(true)
            },
            [0, 3, 0],
        ),
        (
            |meter| StreamMetricsLayer::new(meter).consumer_hold(true),
            [2, 0, 3],
        ),
    ] {
        let recorded = Recorded::new();
        play(&mut body(&layer(&recorded.meter()), mock(steps())).await)
            .await
            .unwrap();
        let counts = [
            names::CHUNK_GAP,
            names::CHUNK_PRODUCER_WAIT,
            names::CHUNK_CONSUMER_HOLD,
        ]
        .map(|name| count(&recorded, name));
        assert_eq!(counts, expected);
        assert_eq!(recorded.only(names::TIME_TO_FIRST_CHUNK).1.count, 1);
        assert_eq!(
            recorded.only(names::BODY_SIZE).1,
            Point { sum: 3.0, count: 1 }
        );
    }
}

#[cfg(feature = "bound-instruments")]
#[tokio::test(start_paused = true)]
async fn bound_instruments_record_the_same() {
    let steps = || (0..20).flat_map(|i| [sleep(ms(i)), data("x")]);
    let record = async |bound: bool| {
        let recorded = Recorded::new();
        let layer = recorded
            .layer()
            .producer_wait(true)
            .consumer_hold(true)
            .bound(bound);
        play(&mut body(&layer, mock(steps())).await).await.unwrap();
        [
            names::CHUNK_GAP,
            names::CHUNK_PRODUCER_WAIT,
            names::CHUNK_CONSUMER_HOLD,
        ]
        .map(|name| recorded.series(name))
    };
    let bound = record(true).await;
    assert!(bound.iter().all(|series| !series.is_empty()));
    assert_eq!(bound, record(false).await);
}
