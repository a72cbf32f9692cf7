//! Values that imitate lines or fields.

use super::*;

/// Values that try to start a line, a field or a string, or to change a terminal.
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

/// Logs a value in every place of an event. Writes four lines.
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

#[test]
fn hostile_values_forge_neither_a_json_line_nor_an_id() {
    for value in HOSTILE {
        let lines = logged(|| scope("r1").run(|| attack(value)));
        assert_eq!(lines.ids_of_last(), ids("r1", &[1, 2, 3, 4]), "{value:?}");
        assert!(!lines.text().concat().contains(format::is_unsafe));
        let lines = lines.last_of_each_name();
        for (line, message) in lines
            .iter()
            .zip([value, value, &format!("{value} {value}"), value])
        {
            assert_eq!(line["message"], message);
        }
        for name in ["a", "b", "c", "d"] {
            assert_eq!(lines[2][name], value);
        }
        assert_eq!(lines[3]["target"], "t");
    }
}

#[test]
fn hostile_values_forge_neither_a_text_line_nor_its_ids() {
    for value in HOSTILE {
        for compact in [true, false] {
            let lines = Lines::default();
            let layer: Box<dyn Layer<Registry> + Send + Sync> = if compact {
                let layer = stock::layer().with_ansi(false);
                let layer = layer.event_format(WithIds::text(stock::format().compact()));
                Box::new(layer.with_writer(lines.clone()))
            } else {
                Box::new(text_layer(&lines))
            };
            let subscriber = Registry::default().with(layer).with(RequestLog::new());
            with_default(subscriber, || scope("r1").run(|| attack(value)));
            let lines = lines.text();
            assert_eq!(lines.len(), 4, "{lines:#?}");
            for (line, n) in lines.iter().zip(1..) {
                assert!(
                    line.ends_with(&format!(" request_id=r1 sequence_id={n}")),
                    "{line}"
                );
                assert!(!line.contains(format::is_unsafe), "{line}");
            }
        }
    }
}

#[test]
fn spans_of_json_forge_no_line_either() {
    for value in HOSTILE {
        let lines = Lines::default();
        let layer = stock::layer()
            .json()
            .event_format(WithIds::json(stock::format().json()))
            .with_writer(lines.clone());
        let subscriber = Registry::default().with(layer).with(RequestLog::new());
        with_default(subscriber, || scope("r1").run(|| attack(value)));
        assert_eq!(lines.ids_of_last(), ids("r1", &[1, 2, 3, 4]), "{value:?}");
        assert!(!lines.text().concat().contains(format::is_unsafe));
        let line = &lines.last_of_each_name()[3];
        for name in ["request_id", "b", "c", "later"] {
            assert_eq!(line["spans"][0][name], value);
        }
    }
}
