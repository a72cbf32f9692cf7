//! Lines of text for people, which a program can still read.

use std::{any::TypeId, error::Error, fmt};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{
    escape::{Chain, is_unsafe},
    number::EventIds,
};

/// A format for `tracing_subscriber::fmt` that prints an event as one line of text.
///
/// Use it as `fmt::layer().event_format(log::text()).fmt_fields(log::TextFields)`, beside a
/// [`RequestLog`](super::RequestLog). A line looks like this:
///
/// ```text
/// 2026-11-20T10:28:21.123456Z  INFO request_id=order-17 sequence_id=3 request{method=GET}: shop: sent rows=3 to="a b"
/// ```
///
/// The ids come before anything that a client can choose. A value stands bare when it is plain and as a Rust string
/// literal otherwise, so a reader that knows quotes finds each field once. In the braces of a span, plain is one word
/// without braces, commas and colons: no value there can look like the end of the span and an event behind it. With another `fmt_fields` the fields of a
/// span are printed as one string literal.
#[derive(Clone, Copy, Debug)]
pub struct Text<T = SystemTime> {
    timer: T,
    target: bool,
    spans: bool,
}

/// Prints an event as one line of text; see [`Text`].
#[must_use]
pub fn text() -> Text {
    Text {
        timer: SystemTime,
        target: true,
        spans: true,
    }
}

options!(Text);

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

fn color(level: Level) -> &'static str {
    match level {
        Level::TRACE => "\x1b[35m",
        Level::DEBUG => "\x1b[34m",
        Level::INFO => "\x1b[32m",
        Level::WARN => "\x1b[33m",
        Level::ERROR => "\x1b[31m",
    }
}

impl<S, N, T> FormatEvent<S, N> for Text<T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    T: FormatTime,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ids = EventIds::of(event);
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let ansi = writer.has_ansi_escapes();

        let mut time = String::new();
        self.timer.format_time(&mut Writer::new(&mut time))?;
        let time = time.trim_end();
        if ansi {
            let level = metadata.level();
            write!(
                writer,
                "{DIM}{time}{RESET} {}{level:>5}{RESET} ",
                color(*level)
            )?;
        } else {
            let gap = if time.is_empty() { "" } else { " " };
            write!(writer, "{time}{gap}{:>5} ", metadata.level())?;
        }
        if let Some((request_id, number)) = ids.get() {
            write!(writer, "request_id={request_id} sequence_id={number} ")?;
        }
        if self.spans {
            spans(ctx, &mut writer)?;
        }
        if self.target {
            write!(writer, "{}: ", metadata.target())?;
        }
        let mut fields = Fields::new(&mut writer);
        fields.from_log = normalized.is_some();
        event.record(&mut fields);
        fields.result?;
        writer.write_char('\n')
    }
}

fn spans<S, N>(ctx: &FmtContext<'_, S, N>, writer: &mut Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let Some(scope) = ctx.event_scope() else {
        return Ok(());
    };
    let mut any = false;
    for span in scope.from_root() {
        any = true;
        writer.write_str(span.name())?;
        let extensions = span.extensions();
        match extensions.get::<FormattedFields<N>>() {
            Some(fields) if !fields.is_empty() => {
                if TypeId::of::<N>() == TypeId::of::<TextFields>() {
                    write!(writer, "{{{}}}", fields.fields)?;
                } else {
                    write!(writer, "{{{:?}}}", fields.fields)?;
                }
            }
            _ => {}
        }
        writer.write_char(':')?;
    }
    if any { writer.write_char(' ') } else { Ok(()) }
}

/// The fields of spans for [`text`]: values are bare when they are plain, and string literals otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields::new(&mut writer);
        visitor.in_span = true;
        fields.record(&mut visitor);
        visitor.result
    }
}

/// Writes fields as `name=value`, the message as it is, with spaces between.
struct Fields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    first: bool,
    /// a record of the `log` crate, with its metadata among the fields
    from_log: bool,
    /// the fields stand in the braces of a span
    in_span: bool,
    result: fmt::Result,
}

impl<'a, 'w> Fields<'a, 'w> {
    fn new(writer: &'a mut Writer<'w>) -> Self {
        Self {
            writer,
            first: true,
            from_log: false,
            in_span: false,
            result: Ok(()),
        }
    }

    fn field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = field.name();
        if self.result.is_err() || self.from_log && name.starts_with("log.") {
            return;
        }
        self.result = self.name(name).and_then(|()| value(self.writer));
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.writer.write_char(' ')?;
        }
        match name.strip_prefix("r#").unwrap_or(name) {
            "message" => Ok(()),
            // the line has these of its own
            name @ ("request_id" | "sequence_id") => write!(self.writer, "fields.{name}="),
            name => write!(self.writer, "{name}="),
        }
    }

    /// A value that is not known to be plain.
    fn text(&mut self, field: &Field, value: &str) {
        let ends_span = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ':' | ',');
        let quoted = value.is_empty()
            || value.contains(needs_quotes)
            || self.in_span && value.contains(ends_span);
        self.field(field, |writer| {
            if quoted {
                write!(writer, "{value:?}")
            } else {
                writer.write_str(value)
            }
        });
    }
}

/// Whether a value with this character has to be quoted: it could end the line, or begin a field or a quote.
fn needs_quotes(c: char) -> bool {
    is_unsafe(c) || matches!(c, '=' | '"' | '\\')
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |writer| write!(writer, "{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.text(field, value);
        } else {
            self.field(field, |writer| write!(writer, "{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.text(field, &Chain(value).to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}
