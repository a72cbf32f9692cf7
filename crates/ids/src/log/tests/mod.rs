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
            " INFO request_id=r1 sequence_id=1 request{method=\"GET\" path=\"/a b\" q=\"a=b\"}: \
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
