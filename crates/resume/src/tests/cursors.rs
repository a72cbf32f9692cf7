use http::{Method, StatusCode};
use tower_stream_core::Dialect;

use super::support::{Client, Events, SSE, app, request, resume, send, status_of, with_cursor};
use crate::{Memory, ResumeLayer};

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_after_any_byte_gets_every_event_once() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    for n in 0..12 {
        feed.send(format!("id: {n}\nevent: e\ndata: {n} \u{e4}\n\n"));
    }
    feed.end();
    let all = first.rest().await.to_owned();
    let expected = Events::of(&all);
    assert_eq!(expected.data.len(), 12);
    assert!(!all.contains("id: 7\n"), "the handler's ids are removed");
    for cut in (0..=all.len()).filter(|cut| all.is_char_boundary(*cut)) {
        let seen = Events::of(&all[..cut]);
        let Some(cursor) = seen.cursor else {
            assert!(cut < 60, "the first block has a cursor");
            continue;
        };
        let again = send(&app, with_cursor("/", &cursor)).await;
        if seen.whole == all.len() {
            assert_eq!(again.status(), StatusCode::NO_CONTENT);
            continue;
        }
        let mut again = Client::open(&app, with_cursor("/", &cursor)).await;
        let rest = again.rest().await;
        let from = if seen.data.is_empty() { 0 } else { seen.whole };
        assert_eq!(rest, &all[from..], "cut at {cut}");
    }
    assert_eq!(feed.called(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_goes_on_live() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\ndata: 2\n\ndata");
    first.until("data: 2").await;
    assert!(first.is_waiting());
    let cursor = first.cursor();
    drop(first);
    feed.send(": 3\n\n");
    let mut second = Client::open(&app, with_cursor("/", &cursor)).await;
    second.until("data: 3").await;
    feed.send("data: 4\n\n");
    second.until("data: 4").await;
    let mut whole = Client::open(&app, request(&format!("/streams/{}", second.id()))).await;
    feed.end();
    second.rest().await;
    assert_eq!(Events::of(&second.text).data, ["3", "4"]);
    whole.rest().await;
    assert_eq!(Events::of(&whole.text).data, ["1", "2", "3", "4"]);
    assert_eq!(feed.called(), 1);
    assert_eq!(resume.stats().resumed, 2);
}

#[tokio::test(start_paused = true)]
async fn the_head_names_the_stream_and_keeps_what_is_private() {
    let resume = resume(Memory::new());
    let (app, _feed) = app(&resume, resume.layer(), SSE);
    let first = Client::open(&app, request("/")).await;
    let id = first.id();
    let again = send(&app, request(&format!("/streams/{id}"))).await;
    for (response, is_first) in [(&first.response, true), (&again, false)] {
        let headers = response.headers();
        let link = format!("</streams/{id}>; rel=\"resume\"");
        assert_eq!(headers["link"], link);
        assert_eq!(headers["cache-control"], "no-store, private");
        assert_eq!(headers["vary"], "Last-Event-ID");
        assert_eq!(headers["access-control-expose-headers"], "Stream-Id, Link");
        assert_eq!(headers["content-type"], SSE);
        assert_eq!(headers.contains_key("set-cookie"), is_first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_finds_nothing_and_the_owner_is_told_what_is_gone() {
    let log = Memory::new();
    let resume = resume(log.clone());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let (id, cursor) = (first.id(), first.cursor());
    let all = |status: [StatusCode; 4]| {
        let (app, cursor, id) = (&app, &cursor, &id);
        async move {
            let requests = [
                with_cursor("/", cursor),
                request(&format!("/streams/{id}")),
                request(&format!("/streams/{id}/status")),
                {
                    let mut cancel = request(&format!("/streams/{id}"));
                    *cancel.method_mut() = Method::DELETE;
                    cancel
                },
            ];
            for (n, mut request) in requests.into_iter().enumerate() {
                if status[0] == StatusCode::NOT_FOUND {
                    let stranger = "mallory".parse().unwrap();
                    request.headers_mut().insert("x-user", stranger);
                }
                let found = status_of(app, request).await;
                assert_eq!(found, status[n], "request {n}");
            }
        }
    };
    all([StatusCode::NOT_FOUND; 4]).await;
    let ok = StatusCode::OK;
    all([ok, ok, ok, StatusCode::NO_CONTENT]).await;
    drop(first);
    tokio::time::advance(std::time::Duration::from_secs(700)).await;
    all([StatusCode::NOT_FOUND; 4]).await;
    all([StatusCode::GONE; 4]).await;
    assert_eq!(feed.called(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_cursor_is_refused_and_calls_no_handler() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let long = "9".repeat(10_000_000);
    for cursor in ["7", "abc", "a.b.c", "..", &long[..257], &long] {
        let found = status_of(&app, with_cursor("/", cursor)).await;
        assert_eq!(found, StatusCode::BAD_REQUEST);
    }
    for path in [
        "/streams/x",
        "/streams/",
        "/streams/x/status",
        "/streams/x/y/z",
    ] {
        let found = status_of(&app, request(path)).await;
        assert_eq!(found, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(feed.called(), 0);
    // An empty one is none (WHATWG HTML section 9.2.3).
    let found = status_of(&app, with_cursor("/", "")).await;
    assert_eq!((found, feed.called()), (StatusCode::OK, 1));
}

#[tokio::test(start_paused = true)]
async fn lines_are_counted_by_the_client() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), "application/x-ndjson");
    let mut first = Client::open(&app, request("/")).await;
    feed.send("{\"n\":1}\n\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}");
    feed.end();
    let all = "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}";
    assert_eq!(first.rest().await, all);
    let id = first.id();
    for (query, expected) in [
        (String::new(), Some(all)),
        ("?after=0".to_owned(), Some(all)),
        ("?after=2".to_owned(), Some(&all[16..])),
        ("?x=1&after=1.3".to_owned(), Some(&all[24..])),
        (format!("?after={id}.1.3"), Some(&all[24..])),
        ("?after=5".to_owned(), None),
    ] {
        let request = request(&format!("/streams/{id}{query}"));
        let Some(expected) = expected else {
            assert_eq!(status_of(&app, request).await, StatusCode::NO_CONTENT);
            continue;
        };
        let mut again = Client::open(&app, request).await;
        assert_eq!(again.rest().await, expected, "{query}");
    }
    // The header wins.
    let mut both = with_cursor(&format!("/streams/{id}?after=1"), "1.3");
    let mut again = Client::open(&app, both).await;
    assert_eq!(again.rest().await, &all[24..]);
    for bad in ["x", "1.x", "-1", "", "1.2.3"] {
        both = request(&format!("/streams/{id}?after={bad}"));
        assert_eq!(
            status_of(&app, both).await,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_dialect_get_no_ids() {
    let resume = resume(Memory::new());
    let dialect = Dialect::OPENAI_CHAT;
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let app = app.layer(axum::middleware::map_response(
        move |mut response: axum::response::Response| async move {
            response.extensions_mut().insert(dialect);
            response
        },
    ));
    // Outside of the layer the dialect comes too late: the layer then takes it for plain events.
    let first = Client::open(&app, request("/")).await;
    drop(first);
    feed.end();

    let feed = super::support::Feed::default();
    let handler = {
        let feed = feed.clone();
        move || {
            let body = feed.response_body();
            async move { (axum::Extension(dialect), [("content-type", SSE)], body) }
        }
    };
    let app = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(resume.layer())
        .nest_service("/streams", resume.routes());
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: {}\n\ndata: [DONE]\n\n");
    feed.end();
    assert_eq!(first.rest().await, "data: {}\n\ndata: [DONE]\n\n");
    let path = format!("/streams/{}?after=1", first.id());
    let mut again = Client::open(&app, request(&path)).await;
    assert_eq!(again.rest().await, "data: [DONE]\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_off_and_other_responses_change_nothing() {
    let resume = resume(Memory::new());
    for (layer, content_type) in [(ResumeLayer::off(), SSE), (resume.layer(), "text/html")] {
        let (app, feed) = app(&resume, layer, content_type);
        let mut first = Client::open(&app, request("/")).await;
        feed.send("id: 1\ndata: 1\n\n");
        feed.end();
        assert_eq!(first.rest().await, "id: 1\ndata: 1\n\n");
        assert!(!first.response.headers().contains_key("stream-id"));
    }
    assert_eq!(resume.stats().created, 0);
}
