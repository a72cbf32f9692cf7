//! Which connections are accepted.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_handler_gets_its_connect_info() {
    let rig = Rig::start(|server| server);
    let response = rig.connect().get("/peer", ":4000").await;
    assert!(response.ends_with("\r\n\r\n192.0.2.1:4000"), "{response}");
}

/// A listener with a step after the connection is there, as a TLS handshake is one.
struct InTwoSteps(Pipes);

impl Listener for InTwoSteps {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        let accepted = self.0.accept().await;
        sleep(SECOND).await;
        accepted
    }
}

#[tokio::test(start_paused = true)]
async fn an_accept_that_is_not_safe_to_cancel_loses_nothing() {
    let drain = Drain::builder().build();
    let (connect, pipes) = mpsc::unbounded_channel();
    let routes = Router::new().route("/", get(|| async { "hello" }));
    let server = serve(InTwoSteps(Pipes(pipes)), routes)
        .drain(&drain)
        .without_signals();
    tokio::spawn(server.into_future());
    for _ in 0..100 {
        let (client, server) = duplex(1024);
        connect
            .send((server, SocketAddr::from(([192, 0, 2, 1], 1))))
            .unwrap();
        let mut client = Client {
            io: client,
            began: Instant::now(),
        };
        // ends its connection while the next one is being accepted
        let (next, server) = duplex(1024);
        connect
            .send((server, SocketAddr::from(([192, 0, 2, 1], 2))))
            .unwrap();
        assert!(client.get("/", "hello").await.ends_with("hello"));
        drop(client);
        let mut next = Client {
            io: next,
            began: Instant::now(),
        };
        assert!(next.get("/", "hello").await.ends_with("hello"));
    }
}

#[tokio::test(start_paused = true)]
async fn one_more_than_max_connections_waits_for_its_turn() {
    let rig = Rig::start(|server| server.max_connections(2));
    let mut one = rig.connect();
    let mut two = rig.connect();
    one.get("/", "hello").await;
    two.get("/", "hello").await;
    let mut three = rig.connect();
    let waiting = timeout(SECOND, three.get("/", "hello")).await;
    assert!(waiting.is_err(), "there is no place");
    drop(one);
    let mut response = Vec::new();
    three.io.read_buf(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_client_above_its_share_is_closed_and_its_neighbour_is_not() {
    let rig = Rig::start(|server| server.max_connections_per_client(1));
    let mut one = rig.connect_from("192.0.2.1");
    one.get("/", "hello").await;
    let (received, took) = rig.connect_from("192.0.2.1").closed().await;
    assert_eq!((received.len(), took), (0, Duration::ZERO));
    let other = rig.connect_from("192.0.2.2").get("/", "hello").await;
    assert!(other.ends_with("hello"));
    drop(one);
    sleep(SECOND).await;
    let again = rig.connect_from("192.0.2.1").get("/", "hello").await;
    assert!(again.ends_with("hello"), "a place came free");
}

#[tokio::test(start_paused = true)]
async fn a_head_above_the_limit_is_answered_431() {
    let rig = Rig::start(|server| server.max_header_size(10_000));
    for (length, status) in [(5_000, "200"), (12_000, "431")] {
        let mut client = rig.connect();
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n",
                "x".repeat(length)
            ))
            .await;
        let (received, _) = client.closed().await;
        let received = String::from_utf8(received).unwrap();
        assert_eq!(received.get(9..12), Some(status), "{received}");
    }
}

/// Rapid reset (CVE-2023-44487): it loses its connection, and a neighbour does not notice.
#[tokio::test(start_paused = true)]
async fn a_client_that_resets_its_streams_is_sent_away() {
    let rig = Rig::start(|server| server);
    let mut neighbour = rig.connect();
    neighbour.get("/", "hello").await;
    let mut client = rig.connect();
    client.send(H2_START).await;
    let mut flood = Vec::new();
    for stream in (1..20_000_u32).step_by(2) {
        flood.extend(b"\0\0\x03\x01\x05");
        flood.extend(stream.to_be_bytes());
        flood.extend(b"\x82\x86\x84\0\0\x04\x03\0");
        flood.extend(stream.to_be_bytes());
        flood.extend(8_u32.to_be_bytes()); // CANCEL
    }
    let _ = client.io.write_all(&flood).await;
    let (received, _) = client.closed().await;
    let enhance_your_calm = 11_u32.to_be_bytes();
    assert!(h2_frames(&received).contains(&7), "no GOAWAY");
    assert!(received.windows(4).any(|bytes| bytes == enhance_your_calm));
    neighbour.get("/", "hello").await;
    rig.idle().await;
}
