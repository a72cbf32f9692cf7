use std::{
    fmt::{self, Debug},
    io,
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::{Subscriber, info, info_span, subscriber::with_default};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self as stock, MakeWriter},
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::*;
use crate::{RequestScope, Sequence, in_request};

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// An object in which no key stands twice.
struct Unique(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Map<String, Value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut access: A,
            ) -> Result<Self::Value, A::Error> {
                let mut map = Map::new();
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("{key} stands twice")));
                    }
                }
                Ok(map)
            }
        }
        deserializer.deserialize_map(Visitor).map(Self)
    }
}

impl Lines {
    /// The lines as some reader splits them, more eager than most.
    fn text(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.split_terminator(|c| {
            matches!(
                c,
                '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                    ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
            )
        })
        .map(str::to_owned)
        .collect()
    }

    fn json(&self) -> Vec<Map<String, Value>> {
        let parse = |line: &String| {
            let parsed = serde_json::from_str::<Unique>(line);
            parsed.unwrap_or_else(|error| panic!("{error}: {line}")).0
        };
        self.text().iter().map(parse).collect()
    }

    /// The ids of each line.
    fn ids(&self) -> Vec<(Value, Value)> {
        let ids = |line: &Map<String, Value>| {
            let id = |name| line.get(name).cloned().unwrap_or(Value::Null);
            (id("request_id"), id("sequence_id"))
        };
        self.json().iter().map(ids).collect()
    }
}

fn ids(id: &str, numbers: &[u64]) -> Vec<(Value, Value)> {
    numbers.iter().map(|n| (id.into(), (*n).into())).collect()
}

fn json_layer<S>(lines: &Lines) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    stock::layer()
        .json()
        .event_format(json())
        .with_writer(lines.clone())
}

fn text_layer<S>(lines: &Lines) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    stock::layer()
        .with_ansi(false)
        .fmt_fields(TextFields)
        .event_format(text().with_timer(()))
        .with_writer(lines.clone())
}

fn scope(id: &str) -> RequestScope {
    RequestScope::new(id.parse().unwrap(), Sequence::new())
}

/// Runs `f` with a JSON subscriber.
fn logged(f: impl FnOnce()) -> Lines {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines));
    with_default(subscriber, f);
    lines
}

#[test]
fn json_lines_are_flat() {
    let lines = logged(|| {
        info!("outside");
        scope("r1").run(|| {
            let span = info_span!("request", method = "GET", path = "/\"x\"");
            let _in = span.enter();
            let _inner = info_span!("inner").entered();
            info!(
                a = 1, b = -1_i64, c = 1.5, d = true, e = "x\"y", f = ?Some(1), g = f64::NAN,
                h = u128::MAX, i = %"z", r#type = "t", "hello {}", "world"
            );
        });
    });
    let lines = lines.json();
    assert!(!lines[0].contains_key("request_id"));
    assert!(!lines[0].contains_key("spans"));
    let mut line = lines[1].clone();
    let time = line.remove("timestamp").unwrap();
    assert!(time.as_str().unwrap().ends_with('Z'));
    let expected = serde_json::from_str::<Value>(
        r#"{"level":"INFO","request_id":"r1","sequence_id":1,"target":"tower_stream_ids::log::tests",
        "message":"hello world","a":1,"b":-1,"c":1.5,"d":true,"e":"x\"y","f":"Some(1)","g":null,
        "h":340282366920938463463374607431768211455,"i":"z","type":"t",
        "spans":[{"method":"GET","path":"/\"x\"","name":"request"},{"name":"inner"}]}"#,
    );
    assert_eq!(Value::Object(line), expected.unwrap());
}

#[test]
fn text_lines_read_well() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(text_layer(&lines))
        .with(RequestLog::new());
    with_default(subscriber, || {
        info!("outside");
        scope("r1").run(|| {
            let span = info_span!("request", method = "GET", path = %"/a b", q = %"a=b");
            let _in = span.enter();
            info!(a = 1, b = "x y", c = ?Some(1), d = ?"q", e = %"", r#type = true, "hello {}", "world");
        });
    });
    assert_eq!(
        lines.text(),
        [
            " INFO tower_stream_ids::log::tests: outside",
            " INFO request_id=r1 sequence_id=1 request{method=\"GET\" path=/a b q=\"a=b\"}: \
             tower_stream_ids::log::tests: hello world a=1 b=\"x y\" c=Some(1) d=\"\\\"q\\\"\" e=\"\" type=true",
        ]
    );
}

#[test]
fn a_terminal_gets_colours_and_nothing_else_changes() {
    let lines = Lines::default();
    let layer = stock::layer()
        .with_ansi(true)
        .fmt_fields(TextFields)
        .event_format(text().with_target(false).with_timer(()))
        .with_writer(lines.clone());
    with_default(Registry::default().with(layer), || info!(a = 1, "hello"));
    assert_eq!(
        lines.text(),
        ["\x1b[2m\x1b[0m \x1b[32m INFO\x1b[0m hello a=1"]
    );
}

#[test]
fn every_layer_prints_the_same_number_in_any_order_of_layers() {
    let (a, b) = (Lines::default(), Lines::default());
    let run = |subscriber: &dyn Fn() -> tracing::Dispatch| {
        for lines in [&a, &b] {
            lines.0.lock().clear();
        }
        tracing::dispatcher::with_default(&subscriber(), || {
            scope("r1").run(|| {
                for _ in 0..3 {
                    info!("line");
                }
            });
        });
        assert_eq!(a.ids(), ids("r1", &[1, 2, 3]));
        assert_eq!(b.ids(), ids("r1", &[1, 2, 3]));
    };
    run(&|| {
        let registry = Registry::default().with(RequestLog::new());
        registry.with(json_layer(&a)).with(json_layer(&b)).into()
    });
    run(&|| {
        let registry = Registry::default().with(json_layer(&a));
        registry.with(RequestLog::new()).with(json_layer(&b)).into()
    });
    run(&|| {
        let registry = Registry::default()
            .with(json_layer(&a))
            .with(json_layer(&b));
        registry.with(RequestLog::new()).into()
    });
    run(&|| {
        let info = || tracing_subscriber::filter::LevelFilter::INFO;
        let registry = Registry::default().with(json_layer(&a).with_filter(info()));
        let registry = registry.with(json_layer(&b).with_filter(info()));
        registry.with(RequestLog::new().with_filter(info())).into()
    });
}

#[test]
fn an_event_that_nobody_prints_draws_no_number() {
    struct Veto;
    impl<S: Subscriber> Layer<S> for Veto {
        fn event_enabled(&self, event: &tracing::Event<'_>, _: Context<'_, S>) -> bool {
            event.metadata().target() != "vetoed"
        }
    }
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(json_layer(&lines))
        .with(Veto)
        .with(RequestLog::new());
    with_default(subscriber, || {
        scope("r1").run(|| {
            info!("one");
            info!(target: "vetoed", "none");
            tracing::trace!("enabled, and printed");
            info!("two");
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1, 2, 3]));
}

/// Logs while it is printed.
struct Chatty;

impl Debug for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!("from inside");
        f.write_str("chatty")
    }
}

/// Only a process-wide subscriber sees an event inside of an event, so this runs in a process of its own.
#[test]
fn a_value_that_logs_while_it_is_printed_does_not_confuse_the_numbers() {
    const CHILD: &str = "TOWER_STREAM_IDS_NESTED";
    if std::env::var_os(CHILD).is_none() {
        let test = "log::tests::a_value_that_logs_while_it_is_printed_does_not_confuse_the_numbers";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{out}");
        return;
    }
    let (a, b) = (Lines::default(), Lines::default());
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&a))
        .with(json_layer(&b));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    scope("r1").run(|| {
        info!(value = ?Chatty, "outer");
        info!("last");
    });
    // each layer prints the value, so each makes an event of its own
    let numbers = |lines: &Lines, message: &str| {
        let lines = lines.json();
        let of = lines.iter().filter(|line| line["message"] == message);
        of.map(|line| line["sequence_id"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&a, "outer"), [1]);
    assert_eq!(numbers(&b, "outer"), [1]);
    assert_eq!(numbers(&a, "from inside"), numbers(&b, "from inside"));
    assert_eq!(numbers(&a, "last"), [4]);
    assert_eq!(numbers(&b, "last"), [4]);
}

#[test]
fn ids_survive_a_filtered_out_span() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(EnvFilter::new("info,off=off"))
        .with(RequestLog::new())
        .with(json_layer(&lines));
    with_default(subscriber, || {
        scope("r1").run(|| {
            let _in = info_span!(target: "off", "request").entered();
            info!("line");
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1]));
    assert!(!lines.json()[0].contains_key("spans"));
}

#[test]
fn a_span_takes_the_ids_to_a_thread_and_its_children_inherit_them() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let dispatch = tracing::Dispatch::new(subscriber);
    let span =
        tracing::dispatcher::with_default(&dispatch, || scope("r1").run(|| info_span!("request")));
    std::thread::spawn(move || {
        tracing::dispatcher::with_default(&dispatch, || {
            info!("no request");
            let _child = info_span!(parent: &span, "child").entered();
            info!("from the child");
            info!(parent: &span, "from the span");
            // the request that runs here comes first
            scope("r2").run(|| info!("of another"));
        });
    })
    .join()
    .unwrap();
    let mut expected = vec![(Value::Null, Value::Null)];
    expected.extend(ids("r1", &[1, 2]));
    expected.extend(ids("r2", &[1]));
    assert_eq!(lines.ids(), expected);
}

#[tokio::test]
async fn a_replaced_id_is_logged_once_under_the_new_one_and_not_repeated() {
    use tower::ServiceExt;
    let inner = tower::service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let service = tower::Layer::layer(&crate::RequestIdLayer::new(), inner);
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(EnvFilter::new("tower_stream_ids=debug"))
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let _default = tracing::subscriber::set_default(subscriber);
    let request = |id: &'static str| {
        let request = http::Request::get("/").header("x-request-id", id);
        request.header("x-request-id", "").body(()).unwrap()
    };
    service.clone().oneshot(request("good")).await.unwrap();
    let response = service.oneshot(request("bad one")).await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap();
    assert_eq!(lines.ids(), ids(id, &[1]));
    let line = &lines.json()[0];
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["reason"], "a request id must not have the byte 0x20");
    assert!(!lines.text()[0].contains("bad one"));
}

#[test]
fn a_bare_thread_keeps_the_request() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let dispatch = tracing::Dispatch::new(subscriber);
    let work = scope("r1").run(|| in_request(|| info!("from a thread")));
    std::thread::spawn(move || tracing::dispatcher::with_default(&dispatch, work))
        .join()
        .unwrap();
    assert_eq!(lines.ids(), ids("r1", &[1]));
}

#[test]
fn without_a_request_log_a_single_format_still_numbers() {
    let lines = Lines::default();
    with_default(Registry::default().with(json_layer(&lines)), || {
        scope("r1").run(|| {
            for _ in 0..3 {
                info!("line");
            }
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1, 2, 3]));
}

#[test]
fn records_of_the_log_crate_are_numbered_and_show_their_own_target() {
    use tracing_log::log::{Level, Record};
    let lines = logged(|| {
        scope("r1").run(|| {
            let record = Record::builder()
                .level(Level::Warn)
                .target("old::crate")
                .args(format_args!("from log"))
                .build();
            tracing_log::format_trace(&record).unwrap();
        });
    });
    let line = &lines.json()[0];
    assert_eq!(lines.ids(), ids("r1", &[1]));
    assert_eq!(
        (&line["target"], &line["level"]),
        (&"old::crate".into(), &"WARN".into())
    );
    assert_eq!(line["message"], "from log");
    assert!(!line.keys().any(|key| key.starts_with("log.")));
}

/// Values that try to begin a line, a field, a string, or to change what a terminal shows.
const HOSTILE: [&str; 15] = [
    "x\nINFO forged",
    "x\u{2028}INFO forged",
    "\u{1b}[2Kforged",
    "x\n{\"request_id\":\"evil\"}",
    "x\",\"request_id\":\"evil",
    "x\\\",\"request_id\":\"evil",
    "x\r INFO request_id=evil sequence_id=1",
    "x request_id=evil",
    "\" request_id=evil \"",
    "x\" request_id=evil",
    "x\u{2028}request_id=evil\u{85}request_id=evil\u{b}\u{c}\u{1c}",
    "\u{1b}[2K\u{1b}[1Grequest_id=evil",
    "} request_id=evil {",
    "\u{202e}live=di_tseuqer\0\u{7f}\u{9b}2K",
    "request_id=evil",
];

struct Raw(&'static str);

impl Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Raw {}

/// Logs a value at every place where one can stand. Four lines.
fn attack(value: &'static str) {
    let error = Raw(value);
    let error: &(dyn std::error::Error + 'static) = &error;
    info!("{value}");
    info!(
        message = value,
        request_id = value,
        sequence_id = value,
        timestamp = value,
        level = value
    );
    info!(a = value, b = %value, c = ?Raw(value), d = error, "{value} {value}");
    let span = info_span!("s", request_id = value, b = %value, c = ?Raw(value), later = tracing::field::Empty);
    span.record("later", value);
    span.in_scope(|| info!(target: "t", spans = value, target = value, "{}", Raw(value)));
}

/// The fields of a line of text as a reader finds them that knows quotes: names and values.
fn fields(line: &str) -> Vec<(String, String)> {
    let mut tokens = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        if c == ' ' && !quoted {
            tokens.push(String::new());
            continue;
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && c == '\\' && !escaped;
        tokens.last_mut().unwrap().push(c);
    }
    assert!(!quoted, "a quote is open at the end of {line}");
    let pairs = tokens.iter().filter(|token| !token.starts_with('"'));
    pairs
        .filter_map(|token| token.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn hostile_values_forge_neither_a_json_line_nor_a_field() {
    for value in HOSTILE {
        let lines = logged(|| scope("r1").run(|| attack(value)));
        assert_eq!(lines.ids(), ids("r1", &[1, 2, 3, 4]), "{value:?}");
        assert!(!lines.text().concat().contains(super::escape::is_unsafe));
        let lines = lines.json();
        assert_eq!(lines[0]["message"], value);
        assert_eq!(lines[1]["fields.request_id"], value);
        assert_eq!(lines[2]["c"], value);
        assert_eq!(lines[3]["spans"][0]["b"], value);
        assert_eq!(lines[3]["target"], "t");
        assert_eq!(lines[3]["fields.target"], value);
    }
}

#[test]
fn hostile_values_forge_neither_a_text_line_nor_a_field() {
    for value in HOSTILE {
        for own_fields in [true, false] {
            let lines = Lines::default();
            let layer: Box<dyn Layer<Registry> + Send + Sync> = if own_fields {
                Box::new(text_layer(&lines))
            } else {
                let layer = stock::layer().with_ansi(false).event_format(text());
                Box::new(layer.with_writer(lines.clone()))
            };
            let subscriber = Registry::default().with(layer).with(RequestLog::new());
            with_default(subscriber, || scope("r1").run(|| attack(value)));
            let lines = lines.text();
            assert_eq!(lines.len(), 4, "{lines:#?}");
            for (line, n) in lines.iter().zip(1..) {
                let fields = fields(line);
                let of = |name: &str| {
                    let all = fields.iter().filter(|(n, _)| n == name);
                    all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
                };
                assert_eq!(of("request_id"), ["r1"], "{line}");
                assert_eq!(of("sequence_id"), [n.to_string()], "{line}");
                assert!(!line.contains(super::escape::is_unsafe), "{line}");
            }
        }
    }
}

#[cfg(feature = "opentelemetry")]
mod otel {
    use super::{super::otel::RequestLogProcessor, *};
    use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider};
    use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLoggerProvider};

    fn provider() -> (SdkLoggerProvider, InMemoryLogExporter) {
        let exporter = InMemoryLogExporter::default();
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(RequestLogProcessor::new())
            .with_simple_exporter(exporter.clone())
            .build();
        (provider, exporter)
    }

    fn exported(exporter: &InMemoryLogExporter) -> Vec<(Value, Value)> {
        let logs = exporter.get_emitted_logs().unwrap();
        let ids = logs.iter().map(|log| {
            let of = |name: &str| {
                let mut all = log
                    .record
                    .attributes_iter()
                    .filter(|(k, _)| k.as_str() == name);
                let value = match all.next() {
                    Some((_, AnyValue::String(text))) => text.as_str().into(),
                    Some((_, AnyValue::Int(number))) => (*number).into(),
                    _ => Value::Null,
                };
                assert!(all.next().is_none());
                value
            };
            (of("request_id"), of("sequence_id"))
        });
        ids.collect()
    }

    #[test]
    fn a_log_record_has_the_number_of_the_line() {
        use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
        for bridge_first in [true, false] {
            let (provider, exporter) = provider();
            let lines = Lines::default();
            let bridge = OpenTelemetryTracingBridge::new(&provider);
            let registry = Registry::default();
            let dispatch: tracing::Dispatch = if bridge_first {
                let registry = registry.with(bridge).with(RequestLog::new());
                registry.with(json_layer(&lines)).into()
            } else {
                let registry = registry.with(json_layer(&lines)).with(bridge);
                registry.with(RequestLog::new()).into()
            };
            tracing::dispatcher::with_default(&dispatch, || {
                info!("outside");
                let scope = scope("r1");
                scope.run(|| (0..3).for_each(|n| info!(n, "line")));
                let span = scope.run(|| info_span!("request"));
                span.in_scope(|| info!("of the span"));
            });
            let mut expected = vec![(Value::Null, Value::Null)];
            expected.extend(ids("r1", &[1, 2, 3, 4]));
            assert_eq!(lines.ids(), expected);
            assert_eq!(exported(&exporter), expected);
        }
    }

    #[test]
    fn a_record_of_the_api_draws_a_number_of_its_own() {
        let (provider, exporter) = provider();
        let logger = provider.logger("direct");
        let lines = logged(|| {
            scope("r1").run(|| {
                info!("one");
                let mut record = logger.create_log_record();
                record.set_event_name("direct");
                logger.emit(record);
                logger.emit(logger.create_log_record());
                info!("four");
            });
            logger.emit(logger.create_log_record());
        });
        assert_eq!(lines.ids(), ids("r1", &[1, 4]));
        let mut expected = ids("r1", &[2, 3]);
        expected.push((Value::Null, Value::Null));
        assert_eq!(exported(&exporter), expected);
    }
}
