//! JSON lines, flat.

use std::{
    any::TypeId,
    error::Error,
    fmt::{self, Write},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{
    escape::{Chain, JsonString},
    number::EventIds,
};

/// A format for `tracing_subscriber::fmt` that prints an event as one flat JSON object a line.
///
/// Use it as `fmt::layer().json().event_format(log::json())`, beside a [`RequestLog`](super::RequestLog); `.json()`
/// is what keeps the fields of spans as JSON.
///
/// The members, in this order: `timestamp`, `level`, `request_id` and `sequence_id` (inside of a request), `target`,
/// the fields of the event (`message` is one), `spans` (when the event is in a span: an array from the root, each
/// with its fields and its `name`). A field with the name of another member is called `fields.<name>`, and one that is
/// called so already `fields.fields.<name>`, so no object has a member twice and the format's own are true.
#[derive(Clone, Copy, Debug)]
pub struct Json<T = SystemTime> {
    timer: T,
    target: bool,
    spans: bool,
}

/// Prints an event as one flat JSON object a line; see [`Json`].
#[must_use]
pub fn json() -> Json {
    Json {
        timer: SystemTime,
        target: true,
        spans: true,
    }
}

options!(Json);

/// What the format writes itself in the object of an event.
const OWN: [&str; 6] = [
    "timestamp",
    "level",
    "request_id",
    "sequence_id",
    "target",
    "spans",
];

impl<S, N, T> FormatEvent<S, N> for Json<T>
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

        writer.write_char('{')?;
        let mut time = String::new();
        self.timer.format_time(&mut Writer::new(&mut time))?;
        if !time.is_empty() {
            writer.write_str("\"timestamp\":")?;
            string(&mut writer, time.trim_end())?;
            writer.write_char(',')?;
        }
        write!(writer, "\"level\":\"{}\"", metadata.level())?;
        if let Some((request_id, number)) = ids.get() {
            writer.write_str(",\"request_id\":")?;
            string(&mut writer, request_id)?;
            write!(writer, ",\"sequence_id\":{number}")?;
        }
        if self.target {
            writer.write_str(",\"target\":")?;
            string(&mut writer, metadata.target())?;
        }
        let mut members = Members {
            writer: &mut writer,
            from_log: normalized.is_some(),
            result: Ok(()),
        };
        event.record(&mut members);
        members.result?;
        if self.spans {
            spans(ctx, &mut writer)?;
        }
        writer.write_str("}\n")
    }
}

fn string(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    writer.write_char('"')?;
    JsonString(writer).write_str(text)?;
    writer.write_char('"')
}

fn spans<S, N>(ctx: &FmtContext<'_, S, N>, writer: &mut Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let Some(scope) = ctx.event_scope() else {
        return Ok(());
    };
    const NAME: [&str; 1] = ["name"];
    let mut separator = ",\"spans\":[";
    for span in scope.from_root() {
        write!(writer, "{separator}{{")?;
        separator = ",";
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>() {
            // what `JsonFields` wrote is an object, of which the members can be taken as they are
            let members = fields.strip_prefix('{').and_then(|f| f.strip_suffix('}'));
            match members {
                Some(members) if TypeId::of::<N>() == TypeId::of::<JsonFields>() => {
                    match members.contains("name\":") {
                        true => JsonMembers(writer).write_str(&renamed(fields, &NAME))?,
                        false => JsonMembers(writer).write_str(members)?,
                    }
                    if !members.is_empty() {
                        writer.write_char(',')?;
                    }
                }
                _ if fields.is_empty() => {}
                _ => {
                    writer.write_str("\"fields\":")?;
                    string(writer, fields)?;
                    writer.write_char(',')?;
                }
            }
        }
        writer.write_str("\"name\":")?;
        string(writer, span.name())?;
        writer.write_char('}')?;
    }
    if separator == "," {
        writer.write_char(']')?;
    }
    Ok(())
}

/// Whether a field of this name is printed as `fields.<name>`: it is the name of one of the format's own members, or has
/// such a name behind prefixes that are there already.
fn is_taken(name: &str, own: &[&str]) -> bool {
    let mut bare = name;
    while let Some(rest) = bare.strip_prefix("fields.") {
        bare = rest;
    }
    own.contains(&bare)
}

/// The members of an object of `JsonFields`, those with names of the format's own renamed.
fn renamed(fields: &str, own: &[&str]) -> String {
    let Ok(fields) = serde_json::from_str::<serde_json::Map<_, _>>(fields) else {
        return String::new();
    };
    let members = fields
        .into_iter()
        .map(|(name, value)| match is_taken(&name, own) {
            true => (format!("fields.{name}"), value),
            false => (name, value),
        });
    let object = serde_json::Value::Object(members.collect()).to_string();
    object[1..object.len() - 1].to_owned()
}

/// Writes JSON that is valid already; what is unsafe in it stands in strings, for outside of them JSON is ASCII.
struct JsonMembers<'a, 'w>(&'a mut Writer<'w>);

impl Write for JsonMembers<'_, '_> {
    fn write_str(&mut self, json: &str) -> fmt::Result {
        let mut rest = json;
        while let Some(at) = rest.find(super::escape::is_unsafe) {
            self.0.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            if let Some(c) = after.next() {
                write!(self.0, "\\u{:04x}", u32::from(c))?;
            }
            rest = after.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Writes each field as a member, the comma first.
struct Members<'a, 'w> {
    writer: &'a mut Writer<'w>,
    /// a record of the `log` crate, with its metadata among the fields
    from_log: bool,
    result: fmt::Result,
}

impl Members<'_, '_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = field.name();
        if self.result.is_err() || self.from_log && name.starts_with("log.") {
            return;
        }
        self.result = self.name(name).and_then(|()| value(self.writer));
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        let name = name.strip_prefix("r#").unwrap_or(name);
        self.writer.write_str(",\"")?;
        if is_taken(name, &OWN) {
            self.writer.write_str("fields.")?;
        }
        JsonString(self.writer).write_str(name)?;
        self.writer.write_str("\":")
    }

    fn quoted(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.member(field, |writer| {
            writer.write_char('"')?;
            JsonString(writer).write_fmt(value)?;
            writer.write_char('"')
        });
    }
}

impl Visit for Members<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.member(field, |writer| write!(writer, "{value:?}"));
        } else {
            self.member(field, |writer| writer.write_str("null"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| string(writer, value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.quoted(field, format_args!("{}", Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.quoted(field, format_args!("{value:?}"));
    }
}
