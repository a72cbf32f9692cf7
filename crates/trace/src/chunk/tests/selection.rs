//! Which chunks get a span.

use std::{num::NonZeroU64, time::Duration};

use http_body_util::BodyExt;
use tower_stream_core::mock::{self, MockBody};

use super::traced;
use crate::{
    ChunkSelection, attribute,
    testing::{Traces, int, text},
};

#[tokio::test(start_paused = true)]
async fn a_million_chunks_are_a_bounded_number_of_spans() {
    const COUNT: u64 = 1_000_000;
    const SLOW: u64 = 654_321;
    let traces = Traces::lean();
    let script = (0..COUNT).flat_map(|index| {
        let pause = (index == SLOW).then(|| mock::sleep(Duration::from_millis(900)));
        pause.into_iter().chain([mock::data("x")])
    });
    let mut body = traced(&traces, |layer| layer, MockBody::new(script)).await;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    drop(body);
    let indexes: Vec<_> = traces
        .chunks()
        .iter()
        .map(|span| int(span, attribute::CHUNK_INDEX) as u64)
        .collect();
    assert!(indexes.len() <= 128, "{}", indexes.len());
    assert!(indexes.contains(&(COUNT - 1)), "the last");
    assert!(indexes.contains(&SLOW), "the slowest");
    let skipped = int(&traces.request(), attribute::CHUNK_SPANS_SKIPPED);
    assert_eq!(skipped as u64, COUNT - indexes.len() as u64);
}

#[tokio::test]
async fn what_is_skipped_is_counted_when_the_client_leaves() {
    let traces = Traces::lean();
    let selection = ChunkSelection {
        every: NonZeroU64::new(4),
        first: 0,
        max_per_stream: 100,
        ..ChunkSelection::all()
    };
    let script = (0..10).map(|_| mock::data("x")).chain([mock::hang()]);
    let mut body = traced(
        &traces,
        |layer| layer.select(selection),
        MockBody::new(script),
    )
    .await;
    for _ in 0..10 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let request = traces.request();
    assert_eq!(traces.chunks().len(), 3);
    assert_eq!(int(&request, attribute::CHUNK_SPANS_SKIPPED), 7);
    assert_eq!(
        text(&request, attribute::STREAM_OUTCOME).unwrap(),
        "aborted"
    );
}
