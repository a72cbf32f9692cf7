//! Values that would rather be lines or fields.

use super::*;

/// Values that try to begin a line, a field, a string, or to change what a terminal shows.
const HOSTILE: [&str; 17] = [
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
    "bob}: auth: accepted",
    "bob, auth",
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

#[test]
fn a_field_of_a_span_cannot_look_like_the_end_of_the_span() {
    let lines = Lines::default();
    let subscriber = Registry::default().with(text_layer(&lines));
    with_default(subscriber, || {
        let user = "bob}: auth: password accepted for admin";
        let span = info_span!("login", user = %user, id = %"7");
        span.in_scope(|| tracing::warn!(target: "auth", "wrong password"));
    });
    let line = lines.text().concat();
    let honest =
        "WARN login{user=\"bob}: auth: password accepted for admin\" id=7}: auth: wrong password";
    assert!(line.ends_with(honest), "{line}");
}

#[test]
fn no_object_of_json_has_a_member_twice() {
    let lines = logged(|| {
        let span = info_span!(
            "upload",
            name = "evil.txt",
            fields.name = "more evil",
            rename = "x",
            a = tracing::field::Empty
        );
        span.record("a", 1);
        span.record("a", 2);
        span.in_scope(|| info!(fields.level = 1, level = 2, fields.other = 3, "m"));
    });
    let line = lines.text().concat();
    let span = r#"{"a":2,"fields.fields.name":"more evil","fields.name":"evil.txt","rename":"x","name":"upload"}"#;
    assert!(line.contains(&format!("\"spans\":[{span}]")), "{line}");
    let fields = r#""fields.fields.level":1,"fields.level":2,"fields.other":3"#;
    assert!(line.contains(fields), "{line}");
}
