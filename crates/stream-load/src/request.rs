//! The request that every stream begins with.

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
