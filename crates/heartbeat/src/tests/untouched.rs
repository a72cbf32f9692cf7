//! Responses without heartbeats, and the heads of those that may have some.

use http_body::Body as _;

use super::*;

fn idle() -> MockBody {
    MockBody::new([mock::data("data: 1\n\n"), mock::hang()])
}

#[tokio::test(start_paused = true)]
async fn nothing_is_added_where_nothing_may_be() {
    let response = |fields: &[(&str, &str)], status: u16, body| {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(body).unwrap()
    };
    let sse = ("content-type", "text/event-stream");
    let declared = MockBody::new([mock::data("data: 1\n\n"), mock::sleep(seconds(60))]);
    for response in [
        response(&[("content-type", "text/plain")], 200, idle()),
        response(&[("content-type", "application/grpc")], 200, idle()),
        response(&[("content-type", "application/grpc-web")], 200, idle()),
        response(&[], 200, idle()),
        response(&[sse, ("content-encoding", "gzip")], 200, idle()),
        response(&[sse], 206, idle()),
        response(&[sse, ("content-length", "99")], 200, idle()),
        response(&[sse], 200, declared.with_true_size()),
    ] {
        let head = format!("{:?}", response.headers());
        let response = under(&layer(), response).await;
        assert_eq!(format!("{:?}", response.headers()), head);
        let frames = read(&mut response.into_body(), seconds(30)).await;
        assert_eq!(frames.len(), 1, "{head}");
    }
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        let mut request = Request::new(());
        *request.method_mut() = method.parse().unwrap();
        let response = asked(&layer(), request, response(&[sse], status, idle())).await;
        let frames = read(&mut response.into_body(), seconds(30)).await;
        assert_eq!(frames.len(), 1, "{method} {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn off_and_zero_are_off() {
    for layer in [
        HeartbeatLayer::off(),
        HeartbeatLayer::new().interval(Duration::ZERO),
    ] {
        let mut body = under(&layer, events([mock::data("data: 1\n\n"), mock::hang()]))
            .await
            .into_body();
        assert_eq!(read(&mut body, seconds(60)).await.len(), 1);
    }
}

#[tokio::test]
async fn the_head_and_the_size_say_nothing_that_a_heartbeat_makes_untrue() {
    let mut response = events([mock::data("data: 1\n\n"), mock::hang()]);
    for (name, value) in [
        ("etag", "\"1\""),
        ("content-digest", "md5=:AA==:"),
        ("x-a", "b"),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = under(&layer(), response).await;
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["content-type", "x-a"]);
    let size = response.body().size_hint();
    assert_eq!(
        (size.upper(), response.body().is_end_stream()),
        (None, false)
    );
}

/// A digest in the trailers is of the bytes without heartbeats. If no heartbeat was written, it is correct.
#[tokio::test(start_paused = true)]
async fn a_digest_in_the_trailers_goes_with_the_first_heartbeat() {
    for (wait, there) in [(1, true), (9, false)] {
        let steps = [
            mock::data("data: 1\n\n"),
            mock::sleep(seconds(wait)),
            mock::trailer("content-digest", "md5=:AA==:"),
        ];
        let response = under(&layer(), events(steps)).await;
        let trailers = response
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned();
        let digest = trailers.is_some_and(|trailers| trailers.contains_key("content-digest"));
        assert_eq!(digest, there, "after {wait} s");
    }
}

#[tokio::test]
async fn a_body_that_ends_needs_no_timer() {
    // Outside of a runtime with a timer this would panic.
    let runtime = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let response = events([mock::data("data: 1\n\n"), mock::data("data: 2\n\n")]);
            let body = under(&layer(), response).await.into_body();
            body.collect().await.unwrap().to_bytes()
        })
    });
    assert_eq!(runtime.join().unwrap(), "data: 1\n\ndata: 2\n\n");
}
