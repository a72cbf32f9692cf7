use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Version, response::Parts};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::{compression::CompressionLayer, set_header::SetResponseHeaderLayer};
use tower_stream_core::{
    AddedNoTransform, BoxError, forbids_transform,
    mock::{self, MockBody},
};

use crate::StreamHeadersLayer;

type Body = http_body_util::combinators::BoxBody<Bytes, BoxError>;

fn response(fields: &[(&'static str, &'static str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed()
}

fn unknown_length() -> Body {
    let body = MockBody::new([mock::data("data: 1\n\n")]);
    http_body_util::combinators::BoxBody::new(body.map_err(Into::into))
}

/// The head that the layer returns, for a response that is created for each call.
fn guarded(
    layer: &StreamHeadersLayer,
    request: Request<()>,
    response: impl Fn() -> Response<Body>,
) -> Parts {
    let service = service_fn(|_: Request<()>| {
        let response = response();
        async move { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(request).now_or_never();
    response.unwrap().unwrap().into_parts().0
}

fn get() -> Request<()> {
    Request::new(())
}

fn over(version: Version) -> Request<()> {
    let mut request = get();
    *request.version_mut() = version;
    request
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort_unstable();
    lines
}

const GUARD: [&str; 3] = [
    "cache-control: no-cache, no-transform",
    "x-accel-buffering: no",
    "x-content-type-options: nosniff",
];

#[test]
fn streams_are_guarded_and_nothing_else() {
    for (content_type, guarded_kind) in [
        ("text/event-stream", true),
        ("text/event-stream; charset=utf-8", true),
        ("application/x-ndjson", true),
        ("application/json-seq", true),
        ("application/grpc-web+proto", true),
        ("application/grpc", false),
        ("application/json", false),
        ("text/html", false),
    ] {
        for coding in [None, Some(("content-encoding", "br"))] {
            let mut fields = vec![("content-type", content_type)];
            fields.extend(coding);
            let head = guarded(&StreamHeadersLayer::new(), get(), || {
                response(&fields, unknown_length())
            });
            let kept = |field: &str| head.headers.contains_key(field);
            assert_eq!(head.headers["content-type"], content_type);
            assert_eq!(kept("content-encoding"), coding.is_some());
            let there = lines(&head.headers);
            let all = GUARD.iter().all(|line| there.iter().any(|l| l == line));
            assert_eq!(all, guarded_kind, "{there:?}");
            let more = if guarded_kind { 3 } else { 0 };
            assert_eq!(head.headers.len(), fields.len() + more, "{there:?}");
        }
    }
}

#[test]
fn a_predicate_chooses_instead_and_off_is_off() {
    let csv = || response(&[("content-type", "text/csv")], unknown_length());
    let sse = || response(&[("content-type", "text/event-stream")], unknown_length());
    let by_type = StreamHeadersLayer::new()
        .only_if(|head| head.headers.get("content-type").unwrap() == "text/csv");
    assert_eq!(guarded(&by_type, get(), csv).headers.len(), 4);
    assert_eq!(guarded(&by_type, get(), sse).headers.len(), 1);
    assert_eq!(
        guarded(&StreamHeadersLayer::off(), get(), sse)
            .headers
            .len(),
        1
    );
}

#[test]
fn what_the_handler_says_is_merged_and_not_overruled() {
    let fields = [
        ("content-type", "text/event-stream"),
        ("cache-control", "private"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "yes"),
        ("x-content-type-options", "sniff"),
    ];
    let head = guarded(&StreamHeadersLayer::new(), get(), || {
        response(&fields, unknown_length())
    });
    assert_eq!(
        lines(&head.headers),
        [
            "cache-control: private, no-store, no-transform",
            "content-type: text/event-stream",
            "x-accel-buffering: yes",
            "x-content-type-options: nosniff",
        ]
    );
}

/// The fields that remain, except those that the layer sets and the content type.
fn left(version: Version, status: u16, fields: &[(&'static str, &'static str)]) -> Vec<String> {
    let head = guarded(&StreamHeadersLayer::new(), over(version), || {
        let mut response = response(fields, unknown_length());
        response
            .headers_mut()
            .insert("content-type", "text/event-stream".parse().unwrap());
        *response.status_mut() = status.try_into().unwrap();
        response
    });
    let own = |line: &String| GUARD.contains(&line.as_str()) || line.starts_with("content-type");
    let mut left = lines(&head.headers);
    left.retain(|line| !own(line));
    left
}

#[test]
fn fields_of_another_connection_go() {
    let copied = [
        ("connection", "keep-alive, X-Hop"),
        ("connection", "close , trailer,, x other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("transfer-encoding", "gzip, chunked"),
        ("upgrade", "h2c"),
        ("x-hop", "1"),
        ("x-end", "1"),
        ("trailer", "x-sum"),
    ];
    let end_to_end = ["trailer: x-sum", "x-end: 1"];
    assert_eq!(
        left(Version::HTTP_11, 200, &copied),
        ["connection: close", "trailer: x-sum", "x-end: 1"]
    );
    assert_eq!(left(Version::HTTP_2, 200, &copied), end_to_end);
    assert_eq!(left(Version::HTTP_2, 426, &copied), end_to_end);
    assert_eq!(left(Version::HTTP_3, 200, &copied), end_to_end);
    // `Connection` does not list `x-hop`.
    assert_eq!(
        left(Version::HTTP_11, 200, &copied[2..]),
        ["trailer: x-sum", "x-end: 1", "x-hop: 1"]
    );
    // With 101, they describe this connection.
    assert_eq!(left(Version::HTTP_11, 101, &copied).len(), copied.len());
    let upgrade = [("connection", "upgrade"), ("upgrade", "h2c")];
    assert_eq!(
        left(Version::HTTP_11, 426, &upgrade),
        ["connection: upgrade", "upgrade: h2c"]
    );
}

#[test]
fn a_length_stays_only_where_the_body_confirms_it() {
    const EVENT: &str = "data: 1\n\n";
    for (length, body, head_request, stays) in [
        ("9", full as fn(_) -> _, false, true),
        ("10", full, false, false),
        ("9", |_| unknown_length(), false, false),
        ("nine", |_| unknown_length(), false, false),
        // The length of the response to a GET is unknown.
        ("9", |_| unknown_length(), true, true),
    ] {
        let mut request = get();
        if head_request {
            *request.method_mut() = http::Method::HEAD;
        }
        let fields = |kind| [("content-type", kind), ("content-length", length)];
        let head = guarded(&StreamHeadersLayer::new(), request, || {
            response(&fields("text/event-stream"), body(EVENT))
        });
        let there = head.headers.contains_key("content-length");
        assert_eq!(there, stays, "{length}, HEAD: {head_request}");
        let head = guarded(&StreamHeadersLayer::new(), get(), || {
            response(&fields("application/x-ndjson"), body(EVENT))
        });
        assert!(head.headers.contains_key("content-length"), "of lines");
    }
}

#[test]
fn only_what_the_layer_adds_is_marked() {
    for (said, accepts, marked, forbids) in [
        ("no-cache", true, true, false),
        ("no-cache, no-transform", true, false, true),
        // No layer compresses, so the mark is not needed.
        ("no-cache", false, false, true),
    ] {
        let mut request = get();
        if accepts {
            let headers = request.headers_mut();
            headers.insert("accept-encoding", "gzip".parse().unwrap());
        }
        let fields = [
            ("content-type", "text/event-stream"),
            ("cache-control", said),
        ];
        let head = guarded(&StreamHeadersLayer::new(), request, || {
            response(&fields, unknown_length())
        });
        assert_eq!(head.headers["cache-control"], "no-cache, no-transform");
        assert_eq!(head.extensions.get::<AddedNoTransform>().is_some(), marked);
        assert_eq!(forbids_transform(&head.headers, &head.extensions), forbids);
    }
}

/// A compression layer that respects `no-transform`, outside and inside of this layer.
#[tokio::test]
async fn a_compression_of_the_same_server_still_works() {
    let compression = || {
        CompressionLayer::new().compress_when(|_, _, headers: &_, extensions: &_| {
            !forbids_transform(headers, extensions)
        })
    };
    let guard = StreamHeadersLayer::new;
    for (said, compressed) in [("no-cache", true), ("no-transform", false)] {
        let handler = service_fn(move |_: Request<()>| async move {
            let fields = [
                ("content-type", "text/event-stream"),
                ("cache-control", said),
            ];
            Ok::<_, Infallible>(response(&fields, unknown_length()))
        });
        let request = || {
            let request = Request::get("/").header("accept-encoding", "gzip");
            request.body(()).unwrap()
        };
        let outside = compression().layer(guard().layer(handler));
        let inside = guard().layer(compression().layer(handler));
        let heads = [
            outside.oneshot(request()).await.unwrap().into_parts().0,
            inside.oneshot(request()).await.unwrap().into_parts().0,
        ];
        for head in heads {
            let coded = head.headers.contains_key("content-encoding");
            assert_eq!(coded, compressed, "{:?}", head.headers);
            let cache_control = head.headers["cache-control"].to_str().unwrap();
            assert!(cache_control.contains("no-transform"), "{cache_control}");
        }
    }
}

/// The layer does not touch a field that a layer outside adds later, nor the body.
#[tokio::test]
async fn the_body_is_that_of_the_handler() {
    let handler = service_fn(|_: Request<()>| async {
        let fields = [("content-type", "text/event-stream")];
        Ok::<_, Infallible>(response(&fields, full("data: 1\n\n")))
    });
    let close = SetResponseHeaderLayer::overriding(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
    let service = close.layer(StreamHeadersLayer::new().layer(handler));
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(9));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "data: 1\n\n");
}
