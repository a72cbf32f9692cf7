//! The clients themselves, against servers that send exactly given bytes.

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::{Router, body::Body, routing::get};
use e2e::{End, Protocol, Request, h1, h2, serve};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Reads one request, writes `answer` in pieces of `piece` bytes, then does what `after` says with the socket.
async fn scripted<F>(
    answer: &'static [u8],
    piece: usize,
    after: fn(TcpStream) -> F,
) -> std::io::Result<SocketAddr>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
        for bytes in answer.chunks(piece) {
            stream.write_all(bytes).await.unwrap();
            tokio::task::yield_now().await;
        }
        after(stream).await;
    });
    Ok(addr)
}

async fn close(mut stream: TcpStream) {
    stream.shutdown().await.unwrap();
}

async fn keep_open(_stream: TcpStream) {
    pending::<()>().await;
}

async fn rst(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn exchange(addr: SocketAddr, request: &Request) -> Result<(Vec<String>, End), End> {
    let mut connection = h1::Connection::open(addr).await?;
    connection.set_patience(Duration::from_millis(200));
    connection.send(request).await?;
    let response = connection.reply().await?.finish().await;
    let chunks = response
        .chunks
        .iter()
        .map(|chunk| String::from_utf8_lossy(&chunk.data).into_owned())
        .collect();
    Ok((chunks, response.end))
}

#[tokio::test]
async fn h1_says_how_a_body_ended() -> Outcome {
    #[rustfmt::skip]
    let table: [(&[u8], &str, End); 9] = [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", "abc|de", End::LastChunk),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "abc", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "abc", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\nde", "abc", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde", "abcde", End::Length),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcde", "abcde", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", End::Length),
        (b"HTTP/1.0 200 OK\r\n\r\nabcde", "abcde", End::Closed),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "", End::NoBody),
    ];
    for (answer, expected, end) in table {
        for piece in [1, 7, answer.len()] {
            let (chunks, got) =
                exchange(scripted(answer, piece, close).await?, &Request::get("/")).await?;
            // If the framing has no pieces, the pieces are what each read returned, so only their concatenation is
            // compared.
            let shown = if answer.windows(7).any(|w| w == b"chunked") {
                chunks.join("|")
            } else {
                chunks.concat()
            };
            assert_eq!(
                (shown.as_str(), &got),
                (expected, &end),
                "{} by {piece}",
                answer.escape_ascii()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn h1_says_how_it_ended_before_a_head() -> Outcome {
    for (answer, end) in [
        (&b""[..], End::Closed),
        (b"HTTP/1.1 20", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nA:", End::Truncated),
    ] {
        let got = exchange(scripted(answer, 64, close).await?, &Request::get("/")).await;
        assert_eq!(got, Err(end), "{}", answer.escape_ascii());
    }
    for answer in [
        &b"hello there\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let got = exchange(scripted(answer, 64, close).await?, &Request::get("/")).await;
        assert!(
            matches!(got, Err(End::Malformed(_))),
            "{}: {got:?}",
            answer.escape_ascii()
        );
    }
    Ok(())
}

#[tokio::test]
async fn h1_tells_a_reset_and_a_stall_from_an_end() -> Outcome {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let (_, stalled) = exchange(scripted(ANSWER, 64, keep_open).await?, &Request::get("/")).await?;
    assert_eq!(stalled, End::Stalled);
    assert_eq!(
        exchange(scripted(b"", 64, keep_open).await?, &Request::get("/")).await,
        Err(End::Stalled)
    );
    assert_eq!(
        exchange(scripted(b"", 64, rst).await?, &Request::get("/")).await,
        Err(End::TcpReset)
    );
    let refused = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
    assert_eq!(
        exchange(refused, &Request::get("/")).await,
        Err(End::TcpReset)
    );
    Ok(())
}

#[tokio::test]
async fn h1_keeps_bytes_order_and_case() -> Outcome {
    const ANSWER: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 All Fine\r\nZ-Last: 1\r\na-FIRST:  2 \r\nz-last: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 9\r\n\r\n";
    let mut connection = h1::Connection::open(scripted(ANSWER, 5, close).await?).await?;
    connection.send_raw(b"GET / HTTP/1.1\r\n\r\n").await?;
    let response = connection.reply().await?.finish().await;
    assert_eq!(
        (response.status(), response.head.reason.as_str()),
        (200, "All Fine")
    );
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        response.head.headers.0[..3],
        [
            field("Z-Last", "1"),
            field("a-FIRST", "2"),
            field("z-last", "3")
        ]
    );
    assert_eq!(
        response.head.headers.all("Z-LAST").collect::<Vec<_>>(),
        ["1", "3"]
    );
    assert_eq!(response.trailers.0, [field("X-Sum", "9")]);
    assert_eq!(
        response.raw,
        ANSWER[b"HTTP/1.1 100 Continue\r\n\r\n".len()..]
    );
    assert_eq!(connection.received(), ANSWER);
    Ok(())
}

#[tokio::test]
async fn h1_reads_pipelined_answers_in_order_and_knows_head() -> Outcome {
    let app = Router::new()
        .route("/a", get(|| async { "first" }))
        .route("/b", get(|| async { "second" }));
    let server = serve(app).await?;
    let mut connection = h1::Connection::open(server.addr()).await?;
    for request in [
        Request::head("/a"),
        Request::get("/b"),
        Request::get("/a").header("Connection", "close"),
    ] {
        connection.send(&request).await?;
    }
    let head = connection.reply().await?.finish().await;
    assert_eq!(
        (head.header("content-length"), &head.end),
        (Some("5"), &End::NoBody)
    );
    assert_eq!(connection.reply().await?.finish().await.text(), "second");
    assert_eq!(connection.reply().await?.finish().await.text(), "first");
    assert_eq!(connection.closed().await, (End::Closed, "".into()));
    Ok(())
}

/// 64 KiB pieces for as long as they are asked for.
fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| {
        Ok::<_, std::io::Error>(vec![b'x'; 64 * 1024])
    }))
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_server_up() -> Outcome {
    let server = serve(Router::new().route("/", get(|| async { endless() }))).await?;

    let mut connection = h1::Connection::open_with_receive_buffer(server.addr(), 4096).await?;
    connection.send(&Request::get("/")).await?;
    let mut reply = connection.reply().await?;
    assert!(
        reply.chunk().await.is_some(),
        "an endless body gives its first piece"
    );

    let mut connection = h2::Connection::open_with_window(server.addr(), 100_000).await?;
    connection.set_patience(Duration::from_millis(200));
    let stalled = connection.send(&Request::get("/")).await?;
    let id = stalled.id();
    let mut reply = stalled.reply().await?;
    let sent = |connection: &h2::Connection| -> usize {
        let data = connection
            .frames()
            .into_iter()
            .filter(|f| f.stream == id && f.kind == h2::FrameKind::Data);
        data.map(|frame| frame.length).sum()
    };
    // The server sends one window of data on the stalled stream, while another stream continues.
    let mut other = connection.send(&Request::get("/")).await?.reply().await?;
    for _ in 0..20 {
        assert!(
            other.chunk().await.is_some(),
            "a stalled neighbour holds nothing up"
        );
    }
    assert_eq!(sent(&connection), 100_000);
    // Reading a piece releases its part of the window.
    assert!(reply.chunk().await.is_some());
    while sent(&connection) == 100_000 {
        assert!(reply.chunk().await.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn h2_can_stop_reading_the_socket() -> Outcome {
    let server = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    assert_eq!(
        connection
            .send(&Request::get("/"))
            .await?
            .reply()
            .await?
            .finish()
            .await
            .text(),
        "hello"
    );
    connection.stop_reading();
    connection.set_patience(Duration::from_millis(100));
    let unread = connection.send(&Request::get("/")).await?;
    let before = connection.frames().len();
    assert_eq!(
        connection.frame(|f| f.stream == unread.id()).await,
        Err(End::Stalled)
    );
    assert_eq!(connection.frames().len(), before);
    connection.resume_reading();
    assert_eq!(unread.reply().await?.finish().await.text(), "hello");
    Ok(())
}

#[tokio::test]
async fn an_upload_can_be_sent_piece_by_piece() -> Outcome {
    let app = Router::new().route(
        "/",
        axum::routing::post(|body: String| async move { body.to_uppercase() }),
    );
    let server = serve(app).await?;
    for protocol in Protocol::ALL {
        assert_eq!(
            protocol
                .send(server.addr(), &Request::post("/", "whole"))
                .await?
                .text(),
            "WHOLE",
            "{protocol:?}"
        );
    }
    let mut connection = h2::Connection::open(server.addr()).await?;
    let mut stream = connection.send_open(&Request::post("/", "")).await?;
    stream.send_data("one ", false)?;
    stream.send_data("two", true)?;
    assert_eq!(stream.reply().await?.finish().await.text(), "ONE TWO");
    Ok(())
}

#[tokio::test]
async fn arrival_times_show_pacing() -> Outcome {
    let paced = || async {
        Body::from_stream(stream::unfold(0, |i| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (i < 3).then(|| (Ok::<_, std::io::Error>(format!("{i}")), i + 1))
        }))
    };
    let server = serve(Router::new().route("/", get(paced))).await?;
    for protocol in Protocol::ALL {
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert_eq!(response.text(), "012");
        assert!(
            response.spread() >= Duration::from_millis(20),
            "{protocol:?}: {:?}",
            response.chunks
        );
        assert!(response.chunks.is_sorted_by_key(|chunk| chunk.at));
    }
    Ok(())
}
