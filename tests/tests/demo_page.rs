//! The page of the demo server and what protects it: `/`, `/bare`, `/live`, requests of foreign pages, `Host` of the admin
//! listener.

use std::{error::Error, net::SocketAddr, time::Duration};

use demo_server::{Args, Server};
use e2e::{End, PATIENCE, Protocol, Request, Response, h1, start_demo};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

async fn send(addr: SocketAddr, request: Request) -> Result<Response, End> {
    Protocol::Http11.send(addr, &request).await
}

/// The status that these bytes get.
async fn status_of(addr: SocketAddr, bytes: &str) -> Result<u16, Box<dyn Error>> {
    let mut connection = h1::Connection::open(addr).await?;
    connection.send_raw(bytes.as_bytes()).await?;
    let response = connection.reply().await?.finish().await;
    Ok(response.status())
}

async fn may_drain() -> std::io::Result<Server> {
    start_demo(Args {
        page_may_drain: true,
        admin_host: vec!["demo.example".to_owned()],
        advertise: Duration::ZERO,
        ..Args::default()
    })
    .await
}

#[tokio::test]
async fn the_page_is_complete_and_may_run_only_its_own_files() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let page = send(server.public_addr(), Request::get("/")).await?;
    assert_eq!(page.status(), 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");

    // Each script names those that it imports.
    let mut waiting = vec![page.text()];
    let mut seen = Vec::new();
    while let Some(text) = waiting.pop() {
        for quoted in text.split(['"', '\'']) {
            let file = quoted.strip_prefix("./").unwrap_or(quoted);
            let file = file.strip_prefix("/page/").unwrap_or(file).to_owned();
            let kind = match file.rsplit_once('.') {
                Some((_, "css")) => "text/css",
                Some((_, "js")) => "text/javascript",
                Some((_, "svg")) => "image/svg+xml",
                _ => continue,
            };
            if seen.contains(&file) {
                continue;
            }
            let part = send(server.public_addr(), Request::get(&format!("/page/{file}"))).await?;
            assert_eq!(part.status(), 200, "{file}");
            assert_eq!(part.header("content-type"), Some(kind), "{file}");
            assert_eq!(part.header("x-content-type-options"), Some("nosniff"));
            assert!(part.body().len() > 100, "{file}");
            seen.push(file);
            waiting.push(part.text());
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    let unknown = send(server.public_addr(), Request::get("/page/other.js")).await?;
    assert_eq!(unknown.status(), 404);
    Ok(())
}

#[tokio::test]
async fn below_bare_are_the_same_routes_without_layers() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for route in [
        "/events?count=1",
        "/lines?count=1",
        "/bytes?size=10",
        "/promise?size=10",
        "/fail?how=panic-drop",
        "/whoami",
        "/v1/models",
        "/",
        "/page/main.js",
    ] {
        let layered = send(server.public_addr(), Request::get(route)).await?;
        let bare = format!("/bare{}", route.trim_end_matches('/'));
        let bare = send(server.public_addr(), Request::get(&bare)).await?;
        assert_eq!((layered.status(), bare.status()), (200, 200), "{route}");
        assert!(layered.header("x-request-id").is_some(), "{route}");
        assert_eq!(bare.header("x-request-id"), None, "{route}");
        assert_eq!(bare.header("content-type"), layered.header("content-type"));
    }
    let chat = r#"{"model":"demo","messages":[{"role":"user","content":"hello"}]}"#;
    let chat = Request::post("/bare/v1/chat/completions", chat);
    let chat = send(
        server.public_addr(),
        chat.header("content-type", "application/json"),
    )
    .await?;
    assert_eq!((chat.status(), chat.header("x-request-id")), (200, None));
    let unknown = send(server.public_addr(), Request::get("/bare/nothing")).await?;
    assert_eq!(unknown.status(), 404);

    let broken = "/fail?how=panic-body&after=1";
    let layered = send(server.public_addr(), Request::get(broken)).await?;
    assert!(layered.end.is_whole() && layered.text().contains("event: error"));
    let bare = send(
        server.public_addr(),
        Request::get(&format!("/bare{broken}")),
    )
    .await?;
    assert!(bare.end.is_cut() && !bare.text().contains("event: error"));
    Ok(())
}

/// The first figures of `/live` that satisfy a condition, of the first sixty.
async fn live(server: &Server, good: impl Fn(&Value) -> bool) -> Result<Value, Box<dyn Error>> {
    let mut connection = h1::Connection::open(server.public_addr()).await?;
    connection.send(&Request::get("/live")).await?;
    let mut reply = connection.reply().await.map_err(|end| end.to_string())?;
    assert_eq!(
        reply.head().headers.get("content-type"),
        Some("text/event-stream")
    );
    for _ in 0..60 {
        let Some(chunk) = reply.chunk().await else {
            return Err("the stream ended".into());
        };
        let text = String::from_utf8(chunk.data.to_vec())?;
        let data = text.lines().find_map(|line| line.strip_prefix("data: "));
        let figures: Value = serde_json::from_str(data.ok_or("an event without data")?)?;
        if good(&figures) {
            return Ok(figures);
        }
    }
    Err("never".into())
}

#[tokio::test]
async fn live_figures_follow_what_the_server_does() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let idle = live(&server, |_| true).await?;
    assert_eq!(idle["state"], "active");
    assert_eq!(
        idle["active"], 0.0,
        "the stream of figures is not among them"
    );
    assert_eq!(idle["first_chunk_ms"]["p50"], Value::Null);
    assert_eq!(idle["may_drain"], false);
    assert_eq!(
        (&idle["slow_readers"], &idle["write_stall_ms"]),
        (&0.0.into(), &30_000.into())
    );

    let get = |target: &'static str| send(server.public_addr(), Request::get(target));
    get("/events?count=9&interval_ms=1").await?;
    get("/fail?how=panic-body&after=2").await?;
    get("/fail?how=error-body&after=2").await?;
    let mut open = h1::Connection::open(server.public_addr()).await?;
    open.send(&Request::get("/events?count=0&interval_ms=20"))
        .await?;
    open.reply().await?.chunk().await;
    let busy = live(&server, |figures| {
        let outcomes = &figures["outcomes"];
        outcomes["complete"] == 1.0 && outcomes["panic"] == 1.0 && outcomes["error"] == 1.0
    })
    .await?;
    assert_eq!(busy["active"], 1.0, "{busy}");
    // That of /live, and the open one; another may not have been closed yet.
    assert!(busy["connections"].as_u64() >= Some(2), "{busy}");
    assert_eq!(busy["first_chunk_ms"]["count"], 4.0, "{busy}");
    assert!(busy["first_chunk_ms"]["p99"].as_f64() > Some(0.0), "{busy}");
    let rows = busy["gaps_by_index"]["rows"].as_array().ok_or("no rows")?;
    let indexes: Vec<_> = rows.iter().map(|row| row["index"].as_u64()).collect();
    assert!(
        indexes.starts_with(&[Some(1), Some(2), Some(4), Some(8)]),
        "{busy}"
    );
    let bounds = busy["gaps_by_index"]["upper_ms"]
        .as_array()
        .ok_or("no bounds")?;
    let counts = rows[3]["counts"].as_array().ok_or("no counts")?;
    assert_eq!(bounds.len(), counts.len());
    drop(open);
    live(&server, |figures| {
        // The connection of this stream is the only one that is left.
        figures["active"] == 0.0
            && figures["outcomes"]["aborted"] == 1.0
            && figures["connections"] == 1
    })
    .await?;
    Ok(())
}

/// Fields of requests that a page of this server sends (or no page), and of those that another page sends.
fn own_and_foreign(host: &str) -> ([String; 6], [String; 9]) {
    let own = [
        String::new(),
        format!("origin: http://{host}\r\n"),
        format!("origin: https://{host}\r\n"),
        format!("origin: http://{host}\r\nsec-fetch-site: same-origin\r\n"),
        "sec-fetch-site: same-origin\r\n".to_owned(),
        "sec-fetch-site: none\r\n".to_owned(),
    ];
    let foreign = [
        "origin: null\r\n".to_owned(),
        "origin: http://evil.example\r\n".to_owned(),
        format!("origin: http://{host}.evil.example\r\n"),
        format!("origin: ftp://{host}\r\n"),
        // Another port of the same host is the same site, and another origin.
        "origin: http://localhost:1\r\nsec-fetch-site: same-site\r\n".to_owned(),
        "sec-fetch-site: same-site\r\n".to_owned(),
        "sec-fetch-site: cross-site\r\n".to_owned(),
        format!("origin: http://{host}\r\nsec-fetch-site: cross-site\r\n"),
        format!("origin: http://{host}\r\norigin: http://evil.example\r\n"),
    ];
    (own, foreign)
}

#[tokio::test]
async fn a_foreign_page_changes_nothing_on_either_listener() -> Outcome {
    let server = may_drain().await?;
    let (own, foreign) = own_and_foreign("localhost:8080");
    let post = |target: &str, fields: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nhost: localhost:8080\r\ncontent-length: 0\r\n{fields}\r\n"
        )
    };
    let public = server.public_addr();
    for target in ["/v1/chat/completions", "/bare/v1/chat/completions"] {
        for fields in &own {
            // An empty body is no chat.
            assert_eq!(
                status_of(public, &post(target, fields)).await?,
                400,
                "{fields}"
            );
        }
        for fields in &foreign {
            assert_eq!(
                status_of(public, &post(target, fields)).await?,
                403,
                "{target} {fields}"
            );
        }
    }
    for addr in [public, server.admin_addr()] {
        for fields in &foreign {
            assert_eq!(
                status_of(addr, &post("/drain", fields)).await?,
                403,
                "{fields}"
            );
        }
        assert!(!server.drain().state().is_draining());
        // What changes nothing may be read from anywhere: the browser keeps the response from a foreign page.
        for fields in &foreign {
            let target = if addr == public { "/whoami" } else { "/status" };
            let get = format!("GET {target} HTTP/1.1\r\nhost: localhost:8080\r\n{fields}\r\n");
            assert_eq!(status_of(addr, &get).await?, 200, "{fields}");
        }
    }
    // Over HTTP/2 the name is in `:authority`.
    let h2 = |origin: String| Request::post("/drain", "").header("origin", &origin);
    let foreign = h2("http://localhost:1".to_owned());
    assert_eq!(Protocol::Http2.send(public, &foreign).await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn the_page_may_drain_only_if_it_was_told_so() -> Outcome {
    let closed = start_demo(Args::default()).await?;
    let answer = send(closed.public_addr(), Request::post("/drain", "")).await?;
    assert_eq!(answer.status(), 404);
    assert!(!closed.drain().state().is_draining());

    let server = may_drain().await?;
    let addr = server.public_addr();
    assert_eq!(live(&server, |_| true).await?["may_drain"], true);
    let origin = format!("http://{addr}");
    let request = Request::post("/drain", "").header("origin", &origin);
    let own = request.header("sec-fetch-site", "same-origin");
    let answer = Protocol::Http2.send(addr, &own).await?;
    assert_eq!(answer.status(), 202);
    assert!(server.drain().state().is_draining());
    Ok(())
}

#[tokio::test]
async fn an_open_page_does_not_hold_a_drain_to_its_deadline() -> Outcome {
    let server = start_demo(Args {
        advertise: Duration::ZERO,
        deadline: Duration::from_secs(3600),
        early_end_window: Some(Duration::from_millis(10)),
        ..Args::default()
    })
    .await?;
    let mut page = h1::Connection::open(server.public_addr()).await?;
    page.send(&Request::get("/live")).await?;
    let mut reply = page.reply().await?;
    reply.chunk().await;
    let stopping = tokio::spawn(server.shutdown());
    // Not before the deadline, if the stream does not end early.
    let rest = tokio::time::timeout(PATIENCE, reply.finish()).await?;
    assert!(
        rest.end.is_whole() && rest.text().contains("event: drain"),
        "{rest:?}"
    );
    assert!(stopping.await??.is_clean());
    Ok(())
}

#[tokio::test]
async fn the_admin_listener_answers_to_its_own_names_only() -> Outcome {
    let server = may_drain().await?;
    let addr = server.admin_addr();
    let get = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    for host in [
        "host: localhost\r\n",
        "host: LOCALHOST:3001\r\n",
        "host: 10.1.2.3\r\n",
        "host: 127.0.0.1:8080\r\n",
        "host: [::1]:3001\r\n",
        "host: [2001:db8::1]\r\n",
        "host: demo.example\r\n",
        "host: Demo.Example:3001\r\n",
        "host:\r\n",
        "",
    ] {
        assert_eq!(status_of(addr, &get("/status", host)).await?, 200, "{host}");
        assert_eq!(
            status_of(addr, &get("/metrics", host)).await?,
            200,
            "{host}"
        );
    }
    for host in [
        "host: evil.example\r\n",
        "host: evil.example:3001\r\n",
        "host: localhost.evil.example\r\n",
        "host: a@localhost\r\n",
        "host: localhost:x\r\n",
        "host: 127.0.0.1.evil.example\r\n",
        "host: [::1\r\n",
        "host: localhost\r\nhost: evil.example\r\n",
        "host: other.demo.example\r\n",
        "host: 2130706433\r\n",
    ] {
        assert_eq!(status_of(addr, &get("/status", host)).await?, 403, "{host}");
        assert_eq!(
            status_of(addr, &get("/metrics", host)).await?,
            403,
            "{host}"
        );
        assert_eq!(status_of(addr, &get("/livez", host)).await?, 200, "{host}");
        assert_eq!(status_of(addr, &get("/readyz", host)).await?, 200, "{host}");
        let post = format!("POST /drain HTTP/1.1\r\ncontent-length: 0\r\n{host}\r\n");
        assert_eq!(status_of(addr, &post).await?, 403, "{host}");
    }
    let absolute = "GET http://evil.example/status HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert_eq!(status_of(addr, absolute).await?, 403);
    assert_eq!(status_of(addr, "GET /status HTTP/1.0\r\n\r\n").await?, 200);
    assert_eq!(
        status_of(addr, "POST /drain HTTP/1.0\r\ncontent-length: 0\r\n\r\n").await?,
        403
    );
    assert!(!server.drain().state().is_draining());

    // The public listener has any name that its users give it.
    let get = "GET /whoami HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    assert_eq!(status_of(server.public_addr(), get).await?, 200);
    Ok(())
}
