//! `GET /lines`: NDJSON.

use axum::{body::Body, extract::RawQuery, response::Response};
use bytes::Bytes;

use super::{MAX_RECORD, payload};
use crate::{problem::Problem, query::Query, records::Records, reply};

/// `count` objects (0: endless), one per line, `interval_ms` apart, each with `bytes` bytes of text.
pub(crate) async fn lines(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let count = query.number("count", 10, 0..=u64::MAX)?;
    let interval = query.interval(100)?;
    let bytes = query.number("bytes", 32, 0..=MAX_RECORD)? as usize;
    query.finish()?;

    let count = (count > 0).then_some(count);
    let body = Records::new(count, interval, move |n| {
        Bytes::from(format!("{}\n", payload(n, bytes)))
    });
    Ok(reply::stream(reply::LINES, Body::new(body)))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::testing::get;

    #[tokio::test]
    async fn one_line_is_one_object_and_one_frame() {
        let answer = get("/lines?count=5&interval_ms=0&bytes=100").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert_eq!(answer.header("content-length"), "");
        assert_eq!(answer.frames.len(), 5);
        for (n, frame) in answer.frames.iter().enumerate() {
            assert_eq!(frame.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert!(frame.ends_with(b"\n"));
            let object: Value = serde_json::from_slice(frame).unwrap();
            assert_eq!(object["n"], n);
            assert_eq!(object["text"].as_str().unwrap().len(), 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_an_interval_apart() {
        let start = tokio::time::Instant::now();
        assert_eq!(get("/lines?count=3").await.frames.len(), 3);
        assert_eq!(start.elapsed().as_millis(), 200);
    }

    #[tokio::test]
    async fn a_bad_parameter_is_named() {
        for (query, name) in [
            ("count=x", "count"),
            ("interval_ms=-5", "interval_ms"),
            ("bytes=1k", "bytes"),
            ("size=3", "size"),
        ] {
            get(&format!("/lines?{query}")).await.assert_names(name);
        }
    }
}
