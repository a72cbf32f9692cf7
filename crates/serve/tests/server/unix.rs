//! Unix sockets. They are real ones, so the clock is not paused.

use std::{io::Write, os::unix, path::Path, sync::Arc};

use tokio::net::{UnixListener, UnixStream, unix::SocketAddr as UnixAddr};

use super::*;

struct Served {
    dir: tempfile::TempDir,
    drain: Drain,
    serving: JoinHandle<io::Result<Report>>,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let drain = Drain::builder()
            .advertise(Duration::ZERO)
            .deadline(60 * SECOND)
            .build();
        let peer = |ConnectInfo(peer): ConnectInfo<Arc<UnixAddr>>| async move {
            format!("{:?}", peer.as_pathname())
        };
        let routes = Router::new().route("/", get(peer)).layer(drain.layer());
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let server = serve(listener, routes).drain(&drain).without_signals();
        Self {
            serving: tokio::spawn(server.into_future()),
            dir,
            drain,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("socket")
    }
}

const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

async fn exchange(mut client: UnixStream, request: &[u8], end: &[u8]) -> Vec<u8> {
    client.write_all(request).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(end) {
        assert_ne!(client.read_buf(&mut response).await.unwrap(), 0);
    }
    response
}

#[tokio::test]
async fn requests_of_both_versions_are_served_and_handlers_get_the_peer() {
    let served = Served::start();
    let client = UnixStream::connect(served.path()).await.unwrap();
    let response = exchange(client, CLOSE, b"\r\n\r\nNone").await;
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));

    let client = UnixStream::connect(served.path()).await.unwrap();
    exchange(client, &[H2_START, H2_GET].concat(), b"None").await;

    // A client may have an address too.
    let own: &Path = &served.dir.path().join("client");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(own).unwrap();
    let client = socket.connect(served.path()).await.unwrap();
    exchange(client, CLOSE, format!("\r\n\r\nSome({own:?})").as_bytes()).await;
}

#[tokio::test]
async fn a_drain_serves_the_clients_that_wait_in_the_backlog() {
    let served = Served::start();
    // The server's task runs only when this one waits: it finds them when it closes its listener.
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = unix::net::UnixStream::connect(served.path()).unwrap();
            client.write_all(CLOSE).unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    served.drain.start();
    for client in clients {
        let client = UnixStream::from_std(client).unwrap();
        let response = exchange(client, b"", b"\r\n\r\nNone").await;
        assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    let report = served.serving.await.unwrap().unwrap();
    assert_eq!((report.connections, report.connections_aborted), (10, 0));
    assert!(
        UnixStream::connect(served.dir.path().join("socket"))
            .await
            .is_err()
    );
}
