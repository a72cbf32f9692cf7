//! The formats, layers and numbers of log lines.

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

mod hostile;
mod numbers;
#[cfg(feature = "opentelemetry")]
mod otel;
#[cfg(feature = "trace-context")]
mod trace_context;
mod whose;

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

/// An object without duplicate keys.
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
    /// The lines, split at every character that some reader takes for a line end.
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

    /// Lines of events with fields named like members of the format. Of duplicate members the last one counts.
    fn last_of_each_name(&self) -> Vec<Map<String, Value>> {
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        self.text().iter().map(parse).collect()
    }

    /// The ids of each line.
    fn ids(&self) -> Vec<(Value, Value)> {
        self.json().iter().map(ids_of).collect()
    }

    /// The ids of each line, where fields of the event may have the same names.
    fn ids_of_last(&self) -> Vec<(Value, Value)> {
        self.last_of_each_name().iter().map(ids_of).collect()
    }
}

fn ids_of(line: &Map<String, Value>) -> (Value, Value) {
    let id = |name| line.get(name).cloned().unwrap_or(Value::Null);
    (id("request_id"), id("sequence_id"))
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
        .event_format(WithIds::text(stock::format().without_time()))
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
    let (lines, with_spans) = (Lines::default(), Lines::default());
    let spans = stock::layer()
        .json()
        .event_format(WithIds::json(stock::format().json()))
        .with_writer(with_spans.clone());
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines))
        .with(spans);
    with_default(subscriber, || {
        info!("outside");
        scope("r1").run(|| {
            let span = info_span!("request", method = "GET", path = "/\"x\"");
            let _in = span.enter();
            let _inner = info_span!("inner").entered();
            info!(
                a = 1, b = -1_i64, c = 1.5, d = true, e = "x\"y", f = ?Some(1), g = f64::NAN,
                i = %"z", r#type = "t", "hello {}", "world"
            );
        });
    });
    let object = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let mut expected = object(
        r#"{"level":"INFO","request_id":"r1","sequence_id":1,"target":"tower_stream_ids::log::tests",
        "message":"hello world","a":1,"b":-1,"c":1.5,"d":true,"e":"x\"y","f":"Some(1)","g":null,
        "i":"z","type":"t"}"#,
    );
    for lines in [&lines, &with_spans] {
        let mut lines = lines.json();
        assert!(!lines[0].contains_key("request_id"));
        assert!(!lines[0].contains_key("spans"));
        let time = lines[1].remove("timestamp").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'));
    }
    let mut line = lines.json().remove(1);
    line.remove("timestamp");
    assert_eq!(line, expected);
    expected.extend(object(
        r#"{"spans":[{"method":"GET","path":"/\"x\"","name":"request"},{"name":"inner"}],
        "span":{"name":"inner"}}"#,
    ));
    let mut line = with_spans.json().remove(1);
    line.remove("timestamp");
    assert_eq!(line, expected);
}

#[test]
fn text_lines_read_well() {
    let lines = Lines::default();
    let only_events = Lines::default();
    let events = tracing_subscriber::filter::filter_fn(|metadata| metadata.is_event());
    let subscriber = Registry::default()
        .with(text_layer(&lines))
        .with(text_layer(&only_events).with_filter(events))
        .with(RequestLog::new());
    with_default(subscriber, || {
        info!("outside");
        scope("r1").run(|| {
            let span = info_span!("request", method = "GET", path = %"/a b");
            let _in = span.enter();
            info!(a = 1, b = "x y", c = ?Some(1), r#type = true, "hello {}", "world");
        });
    });
    let outside = " INFO tower_stream_ids::log::tests: outside";
    let line = "tower_stream_ids::log::tests: hello world a=1 b=\"x y\" c=Some(1) type=true \
                request_id=r1 sequence_id=1";
    let in_span = format!(" INFO request{{method=\"GET\" path=/a b}}: {line}");
    assert_eq!(lines.text(), [outside, &in_span]);
    assert_eq!(only_events.text(), [outside, &format!(" INFO {line}")]);
}

#[test]
fn an_event_that_names_its_request_is_not_given_the_id_twice() {
    let (json_lines, text_lines) = (Lines::default(), Lines::default());
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&json_lines))
        .with(text_layer(&text_lines));
    with_default(subscriber, || {
        scope("r1").run(|| {
            info!(request_id = "r1", "str");
            info!(request_id = %"r1", "display");
            info!(request_id = "r2", "another");
        });
    });
    assert_eq!(json_lines.ids_of_last(), ids("r1", &[1, 2, 3]));
    let twice: Vec<_> = json_lines.text();
    let twice = twice.iter().map(|line| line.matches("request_id").count());
    assert_eq!(twice.collect::<Vec<_>>(), [1, 1, 2]);
    let ends: Vec<_> = text_lines.text();
    let ends = ends
        .iter()
        .map(|line| line.split_once("tests: ").unwrap().1);
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [
            "str request_id=\"r1\" sequence_id=1",
            "display request_id=r1 sequence_id=2",
            "another request_id=\"r2\" request_id=r1 sequence_id=3",
        ]
    );
}

#[test]
fn a_terminal_gets_colours_and_nothing_else_changes() {
    let lines = Lines::default();
    let layer = stock::layer()
        .with_ansi(true)
        .event_format(WithIds::text(
            stock::format().without_time().with_target(false),
        ))
        .with_writer(lines.clone());
    with_default(Registry::default().with(layer), || {
        scope("r1").run(|| info!(a = 1, b = %"\x1b[2K\x1b[1Gc\x1b[", "hello"));
    });
    assert_eq!(
        lines.text(),
        [
            "\x1b[32m INFO\x1b[0m hello \x1b[3ma\x1b[0m\x1b[2m=\x1b[0m1 \
          \x1b[3mb\x1b[0m\x1b[2m=\x1b[0m\\u001b[2K\\u001b[1Gc\\u001b[ request_id=r1 sequence_id=1"
        ]
    );
}
