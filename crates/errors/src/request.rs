//! What is kept of a request, to answer it in its own format when it fails.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

#[derive(Clone, Debug)]
pub(crate) struct RequestInfo {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    accept: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
}

impl RequestInfo {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            accept: accept(request.headers()),
            content_type: request.headers().get(header::CONTENT_TYPE).cloned(),
        }
    }

    /// The content type, if it is one of gRPC's.
    pub(crate) fn grpc_type(&self) -> Option<&HeaderValue> {
        let value = self.content_type.as_ref()?;
        let text = value.to_str().ok()?;
        let (name, rest) = text.split_at_checked("application/grpc".len())?;
        let known = name.eq_ignore_ascii_case("application/grpc")
            && (rest.is_empty() || rest.starts_with(['+', ';', '-', ' ']));
        known.then_some(value)
    }

    pub(crate) fn wants_html(&self) -> bool {
        let text = self.accept.as_ref().and_then(|value| value.to_str().ok());
        text.is_some_and(prefers_html)
    }
}

fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::ACCEPT).iter();
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first.clone());
    }
    // a list may come in several fields, RFC 9110 section 5.3
    let all: Vec<&[u8]> = headers
        .get_all(header::ACCEPT)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

/// Whether an `Accept` (RFC 9110 section 12.5.1) names HTML, and no JSON that it likes as much.
fn prefers_html(accept: &str) -> bool {
    let (mut html, mut json) = (0.0, 0.0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let best = if is(name, "text/html") || is(name, "application/xhtml+xml") {
            &mut html
        } else if is(name, "application/json") || is(name, "application/problem+json") {
            &mut json
        } else {
            continue;
        };
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")))
            .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
        if weight > *best {
            *best = weight;
        }
    }
    html > json
}

fn is(name: &str, known: &str) -> bool {
    name.eq_ignore_ascii_case(known)
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
        ] {
            assert_eq!(prefers_html(accept), html, "{accept}");
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

    #[test]
    fn grpc_content_types() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/GRPC+proto", true),
            ("application/grpc-web-text", true),
            ("application/grpcx", false),
            ("application/json", false),
            ("a", false),
        ] {
            let request = Request::get("/").header("content-type", content_type);
            let info = RequestInfo::of(&request.body(()).unwrap());
            assert_eq!(info.grpc_type().is_some(), grpc, "{content_type}");
        }
    }
}
