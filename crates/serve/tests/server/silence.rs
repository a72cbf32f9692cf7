//! Clients that fall silent.

use super::*;

/// What a client may send and never finish.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    b"P",
    b"PRI * HTTP/2",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    H2_START,
    b"GET / HTTP/1.1\r\nhost: ",
];

const GOAWAY: u8 = 7;

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_sent_a_head_ends_at_the_header_timeout() {
    let rig = Rig::start(|server| server);
    for beginning in BEGINNINGS {
        let mut client = rig.connect();
        client.send(beginning).await;
        let (_, took) = client.closed().await;
        assert_eq!(took.as_secs(), 10, "{beginning:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_header_timeout_it_does_not() {
    let rig = Rig::start(|server| server.header_timeout(None).ping_interval(None));
    for beginning in BEGINNINGS {
        let mut client = rig.connect();
        client.send(beginning).await;
        let closed = timeout(10_000 * SECOND, client.closed()).await;
        assert!(closed.is_err(), "{beginning:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_one() {
    for beginning in BEGINNINGS {
        let rig = Rig::start(|server| server.header_timeout(None).idle_timeout(None));
        let mut client = rig.connect();
        client.send(beginning).await;
        sleep(SECOND).await;
        let took = rig.drained().await;
        assert!(took < 1200 * SECOND / 1000, "{beginning:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_ends_at_the_idle_timeout() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    client.get("/", "hello").await;
    sleep(70 * SECOND).await;
    client.get("/", "hello").await;
    let (_, took) = client.closed().await;
    assert_eq!(took.as_secs(), 145, "75 s after the second response");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_ends_at_the_header_timeout() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    client.get("/", "hello").await;
    sleep(30 * SECOND).await;
    let trickle = async {
        // Sends a byte a second, as Slowloris does.
        while client.io.write_all(b"G").await.is_ok() {
            sleep(SECOND).await;
        }
        client.began.elapsed()
    };
    let took = trickle.await;
    assert!((40..=41).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_take_longer_than_both() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    let response = client.get("/slow", "slow").await;
    assert!(response.ends_with("slow"), "{response}");
    assert_eq!(client.closed().await.1.as_secs(), 275);
}

/// Returns a response that does not fit the pipe of [`Rig::connect_from`].
fn large() -> Router {
    Router::new().route("/large", get(|| async { "x".repeat(LARGE) }))
}

const LARGE: usize = 120_000;

/// Asks for [`large`], and reads the response 20 s later.
async fn read_late(client: &mut Client) -> Vec<u8> {
    client.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(20 * SECOND).await;
    client.closed().await.0
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_not_read_its_whole_response_is_not_idle() {
    let rig = Rig::start_with(large(), |server| server.idle_timeout(5 * SECOND));
    let mut client = rig.connect();
    let response = read_late(&mut client).await;
    assert!(response.len() > LARGE, "{}", response.len());
    let took = client.began.elapsed();
    assert_eq!(took.as_secs(), 25, "5 s after the end of the response");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_client_that_has_not_read_its_whole_response() {
    let rig = Rig::start_with(large(), |server| server);
    let mut client = rig.connect();
    let (response, _) = tokio::join!(read_late(&mut client), async {
        sleep(SECOND).await;
        rig.drained().await
    });
    assert!(response.len() > LARGE, "{}", response.len());
    assert_eq!(client.began.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_told_and_ends() {
    let rig = Rig::start(|server| server.ping_interval(None));
    let mut client = rig.connect();
    client.send([H2_START, H2_GET].concat()).await;
    let (received, took) = client.closed().await;
    assert!(h2_frames(&received).contains(&GOAWAY));
    assert_eq!(took.as_secs(), 76, "a second after the GOAWAY");
}

#[tokio::test(start_paused = true)]
async fn pings_find_an_http2_client_that_has_vanished() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    // `:path: /never`, a literal that is not indexed
    let headers = b"\0\0\x0a\x01\x05\0\0\0\x01\x82\x86\x04\x06/never";
    client.send([H2_START, headers].concat()).await;
    let (_, took) = client.closed().await;
    assert_eq!(took.as_secs(), 40);
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_a_second_for_an_http2_client_that_has_vanished() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    client.send([H2_START, H2_GET].concat()).await;
    sleep(SECOND).await;
    let took = rig.drained().await;
    assert!(took < 2 * SECOND, "{took:?}");
    let (received, _) = client.closed().await;
    assert!(h2_frames(&received).contains(&GOAWAY));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_closed_before_the_close() {
    let rig = Rig::start(|server| server);
    let mut client = rig.connect();
    client.get("/", "hello").await;
    let began = Instant::now();
    let took = rig.drained().await;
    client.closed().await;
    assert!(
        (1000..1100).contains(&began.elapsed().as_millis()),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_request_on_a_connection_that_is_old_already_is_told_to_close() {
    let rig = Rig::start(|server| server.max_age(2 * SECOND));
    let mut client = rig.connect();
    sleep(5 * SECOND).await;
    let response = client.get("/", "hello").await;
    assert!(response.contains("connection: close\r\n"), "{response}");
}
