//! Adds the ids to the lines of `tracing-subscriber`'s own formats.

use std::fmt;

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
        time::SystemTime,
    },
    registry::LookupSpan,
};

use super::number::EventIds;

/// A [`Format`] of `tracing-subscriber` with `request_id` and `sequence_id` at the end of each line.
///
/// Created by [`json`] and [`text`], or from a format with other options by [`WithIds::json`] and [`WithIds::text`].
/// The ids are the last members of the object or the last fields of the line. Parsers keep the last of two members with
/// the same name, so no value of the event can take their place. If an event already has the id of its request in a
/// field `request_id`, the id is not added again.
///
/// An event is always one line. Characters that some reader takes for a line end, and characters that change a terminal
/// in other ways than drawing a character or setting a colour, are written as an escape sequence (`\n`, `\u2028`).
#[derive(Clone, Debug)]
pub struct WithIds<F = Full, T = SystemTime> {
    format: Format<F, T>,
    json: bool,
}

/// One flat JSON object per line: time, level, the fields of the event (`message` is one), target and ids.
///
/// Use it as `fmt::layer().json().event_format(log::json())`, together with a [`RequestLog`](super::RequestLog). Spans
/// are omitted, because the spans of a request would repeat its attributes on each line. To print them, pass a format
/// that does to [`WithIds::json`].
#[must_use]
pub fn json() -> WithIds<Json> {
    let format = Format::default().json();
    WithIds::json(format.with_current_span(false).with_span_list(false))
}

/// One line of text: time, level, the spans of the event, target, message, fields and ids.
///
/// Use it as `fmt::layer().event_format(log::text())`, together with a [`RequestLog`](super::RequestLog). The spans of
/// a request repeat its attributes on each line. To omit them, filter the layer by
/// [`Metadata::is_event`](tracing::Metadata::is_event):
///
/// ```
/// use tower_stream_ids::log;
/// use tracing_subscriber::{Layer, filter::filter_fn, fmt, layer::SubscriberExt};
///
/// let lines = fmt::layer().event_format(log::text());
/// let subscriber = tracing_subscriber::registry()
///     .with(log::RequestLog::new())
///     .with(lines.with_filter(filter_fn(|metadata| metadata.is_event())));
/// # let _ = subscriber;
/// ```
#[must_use]
pub fn text() -> WithIds {
    WithIds::text(Format::default())
}

impl<T> WithIds<Json, T> {
    /// Adds the ids to a JSON format, and flattens its events.
    ///
    /// ```
    /// use tower_stream_ids::log::WithIds;
    /// use tracing_subscriber::fmt;
    ///
    /// let format = fmt::format().json().with_span_list(false).with_line_number(true);
    /// let layer = fmt::layer().json().event_format(WithIds::json(format));
    /// # fn is_layer<L: tracing_subscriber::Layer<tracing_subscriber::Registry>>(_: L) {}
    /// # is_layer(layer);
    /// ```
    #[must_use]
    pub fn json(format: Format<Json, T>) -> Self {
        Self {
            format: format.flatten_event(true),
            json: true,
        }
    }
}

impl<F, T> WithIds<F, T> {
    /// Adds the ids to a text format that writes one line per event: the default one or the compact one.
    ///
    /// ```
    /// use tower_stream_ids::log::WithIds;
    /// use tracing_subscriber::fmt;
    ///
    /// let format = fmt::format().compact().without_time();
    /// let layer = fmt::layer().event_format(WithIds::text(format));
    /// # fn is_layer<L: tracing_subscriber::Layer<tracing_subscriber::Registry>>(_: L) {}
    /// # is_layer(layer);
    /// ```
    #[must_use]
    pub fn text(format: Format<F, T>) -> Self {
        Self {
            format,
            json: false,
        }
    }
}

impl<S, N, F, T> FormatEvent<S, N> for WithIds<F, T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    Format<F, T>: FormatEvent<S, N> + Clone,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ids = EventIds::of(event);
        let colours = writer.has_ansi_escapes();
        let mut line = String::with_capacity(512);
        // Only the format can tell the new writer whether colours are allowed.
        let format = self.format.clone().with_ansi(colours);
        format.format_event(ctx, Writer::new(&mut line), event)?;

        let line = line.strip_suffix('\n').unwrap_or(&line);
        let (line, end) = match self.json {
            true => (line.strip_suffix('}').unwrap_or(line), "}\n"),
            false => (line, "\n"),
        };
        write_escaped(&mut writer, line, colours)?;
        if let Some((id, number)) = ids.get() {
            // An id contains no character that JSON or text escapes.
            match (self.json, OwnId::is(event, id)) {
                (true, false) => write!(writer, ",\"request_id\":\"{id}\"")?,
                (false, false) => write!(writer, " request_id={id}")?,
                (_, true) => {}
            }
            match self.json {
                true => write!(writer, ",\"sequence_id\":{number}")?,
                false => write!(writer, " sequence_id={number}")?,
            }
        }
        #[cfg(feature = "trace-context")]
        if let Some((trace, span)) = current_span() {
            match self.json {
                true => write!(writer, ",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"")?,
                false => write!(writer, " trace_id={trace} span_id={span}")?,
            }
        }
        writer.write_str(end)
    }
}

/// The span of OpenTelemetry's current context, when there is one.
#[cfg(feature = "trace-context")]
fn current_span() -> Option<(opentelemetry::TraceId, opentelemetry::SpanId)> {
    use opentelemetry::trace::TraceContextExt;

    opentelemetry::Context::map_current(|context| {
        let span = context.has_active_span().then(|| context.span())?;
        let span = span.span_context();
        span.is_valid().then(|| (span.trace_id(), span.span_id()))
    })
}

/// Looks for a field `request_id` with this value.
struct OwnId<'a> {
    id: &'a str,
    found: bool,
}

impl OwnId<'_> {
    fn is(event: &Event<'_>, id: &str) -> bool {
        if event.metadata().fields().field("request_id").is_none() {
            return false;
        }
        let mut own = OwnId { id, found: false };
        event.record(&mut own);
        own.found
    }
}

impl Visit for OwnId<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.found |= field.name() == "request_id" && value == self.id;
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "request_id" {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// Characters that some reader takes for a line end, or that change a terminal in other ways than drawing a character.
pub(super) fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{2028}' | '\u{2029}'
        // Direction overrides: they make a line read as another one.
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes a line with the unsafe characters as escape sequences. In JSON these characters only occur in strings, and
/// the escape sequences are those of JSON.
fn write_escaped(writer: &mut Writer<'_>, line: &str, colours: bool) -> fmt::Result {
    // No branch per byte, so that the compiler can vectorize the loop.
    let plain = |all, byte: u8| all & (b' '..0x7f).contains(&byte);
    if line.bytes().fold(true, plain) {
        return writer.write_str(line);
    }
    let mut rest = line;
    while let Some(at) = find_unsafe(rest) {
        writer.write_str(&rest[..at])?;
        rest = &rest[at..];
        if let Some(colour) = colour(rest).filter(|_| colours) {
            writer.write_str(&rest[..colour])?;
            rest = &rest[colour..];
            continue;
        }
        let mut after = rest.chars();
        match after.next() {
            Some('\n') => writer.write_str("\\n")?,
            Some('\r') => writer.write_str("\\r")?,
            Some('\t') => writer.write_str("\\t")?,
            Some(c) => write!(writer, "\\u{:04x}", u32::from(c))?,
            None => {}
        }
        rest = after.as_str();
    }
    writer.write_str(rest)
}

/// Finds the first unsafe character. Every unsafe character starts with one of these bytes.
fn find_unsafe(text: &str) -> Option<usize> {
    let suspect = |byte| matches!(byte, 0..=0x1f | 0x7f | 0xc2 | 0xe2);
    let mut places = text.bytes().enumerate();
    let is_unsafe_at = |(at, byte)| suspect(byte) && text[at..].starts_with(is_unsafe);
    places.find(|place| is_unsafe_at(*place)).map(|(at, _)| at)
}

/// Length of the SGR sequence (ECMA-48 section 8.3.117: colour, weight) at the start of a text.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !matches!(c, '0'..='9' | ';'))?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unsafe_character_is_found_and_escaped() {
        for c in '\0'..=char::MAX {
            let text = format!("é{c}x");
            assert_eq!(find_unsafe(&text), is_unsafe(c).then_some(2), "{c:?}");
            if c.len_utf8() < 4 && is_unsafe(c) {
                let mut out = String::new();
                write_escaped(&mut Writer::new(&mut out), &text, false).unwrap();
                assert!(!out.contains(is_unsafe), "{c:?}");
                let back: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
                assert_eq!(back, text);
            }
        }
    }
}
