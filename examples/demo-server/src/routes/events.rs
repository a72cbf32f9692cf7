//! `GET /events`: server-sent events.

use axum::{body::Body, extract::RawQuery, response::Response};
use bytes::Bytes;

use super::{MAX_RECORD, payload};
use crate::{problem::Problem, query::Query, records::Records, reply};

/// `count` events (0: endless), `interval_ms` apart, each with `bytes` bytes of text.
pub(crate) async fn events(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let count = query.number("count", 10, 0..=u64::MAX)?;
    let interval = query.interval(100)?;
    let bytes = query.number("bytes", 32, 0..=MAX_RECORD)? as usize;
    query.finish()?;

    let count = (count > 0).then_some(count);
    let body = Records::new(count, interval, move |n| {
        Bytes::from(format!("data: {}\n\n", payload(n, bytes)))
    });
    Ok(reply::stream(reply::EVENTS, Body::new(body)))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use crate::testing::get;

    #[tokio::test]
    async fn one_event_is_one_frame_and_has_its_number() {
        let answer = get("/events?count=3&interval_ms=0&bytes=5").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("cache-control"), "no-cache, no-transform");
        assert_eq!(answer.header("x-accel-buffering"), "no");
        assert_eq!(answer.header("content-length"), "");
        assert_eq!(
            answer.frames,
            [
                "data: {\"n\":0,\"text\":\"Alice\"}\nid: 1\n\n",
                "data: {\"n\":1,\"text\":\" was \"}\nid: 2\n\n",
                "data: {\"n\":2,\"text\":\"begin\"}\nid: 3\n\n",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn events_come_an_interval_apart() {
        let start = tokio::time::Instant::now();
        let answer = get("/events?count=4&interval_ms=250").await;
        assert_eq!(answer.frames.len(), 4);
        assert_eq!(start.elapsed().as_millis(), 750);
    }

    #[tokio::test]
    async fn count_0_is_endless() {
        let args = crate::Args {
            coalesce: 0,
            ..crate::Args::default()
        };
        let app = crate::app(&crate::State::new(args).unwrap());
        let request = Request::get("/events?count=0&interval_ms=0&bytes=1");
        let response = app.oneshot(request.body(Body::empty()).unwrap());
        let mut body = response.await.unwrap().into_body();
        for n in 0..1_000 {
            let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let start = format!("data: {{\"n\":{n},");
            assert!(event.starts_with(start.as_bytes()), "{event:?}");
        }
    }

    #[tokio::test]
    async fn a_bad_parameter_is_named() {
        for (query, name) in [
            ("count=many", "count"),
            ("count=-1", "count"),
            ("count=", "count"),
            ("count=1&count=2", "count"),
            ("interval_ms=1.5", "interval_ms"),
            ("interval_ms=3s", "interval_ms"),
            ("interval_ms=3600001", "interval_ms"),
            ("bytes=16777217", "bytes"),
            ("cuont=3", "cuont"),
        ] {
            get(&format!("/events?{query}")).await.assert_names(name);
        }
    }
}
