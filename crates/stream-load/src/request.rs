//! The request that each stream sends.

use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body_util::Full;

use crate::{Args, Http};

pub(crate) fn request(args: &Args) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(args.data.clone().unwrap_or_default()));
    let mut request = Request::new(body);
    *request.method_mut() = args.method();
    match args.http {
        Http::H1 => {
            let path = args.url.path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = path.parse().unwrap_or_default();
            if let Some(Ok(host)) = args.url.authority().map(|a| a.as_str().parse()) {
                request.headers_mut().insert(header::HOST, host);
            }
            // RFC 9110 section 10.1.4 requires a sender of TE to list it in Connection. HTTP/2 forbids Connection.
            let te = HeaderValue::from_static("te");
            request.headers_mut().insert(header::CONNECTION, te);
        }
        Http::H2 => {
            *request.uri_mut() = args.url.clone();
            *request.version_mut() = Version::HTTP_2;
        }
    }
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if args.data.is_some() {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    for (name, value) in &args.headers {
        headers.insert(name.clone(), value.clone());
    }
    request
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn sent(more: &[&str]) -> Request<Full<Bytes>> {
        let args = ["stream-load", "http://host:81/a?b=c"];
        request(&Args::parse_from(args.iter().chain(more)))
    }

    #[test]
    fn each_protocol_has_its_own_head() {
        let one = sent(&[]);
        assert_eq!(one.uri(), "/a?b=c");
        assert_eq!(one.headers()["host"], "host:81");
        assert_eq!(one.headers()["te"], "trailers");
        assert_eq!(one.headers()["connection"], "te");
        let two = sent(&["--http", "2"]);
        assert_eq!(two.uri(), "http://host:81/a?b=c");
        assert_eq!(two.headers()["te"], "trailers");
        assert_eq!(two.headers().len(), 1);
    }

    #[test]
    fn headers_that_are_given_win() {
        let request = sent(&["--data", "a,b", "-H", "content-type: text/csv"]);
        assert_eq!(request.method(), "POST");
        assert_eq!(request.headers()["content-type"], "text/csv");
    }
}
