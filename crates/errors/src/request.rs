//! The properties of a request that decide the format of an error response.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use tower_stream_core::{grpc, list_members};

#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    format: Format,
}

/// The format that the client reads. Determined at the call, because keeping a header value would cost two reference
/// counts and 40 bytes for every stream.
#[derive(Clone, Debug)]
enum Format {
    Json,
    Html,
    /// The content type of the request.
    Grpc(Box<HeaderValue>),
}

impl RequestInfo {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            format: Format::of(request.headers()),
        }
    }

    /// The content type, if it is that of gRPC.
    pub(crate) fn grpc_type(&self) -> Option<&HeaderValue> {
        match &self.format {
            Format::Grpc(content_type) => Some(content_type),
            Format::Json | Format::Html => None,
        }
    }

    pub(crate) fn wants_html(&self) -> bool {
        matches!(self.format, Format::Html)
    }
}

impl Format {
    fn of(headers: &HeaderMap) -> Self {
        if let Some(content_type) = grpc::content_type(headers) {
            return Self::Grpc(Box::new(content_type.clone()));
        }
        match prefers_html(headers) {
            true => Self::Html,
            false => Self::Json,
        }
    }
}

/// Returns whether an `Accept` (RFC 9110 section 12.5.1) prefers HTML to JSON and to event streams.
///
/// A client that lists another JSON format (`+json`) gets a JSON error too. A client that lists event streams is not a
/// browser that shows a page.
fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut data) = (Weight::default(), Weight::default());
    for range in list_members(headers, &header::ACCEPT) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let q = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
        let q = q.map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if !(0.0..=1.0).contains(&q) {
            continue;
        }
        match name.as_str() {
            "*/*" => {
                html.matched(0, q);
                data.matched(0, q);
            }
            "text/*" => html.matched(1, q),
            "application/*" => data.matched(1, q),
            "text/html" | "application/xhtml+xml" => html.matched(2, q),
            "application/json" | "text/event-stream" => data.matched(2, q),
            other if other.ends_with("+json") => data.matched(2, q),
            _ => {}
        }
    }
    html.q > data.q
}

/// The weight of a format: that of the most specific matching ranges, the highest if there are several.
#[derive(Default)]
struct Weight {
    specificity: u8,
    q: f32,
}

impl Weight {
    fn matched(&mut self, specificity: u8, q: f32) {
        if specificity > self.specificity {
            *self = Self { specificity, q };
        } else if specificity == self.specificity {
            self.q = self.q.max(q);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_html() {
        for (accept, html) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("TEXT/HTML ; q=0.1", true),
            ("text/html;q=0", false),
            ("text/html;q=0.5, application/json", false),
            ("text/html, application/json;q=0.9", true),
            ("text/html, application/problem+json", false),
            ("*/*", false),
            ("text/event-stream", false),
            ("", false),
            // Of all matching ranges, the most specific one decides (RFC 9110 section 12.5.1).
            ("text/html;q=0.5, */*", false),
            ("text/html;q=0.5, application/*", false),
            ("text/html;q=0.5, application/*;q=0.4", true),
            ("text/html, application/*", false),
            ("text/*, application/json;q=0.9", true),
            (
                "text/*;q=0.9, text/html;q=0.1, application/json;q=0.5",
                false,
            ),
            (
                "*/*, application/json;q=0.1, application/problem+json;q=0.1",
                true,
            ),
            ("*/*, application/json;q=0", true),
            ("text/html;q=0.9, application/vnd.api+json", false),
            ("text/html, application/ld+json;q=0.5", true),
            ("text/html;q=0.9, text/event-stream", false),
            ("text/html, text/event-stream", false),
            ("text/html, text/event-stream;q=0.1", true),
            (
                "text/html ;level=1; Q=0.2 , application/json ; q=0.3",
                false,
            ),
            ("text/html;q=2, application/json;q=0.1", false),
            ("text/html;q=nan, application/json;q=0.1", false),
            ("text/html;q=, ,;,/,*", false),
        ] {
            let request = Request::get("/").header("accept", accept).body(());
            let info = RequestInfo::of(&request.unwrap());
            assert_eq!(info.wants_html(), html, "{accept}");
        }
    }

    #[test]
    fn accept_in_two_fields_is_one_list() {
        let request = Request::get("/")
            .header("accept", "text/html;q=0.5")
            .header("accept", "application/json")
            .body(())
            .unwrap();
        assert!(!RequestInfo::of(&request).wants_html());
    }
}
