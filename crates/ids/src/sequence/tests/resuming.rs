//! A client that reconnects with the `Last-Event-ID` that it received.

use super::*;

/// Reconnects three times. Returns the rows that the client received, and their ids. The handler sends three of ten
/// rows, starting after as many as `Last-Event-ID` says; `first` may set the number of the first one in the response.
async fn reconnects(
    layer: SequenceLayer,
    first: impl Fn(u64) -> Option<FirstEvent>,
) -> (Vec<u64>, Vec<String>) {
    let (mut rows, mut ids) = (Vec::new(), Vec::<String>::new());
    for _ in 0..4 {
        let mut request = super::request();
        if let Some(last) = ids.last() {
            let last = last.parse().unwrap();
            request.headers_mut().insert("last-event-id", last);
        }
        let has = ids.last().and_then(|id| id.parse().ok()).unwrap_or(0_u64);
        let events: String = (has + 1..=10)
            .take(3)
            .map(|row| format!("data: {row}\n\n"))
            .collect();
        let mut response = super::response("text/event-stream", Full::new(Bytes::from(events)));
        response
            .extensions_mut()
            .extend(first(has + 1).map(extension).unwrap_or_default());
        let response = through(layer, request, response).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        for line in std::str::from_utf8(&body).unwrap().lines() {
            if let Some(row) = line.strip_prefix("data: ") {
                rows.push(row.parse().unwrap());
            } else if let Some(id) = line.strip_prefix("id: ") {
                ids.push(id.to_owned());
            }
        }
    }
    (rows, ids)
}

fn extension(first: FirstEvent) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    extensions.insert(first);
    extensions
}

#[tokio::test]
async fn the_handler_says_the_first_number() {
    let (rows, ids) = reconnects(SequenceLayer::new(), |first| Some(FirstEvent(first))).await;
    assert_eq!(rows, (1..=10).collect::<Vec<_>>());
    assert_eq!(ids, (1..=10).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_layer_continues_when_it_is_asked_to() {
    let continues = SequenceLayer::new().continue_last_event_id(true);
    let (rows, _) = reconnects(continues, |_| None).await;
    assert_eq!(rows, (1..=10).collect::<Vec<_>>());
    // The handler's number takes precedence.
    let (_, ids) = reconnects(continues, |_| Some(FirstEvent(7))).await;
    assert_eq!(ids[..4], ["7", "8", "9", "7"]);
}

#[tokio::test]
async fn without_either_each_response_begins_at_one() {
    let (rows, ids) = reconnects(SequenceLayer::new(), |_| None).await;
    assert_eq!(rows, [1, 2, 3, 4, 5, 6, 4, 5, 6, 4, 5, 6]);
    assert_eq!(ids[..4], ["1", "2", "3", "1"]);
}

#[tokio::test]
async fn an_id_that_is_no_number_continues_nothing() {
    let layer = SequenceLayer::new().continue_last_event_id(true);
    for id in [
        "",
        "r1-7",
        "+7",
        "7.5",
        "9223372036854775808",
        "99999999999999999999999",
        "seven",
    ] {
        let mut request = super::request();
        request
            .headers_mut()
            .insert("last-event-id", id.parse().unwrap());
        let response = super::response("text/event-stream", Full::new(Bytes::from("data: a\n\n")));
        let response = through(layer, request, response).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "data: a\nid: 1\n\n", "{id:?}");
    }
    // The largest number.
    let mut response = super::response(
        "text/event-stream",
        Full::new(Bytes::from("data: a\n\ndata: b\n\n")),
    );
    response.extensions_mut().insert(FirstEvent(u64::MAX));
    let response = through(layer, request(), response).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let last = u64::MAX;
    assert_eq!(
        body,
        format!("data: a\nid: {last}\n\ndata: b\nid: {last}\n\n")
    );
}
