//! What a client is told unless somebody chose otherwise.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tower_stream_core::{Dialect, Problem, StreamKind, grpc};

use crate::{Failure, Tail, WriteError};

/// The writer used unless another is given: the form of the response's [`Dialect`], where one was named, and otherwise each
/// [`StreamKind`] in its own format.
///
/// Before the head: `application/problem+json` (RFC 9457) with `type`, `title`, `status`, `detail` and, as `instance`,
/// the request id; a small page if the client [wants HTML](Failure::wants_html); a Trailers-Only answer for gRPC.
///
/// After the head:
///
/// | kind | tail |
/// |---|---|
/// | server-sent events | `event: error` with [`{"error":{..}}`](Failure::to_json) as its `data:`, and no `id:` |
/// | JSON lines | a line `{"error":{..}}` |
/// | JSON text sequences | the same behind a record separator (RFC 7464) |
/// | gRPC | trailers `grpc-status` and `grpc-message` |
/// | gRPC-Web | the same as a frame of trailers |
/// | other | [`Tail::Abort`] |
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultWriter;

impl WriteError for DefaultWriter {
    fn head(&self, failure: &Failure<'_>) -> Response<Bytes> {
        if let Some(content_type) = failure.request.grpc_type() {
            let (status, message) = (failure.grpc_status(), failure.message());
            return grpc::trailers_only(content_type.clone(), status, &message);
        }
        let named = failure.dialect();
        let message = failure.message();
        if let Some(document) = named.and_then(|named| named.document(&failure.report(&message))) {
            return json(failure.status(), &document);
        }
        if failure.wants_html() {
            return page(failure);
        }
        Problem::new(failure.status())
            .detail(failure.message())
            .with("kind", failure.kind().public_name())
            .instance(failure.request_id())
            .into_response()
    }

    fn tail(&self, failure: &Failure<'_>) -> Tail {
        let kind = failure.stream();
        match kind {
            StreamKind::GrpcWeb => return Tail::Data(grpc::web_trailers(&trailers(failure))),
            StreamKind::Grpc => return Tail::Trailers(trailers(failure)),
            _ => {}
        }
        let named = failure.dialect().filter(|dialect| dialect.kind() == kind);
        let dialect = named.unwrap_or(Dialect::plain(kind));
        match dialect.error(&failure.report(&failure.message())) {
            text if text.is_empty() => Tail::Abort,
            text => Tail::Data(text.into()),
        }
    }
}

fn trailers(failure: &Failure<'_>) -> HeaderMap {
    grpc::trailers(failure.grpc_status(), &failure.message())
}

fn json(status: StatusCode, document: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn page(failure: &Failure<'_>) -> Response<Bytes> {
    let status = failure.status();
    let title = format!(
        "{} {}",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error")
    );
    let id = failure.request_id().map_or_else(String::new, |id| {
        format!("<p>Request id: <code>{}</code></p>\n", escaped(id.as_str()))
    });
    let message = escaped(&failure.message());
    html(
        status,
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
             <h1>{title}</h1>\n<p>{message}</p>\n{id}</html>\n"
        ),
    )
}

fn html(status: StatusCode, page: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(char),
        }
    }
    escaped
}
