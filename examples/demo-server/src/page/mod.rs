//! `GET /`: a page that shows in a browser what the layers do. Its files are part of the binary.

use axum::{
    body::Body,
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::{admin, problem::Problem};

/// Nothing but the files of this module may run, and they may speak to this server only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 8] = [
    ("style.css", "text/css", include_str!("style.css")),
    ("main.js", "text/javascript", include_str!("main.js")),
    ("breaks.js", "text/javascript", include_str!("breaks.js")),
    ("chat.js", "text/javascript", include_str!("chat.js")),
    ("live.js", "text/javascript", include_str!("live.js")),
    ("md5.js", "text/javascript", include_str!("md5.js")),
    ("read.js", "text/javascript", include_str!("read.js")),
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// The page.
pub(crate) async fn index() -> Response {
    answer("text/html; charset=utf-8", include_str!("index.html"))
}

/// A script, the style or the icon of the page.
pub(crate) async fn file(Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some(&(_, media_type, text)) => Ok(answer(media_type, text)),
        None => Err(admin::not_found(uri).await),
    }
}

fn answer(media_type: &'static str, text: &'static str) -> Response {
    const SECURITY: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = (StatusCode::OK, Body::from(text)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    // The next version of the server has other files under the same names.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
