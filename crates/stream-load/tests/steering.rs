//! Reuse of connections, and runs that are watched, redirected and stopped.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Parser;
use parking_lot::{Mutex, RwLock};
use stream_load::{Args, Ending, Load, Stream, Watch, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// A server that counts its connections.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `serve` for each connection on a task of its own.
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self { addr, connections }
    }

    /// Answers each request with `answer`. Closes a connection after `requests` of them without announcing it.
    async fn answering(answer: &'static str, requests: usize) -> Self {
        Self::start(move |stream| serve(stream, answer, requests)).await
    }

    fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }
}

async fn serve(mut stream: TcpStream, answer: &'static str, requests: usize) {
    let mut request = Vec::new();
    for _ in 0..requests {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                return;
            }
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn args(url: &str, more: &[&str]) -> Args {
    let args = ["stream-load", url, "--no-progress"];
    Args::parse_from(args.iter().chain(more))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_kept_alive_serves_all_streams() {
    let server = Server::answering(OK, usize::MAX).await;
    let more = ["-n", "2", "--total", "500", "--keep-alive"];
    let report = run(&args(&server.url(), &more)).await.unwrap();
    assert_eq!(report.count(Ending::Whole), 500, "{report}");
    assert_eq!(server.connections.load(Relaxed), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let server = Server::answering(OK, 2).await;
    // Slow enough for the client to see that the connection has closed.
    let more = ["-n", "1", "--total", "9", "--rate", "50", "--keep-alive"];
    let report = run(&args(&server.url(), &more)).await.unwrap();
    assert_eq!(report.count(Ending::Whole), 9, "{report}");
    assert_eq!(server.connections.load(Relaxed), 5);
}

/// Sends a GOAWAY with the response head on each connection, and ends that response 100 ms later.
async fn serves_one_stream_a_connection() -> Server {
    Server::start(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::new(());
            let mut body = respond.send_response(head, false).unwrap();
            connection.graceful_shutdown();
            tokio::spawn(async move {
                sleep(Duration::from_millis(100)).await;
                body.send_data(bytes::Bytes::from("a"), true).unwrap();
            });
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_came_after_the_goaway_goes_over_another_connection() {
    let server = serves_one_stream_a_connection().await;
    // Each stream starts while the connection of the previous one is still open.
    let more = ["-n", "4", "--total", "8", "--rate", "20", "--http", "2"];
    let report = run(&args(&server.url(), &more)).await.unwrap();
    assert_eq!(report.count(Ending::Whole), 8, "{report}");
    // Eight connections, unless a stream started before the client read the GOAWAY of its connection.
    let connections = server.connections.load(Relaxed);
    assert!((2..=8).contains(&connections), "{connections}");
}

#[derive(Default)]
struct Seen {
    opened: AtomicUsize,
    ended: Mutex<Vec<(Ending, u64, u64, String)>>,
}

impl Watch for Seen {
    fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    fn ended(&self, stream: &Stream<'_>) {
        assert!(stream.started <= stream.first_chunk.unwrap());
        assert!(stream.first_chunk < stream.last_chunk);
        let last = String::from_utf8_lossy(stream.last_record).into_owned();
        let seen = (stream.ending, stream.records, stream.farewells, last);
        self.ended.lock().push(seen);
    }
}

/// Sends two chunks, 20 ms apart.
async fn farewell() -> Server {
    Server::start(|mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let first = format!("{head}data: 1\n\n");
        stream.write_all(first.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(20)).await;
        stream
            .write_all(b"event: drain\ndata: {}\n\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await
}

#[tokio::test]
async fn each_stream_is_reported_once() {
    let seen = Arc::new(Seen::default());
    let load = Load::new(args(&farewell().await.url(), &["-n", "3"])).unwrap();
    let mut running = load.watch(Arc::clone(&seen)).start().await.unwrap();
    running.ended().await;
    assert_eq!(seen.opened.load(Relaxed), 3);
    let last = "event: drain\ndata: {}\n\n".to_owned();
    assert_eq!(*seen.ended.lock(), vec![(Ending::Drained, 2, 1, last); 3]);
    assert_eq!(running.finish().await.count(Ending::Drained), 3);
}

/// Answers each request after 20 ms, and records how many requests waited at the same time.
async fn slow_heads() -> (Server, Arc<AtomicUsize>) {
    let waiting = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let at_most = Arc::clone(&most);
    let server = Server::start(move |mut stream| {
        let waiting = Arc::clone(&waiting);
        at_most.fetch_max(waiting.fetch_add(1, Relaxed) + 1, Relaxed);
        async move {
            sleep(Duration::from_millis(500)).await;
            waiting.fetch_sub(1, Relaxed);
            stream.write_all(OK.as_bytes()).await.unwrap();
            while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
        }
    });
    (server.await, most)
}

#[tokio::test]
async fn so_many_streams_wait_for_their_heads() {
    let (server, most) = slow_heads().await;
    for (options, expected) in [
        (["-n", "8", "--opening", "3"], 3),
        (["-n", "8", "--total", "8"], 8),
    ] {
        most.store(0, Relaxed);
        let report = run(&args(&server.url(), &options)).await.unwrap();
        assert_eq!(report.count(Ending::Whole), 8, "{report}");
        assert_eq!(most.load(Relaxed), expected);
    }
}

#[tokio::test]
async fn new_connections_go_where_they_are_sent() {
    let (old, new) = (
        Server::answering(OK, 1).await,
        Server::answering(OK, 1).await,
    );
    let next = Arc::new(RwLock::new(old.addr));
    let load = Load::new(args("http://service/", &["-n", "2", "--duration", "1h"])).unwrap();
    let address = Arc::clone(&next);
    let mut running = load
        .connect_to(move || *address.read())
        .start()
        .await
        .unwrap();
    while old.connections.load(Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    *next.write() = new.addr;
    while new.connections.load(Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    running.stop();
    running.ended().await;
    let report = running.finish().await;
    assert!(report.streams() > 0);
    assert_eq!(report.count(Ending::Whole), report.streams(), "{report}");
}

#[tokio::test]
async fn streams_that_are_left_are_running_and_counted() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello";
    let server = Server::answering(endless, usize::MAX).await;
    // Each stream lets the next one start as soon as its response head arrives.
    let more = ["-n", "3", "--opening", "1"];
    let running = Load::new(args(&server.url(), &more)).unwrap();
    let running = running.start().await.unwrap();
    while server.connections.load(Relaxed) < 3 {
        sleep(Duration::from_millis(1)).await;
    }
    let report = running.finish().await;
    assert_eq!((report.streams(), report.count(Ending::Running)), (3, 3));
}
