//! The event of a response: exactly one, at its end, with the configured level and fields.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stream_core::mock::{self, MockBody};
use tower_stream_trace::{
    RequestSpanLayer,
    access::{AccessFields, AccessLog},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    layer::{Context, Layer as _, SubscriberExt},
    registry::{LookupSpan, Registry},
};

/// Stores the events of the access log as objects.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Map<String, Value>>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        for (name, value) in [
            ("target", metadata.target()),
            ("level", metadata.level().as_str()),
        ] {
            fields.0.insert(name.to_owned(), value.into());
        }
        let in_span = ctx.event_span(event).is_some();
        fields.0.insert("in_span".to_owned(), in_span.into());
        self.0.lock().push(fields.0);
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0
            .insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

impl Lines {
    fn take(&self) -> Vec<Map<String, Value>> {
        std::mem::take(&mut *self.0.lock())
    }

    fn one(&self) -> Map<String, Value> {
        let mut lines = self.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

/// Collects the events of the access log up to `level` while the guard exists.
fn collect(level: Level) -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let wanted = Targets::new().with_target("tower_stream_trace::access", level);
    let subscriber = Registry::default().with(lines.clone().with_filter(wanted));
    (lines, tracing::subscriber::set_default(subscriber))
}

fn answer(
    response: Response<MockBody>,
) -> impl Service<Request<()>, Response = Response<MockBody>, Error = Infallible> {
    let mut response = Some(response);
    service_fn(move |_| std::future::ready(Ok(response.take().unwrap())))
}

async fn get<S, B>(service: S) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let request = Request::get("/events?token=secret").body(()).unwrap();
    service.oneshot(request).await.unwrap()
}

async fn read(body: impl Body<Data = Bytes>) {
    let _ = body.collect().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_tells_what_became_of_the_response() {
    let (lines, _guard) = collect(Level::INFO);
    let ms = Duration::from_millis;
    let script = [
        mock::sleep(ms(40)),
        mock::data("abc"),
        mock::sleep(ms(60)),
        mock::data("de"),
    ];
    let response = Response::builder()
        .status(206)
        .body(MockBody::new(script))
        .unwrap();
    let body = get(RequestSpanLayer::new().layer(answer(response)))
        .await
        .into_body();
    assert!(lines.take().is_empty(), "not at the head");
    read(body).await;
    let line = lines.one();
    let expected = serde_json::json!({
        "target": "tower_stream_trace::access", "level": "INFO", "in_span": false, "message": "response",
        "method": "GET", "path": "/events", "protocol": "HTTP/1.1", "status": 206, "outcome": "complete",
        "chunks": 2, "bytes": 5, "first_chunk_ms": 40.0, "duration_ms": 100.0,
    });
    assert_eq!(Value::Object(line), expected);
}

#[tokio::test]
async fn each_way_to_end_is_one_line() {
    let (lines, _guard) = collect(Level::INFO);
    let dropped = || MockBody::new([mock::data("a"), mock::hang()]);
    type Case = (MockBody, bool, &'static str, Option<&'static str>);
    let cases: [Case; 4] = [
        (MockBody::new([mock::data("a")]), true, "complete", None),
        (dropped(), false, "aborted", Some("dropped")),
        (
            MockBody::new([mock::error("disk gone")]),
            true,
            "error",
            Some("_OTHER"),
        ),
        (MockBody::new([]).tells_end(), false, "complete", None),
    ];
    for (body, reads, outcome, error_type) in cases {
        // Applied twice, also around itself: still one event.
        let service = RequestSpanLayer::new().layer(answer(Response::new(body)));
        let body = get(RequestSpanLayer::new().layer(service))
            .await
            .into_body();
        match reads {
            true => read(body).await,
            false => drop(body),
        }
        let line = lines.one();
        assert_eq!(line["outcome"], outcome);
        assert_eq!(line.get("error.type").and_then(Value::as_str), error_type);
        let why = match outcome {
            "error" => Some("disk gone"),
            "aborted" => {
                Some("dropped before its end, most likely because the client disconnected")
            }
            _ => None,
        };
        assert_eq!(line.get("error").and_then(Value::as_str), why);
    }

    // Dropped before its head.
    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<MockBody>, Infallible>>()
    });
    let mut call = Box::pin(get(RequestSpanLayer::new().layer(never)));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    drop(call);
    let line = lines.one();
    assert_eq!(line["outcome"], "aborted");
    assert!(!line.contains_key("status"), "{line:?}");
}

#[tokio::test]
async fn level_and_fields_are_options() {
    let (lines, _guard) = collect(Level::DEBUG);
    for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG] {
        let log = AccessLog::new()
            .level(level)
            .fields(AccessFields::STATUS | AccessFields::BYTES);
        let layer = RequestSpanLayer::new().access_log(log);
        read(
            get(layer.layer(answer(Response::new(MockBody::new([])))))
                .await
                .into_body(),
        )
        .await;
        let line = lines.one();
        assert_eq!(line["level"], level.as_str());
        let names: Vec<_> = line.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["bytes", "in_span", "level", "message", "status", "target"]
        );
    }
    let quiet = [AccessLog::off(), AccessLog::new().level(Level::TRACE)];
    for log in quiet {
        let layer = RequestSpanLayer::new().access_log(log);
        read(
            get(layer.layer(answer(Response::new(MockBody::new([])))))
                .await
                .into_body(),
        )
        .await;
        assert!(lines.take().is_empty(), "{log:?}");
    }
}

#[tokio::test]
async fn chunks_are_lines_at_trace() {
    let (lines, _guard) = collect(Level::TRACE);
    let body = MockBody::new([mock::data("abc"), mock::data("de")]);
    read(
        get(RequestSpanLayer::new().layer(answer(Response::new(body))))
            .await
            .into_body(),
    )
    .await;
    let lines = lines.take();
    let chunks = lines.iter().filter(|line| line["message"] == "chunk");
    let chunks: Vec<_> = chunks
        .map(|line| (&line["chunk_seq"], &line["wire_size_bytes"]))
        .collect();
    assert_eq!(chunks, [(&0.into(), &3.into()), (&1.into(), &2.into())]);
    assert_eq!(lines.len(), 3, "and one of the response");
}
