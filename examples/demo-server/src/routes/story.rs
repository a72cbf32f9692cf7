//! `GET /story`: a resumable stream of the text model.

use axum::{body::Body, extract::RawQuery, response::Response};
use bytes::Bytes;

use crate::{
    model::{MODEL, Sampling},
    problem::Problem,
    query::Query,
    records::Records,
    reply,
};

/// `words` events, `interval_ms` apart: `{"n":..,"token":..,"run":..}`. `n` starts at 0, and `run` is random for each producer, so that a
/// client can see whether it was given the rest of one stream or the parts of two.
pub(crate) async fn story(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let words = query.number("words", 200, 1..=1_000_000)?;
    let interval = query.interval(20)?;
    query.finish()?;

    let run = format!("{:016x}", fastrand::u64(..));
    let mut tokens = MODEL.generate(Sampling {
        seed: 1,
        temperature: 1.0,
        min_tokens: words,
    });
    let body = Records::new(Some(words), interval, move |n| {
        let token = serde_json::Value::from(tokens.next().unwrap_or_default());
        Bytes::from(format!(
            "data: {{\"n\":{n},\"token\":{token},\"run\":\"{run}\"}}\n\n"
        ))
    });
    Ok(reply::stream(reply::EVENTS, Body::new(body)))
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use crate::{Args, ResumeLog, State, app, testing::get_with};

    async fn text(app: &axum::Router, request: Request<Body>) -> (StatusCode, String) {
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_story_goes_on_after_any_word() {
        let app = app(&State::new(Args::default()).unwrap());
        let request = || Request::get("/story?words=9&interval_ms=0");
        let (_, whole) = text(&app, request().body(Body::empty()).unwrap()).await;
        assert_eq!(whole.matches("data: ").count(), 9);
        let blocks: Vec<_> = whole.split_inclusive("\n\n").collect();
        assert_eq!(
            blocks.len(),
            1 + 9 + 1,
            "the first cursor, and that of the end"
        );
        for (n, block) in blocks.iter().enumerate() {
            let cursor = block.lines().next().unwrap().strip_prefix("id: ").unwrap();
            let again = request().header("last-event-id", cursor);
            let (status, rest) = text(&app, again.body(Body::empty()).unwrap()).await;
            if n == 10 {
                assert_eq!((status, &*rest), (StatusCode::NO_CONTENT, ""));
                continue;
            }
            let from = if n == 0 { 0 } else { n + 1 };
            assert_eq!(rest, blocks[from..].concat(), "after {n}");
        }
    }

    #[tokio::test]
    async fn a_chat_goes_on_by_its_id() {
        let app = app(&State::new(Args::default()).unwrap());
        let chat = r#"{"model":"alice-markov","stream":true,"max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
        let request = Request::post("/v1/chat/completions?interval_ms=0");
        let request = request.header("content-type", "application/json");
        let response = app.clone().oneshot(request.body(Body::from(chat)).unwrap());
        let response = response.await.unwrap();
        let link = response.headers()["link"].to_str().unwrap();
        let path = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
        let path = path.to_owned();
        let whole = response.into_body().collect().await.unwrap().to_bytes();
        let whole = String::from_utf8(whole.to_vec()).unwrap();
        assert!(!whole.contains("id: "), "{whole}");
        let events: Vec<_> = whole.split_inclusive("\n\n").collect();
        for n in 0..events.len() {
            let again = Request::get(format!("{path}?after={n}"));
            let (_, rest) = text(&app, again.body(Body::empty()).unwrap()).await;
            assert_eq!(rest, events[n..].concat());
        }
    }

    #[tokio::test]
    async fn without_a_log_a_story_is_an_ordinary_stream() {
        let args = Args {
            resume: ResumeLog::Off,
            ..Args::default()
        };
        let answer = get_with(args.clone(), "/story?words=2&interval_ms=0").await;
        assert_eq!(answer.header("stream-id"), "");
        assert!(answer.text().contains("id: 1\n"), "{}", answer.text());
        assert_eq!(get_with(args, "/streams/x").await.status, 404);
    }
}
