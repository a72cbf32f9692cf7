//! Lengths and trailers.

use axum::body::Body;
use e2e::{End, Protocol, Request, Response};
use http::HeaderValue;
use tower_stream_core::mock::{MockBody, data, sleep, trailer};

use super::{FLUSH, Outcome, once, play, with_head};

#[tokio::test]
async fn an_exact_size_hint_becomes_content_length() -> Outcome {
    for protocol in Protocol::ALL {
        let (server, _) = once(MockBody::new([data("abc")]).with_true_size()).await;
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert_eq!(response.header("content-length"), Some("3"), "{protocol:?}");
        let response = play(protocol, || [data("abc")]).await?;
        assert_eq!(response.header("content-length"), None, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_seen_by_every_client() -> Outcome {
    let declare = |r: &mut http::Response<Body>| {
        r.headers_mut()
            .insert("content-length", HeaderValue::from_static("5"));
    };
    for protocol in Protocol::ALL {
        let (server, _) = with_head(MockBody::new([data("abc"), sleep(FLUSH)]), declare).await;
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert!(response.end.is_cut(), "{protocol:?}: {}", response.end);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_longer_than_declared_loses_what_is_over() -> Outcome {
    let declare = |r: &mut http::Response<Body>| {
        r.headers_mut()
            .insert("content-length", HeaderValue::from_static("3"));
    };
    let (server, _) = with_head(MockBody::new([data("abc"), data("def")]), declare).await;
    let response = Protocol::Http11
        .send(server.addr(), &Request::get("/"))
        .await?;
    assert_eq!(
        (response.text().as_str(), response.end),
        ("abc", End::Length)
    );
    Ok(())
}

async fn trailers(te: bool, announce: bool, exact: bool) -> Result<Response, End> {
    let mut body = MockBody::new([data("a"), trailer("x-sum", "9")]);
    if exact {
        body = body.with_true_size();
    }
    let (server, _) = with_head(body, move |r| {
        if announce {
            r.headers_mut()
                .insert("trailer", HeaderValue::from_static("x-sum"));
        }
    })
    .await;
    let request = Request::get("/");
    let request = if te {
        request.header("TE", "trailers")
    } else {
        request
    };
    Protocol::Http11.send(server.addr(), &request).await
}

#[tokio::test]
async fn h1_sends_trailers_only_if_asked_announced_and_chunked() -> Outcome {
    for te in [false, true] {
        for announce in [false, true] {
            for exact in [false, true] {
                let response = trailers(te, announce, exact).await?;
                let expected = (te && announce && !exact).then_some("9");
                assert_eq!(
                    response.trailer("x-sum"),
                    expected,
                    "TE {te}, Trailer {announce}, exact {exact}"
                );
                assert_eq!(
                    (response.text().as_str(), response.end.is_whole()),
                    ("a", true)
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn h2_sends_trailers_without_being_asked() -> Outcome {
    let response = play(Protocol::Http2, || [data("a"), trailer("x-sum", "9")]).await?;
    assert_eq!(
        (response.trailer("x-sum"), response.end.is_whole()),
        (Some("9"), true)
    );
    Ok(())
}
