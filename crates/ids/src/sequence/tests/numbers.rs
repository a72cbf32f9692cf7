//! The numbers of chunks.

use tower_stream_core::{Claim, Exchange};

use super::*;

#[tokio::test]
async fn a_chunk_draws_one_number_whatever_it_holds() {
    for (layer, content_type, chunks) in [
        (SequenceLayer::new(), "text/plain", ["a", "b"]),
        (
            SequenceLayer::new(),
            "text/event-stream",
            ["data\n\ndata\n\n", "data"],
        ),
        (
            SequenceLayer::new().json_lines(true),
            "application/jsonl",
            ["[]\n", "{}\n"],
        ),
    ] {
        let mut request = request();
        let exchange = Exchange::of(request.extensions_mut());
        let sequence = exchange.sequence();
        let body = MockBody::new(chunks.map(mock::data));
        let response = through(layer, request, response(content_type, body)).await;
        assert!(!exchange.claim(Claim::ChunkNumbers));
        let mut body = response.into_body();
        for n in 1..=2 {
            body.frame().await.unwrap().unwrap();
            assert_eq!(sequence.last(), n, "{content_type}");
        }
    }
}

#[tokio::test]
async fn chunks_numbered_inside_are_not_numbered_again() {
    let mut request = request();
    let exchange = Exchange::of(request.extensions_mut());
    let sequence = exchange.sequence();
    sequence.next();
    let response = response("application/jsonl", MockBody::new([mock::data("{}\n")]));
    assert!(exchange.claim(Claim::ChunkNumbers));
    let layer = SequenceLayer::new().json_lines(true);
    let body = through(layer, request, response).await;
    let stamped = body.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(stamped, "{\"sequence_id\":1}\n");
    assert_eq!(sequence.last(), 1);
}

/// `tower::retry` sends clones of one request, which share the sequence.
#[tokio::test]
async fn the_chunks_of_a_second_attempt_are_numbered_too() {
    let mut request = request();
    Exchange::of(request.extensions_mut());
    let layer = SequenceLayer::new().json_lines(true);
    let attempt = async |request: Request<()>| {
        let body = MockBody::new([mock::data("{}\n"), mock::data("{}\n")]);
        through(layer, request, response("application/jsonl", body)).await
    };
    drop(attempt(request.clone()).await);
    let body = attempt(request).await.into_body();
    let stamped = body.collect().await.unwrap().to_bytes();
    assert_eq!(stamped, "{\"sequence_id\":1}\n{\"sequence_id\":2}\n");
}

#[tokio::test]
async fn used_alone_it_begins_a_sequence_that_others_find() {
    let inner = service_fn(|request: Request<()>| async move {
        assert_eq!(Sequence::of(request.extensions()).unwrap().last(), 0);
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::new())))
    });
    let service = ServiceBuilder::new()
        .layer(SequenceLayer::new().event_id(EventId::RequestAndNumber))
        .service(inner);
    service.oneshot(Request::new(())).await.unwrap();
}
