//! Every ending, recognized from what a scripted server sends.

use bytes::Bytes;
use clap::Parser;
use stream_load::{Args, Ending, Report, run};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";

/// Starts a server that answers every connection with these bytes, waits, and closes it (with a TCP RST if `reset`).
async fn h1(answer: String, reset: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                if reset {
                    // Lets the client read the answer before the reset discards it.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    stream.set_zero_linger().unwrap();
                }
            });
        }
    });
    format!("http://{address}/")
}

async fn load(url: &str, more: &[&str]) -> Report {
    let args = ["stream-load", "-n", "2", url, "--no-progress"];
    run(&Args::parse_from(args.iter().chain(more)))
        .await
        .unwrap()
}

fn chunked(chunks: &[&str]) -> String {
    let mut text = String::new();
    for chunk in chunks {
        text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    text
}

#[tokio::test]
async fn each_way_a_stream_can_end_over_http_1() {
    let sse = format!("{HEAD}content-type: text/event-stream\r\n\r\n");
    let lines = format!("{HEAD}content-type: application/x-ndjson\r\n\r\n");
    let md5 = format!("{HEAD}trailer: x-content-md5\r\n\r\n");
    let end = "0\r\n\r\n";
    let one = &chunked(&["data: 1\n\n"]);
    let hello = &chunked(&["hel", "lo"]);
    for (ending, answer, reset) in [
        (Ending::Whole, format!("{sse}{one}{end}"), false),
        (Ending::Cut, format!("{sse}{one}"), false),
        (Ending::Cut, format!("{sse}{one}"), true),
        (
            Ending::HalfRecord,
            format!("{sse}{}{end}", chunked(&["data: 1\n\nda"])),
            false,
        ),
        (
            Ending::InBandError,
            format!(
                "{sse}{one}{}{end}",
                chunked(&["event: error\ndata: {}\n\n"])
            ),
            false,
        ),
        (
            Ending::Drained,
            format!(
                "{sse}{one}{}{end}",
                chunked(&["event: drain\ndata: {}\n\n"])
            ),
            false,
        ),
        (
            Ending::InBandError,
            format!("{lines}{}{end}", chunked(&["{}\n{\"error\":{}}\n"])),
            false,
        ),
        (
            Ending::Whole,
            format!("{md5}{hello}0\r\nx-content-md5: 5d41402abc4b2a76b9719d911017c592\r\n\r\n"),
            false,
        ),
        (
            Ending::DigestMismatch,
            format!("{md5}{hello}0\r\nx-content-md5: 00000000000000000000000000000000\r\n\r\n"),
            false,
        ),
        (
            Ending::HalfRecord,
            format!(
                "{sse}{one}{}{end}",
                chunked(&["data: 2\n", "event: drain\ndata: {}\n\n"])
            ),
            false,
        ),
        (
            Ending::Cut,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello".to_owned(),
            false,
        ),
        (
            Ending::Status5xx,
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
        ),
        (
            Ending::Unexpected,
            "HTTP/1.1 301 Moved Permanently\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
        ),
        (
            Ending::Status4xx,
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
        ),
        (Ending::NoResponse, String::new(), false),
    ] {
        let report = load(&h1(answer.clone(), reset).await, &[]).await;
        assert_eq!(report.count(ending), 2, "{ending} for {answer:?}: {report}");
        assert_eq!(report.streams(), 2);
    }
}

#[tokio::test]
async fn what_is_expected_is_checked_of_whole_streams() {
    let sse = format!("{HEAD}content-type: text/event-stream\r\n\r\n");
    let events = format!(
        "{sse}{}0\r\n\r\n",
        chunked(&["data: 1\n\n", "data: [DONE]\n\n"])
    );
    let bytes = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_owned();
    for (ending, answer, more) in [
        (Ending::Whole, &events, ["--expect-records", "2"]),
        (Ending::Unexpected, &events, ["--expect-records", "3"]),
        (Ending::Whole, &events, ["--expect-bytes", "23"]),
        (Ending::Unexpected, &events, ["--expect-bytes", "22"]),
        (Ending::Whole, &events, ["--expect-last", "data: [DONE]"]),
        (Ending::Unexpected, &events, ["--expect-last", "data: 1"]),
        (Ending::Whole, &bytes, ["--expect-last", "lo"]),
        (Ending::Unexpected, &bytes, ["--expect-last", "hi"]),
        (Ending::Unexpected, &bytes, ["--expect-records", "1"]),
    ] {
        let report = load(&h1(answer.clone(), false).await, &more).await;
        assert_eq!(report.count(ending), 2, "{ending} for {more:?}: {report}");
        assert_eq!(report.verdict().is_pass(), ending == Ending::Whole);
    }
    // A more specific ending takes precedence over `Unexpected`.
    let cut = format!("{sse}{}", chunked(&["data: 1\n\n"]));
    let report = load(&h1(cut, false).await, &["--expect-records", "2"]).await;
    assert_eq!(report.count(Ending::Cut), 2, "{report}");
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let report = load(&url, &[]).await;
    assert_eq!(report.count(Ending::ConnectFailure), 2, "{report}");
    assert!(!report.verdict().is_pass());
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_and_a_run_that_is_over_is_not() {
    let silent = format!("{HEAD}\r\n{}", chunked(&["a"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(silent.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    let report = load(&url, &["--idle-timeout", "100ms"]).await;
    assert_eq!(report.count(Ending::Timeout), 2, "{report}");
    let report = load(&url, &["--timeout", "100ms"]).await;
    assert_eq!(report.count(Ending::Timeout), 2, "{report}");
    let over = ["--duration", "1s", "--grace", "0s"];
    let report = load(&url, &over).await;
    assert_eq!(report.count(Ending::Running), 2, "{report}");
    assert!(!report.to_string().contains("in time"), "{report}");
    let report = load(&url, &[&over[..], &["--stall", "50%"]].concat()).await;
    assert_eq!(
        (report.count(Ending::Stalled), report.count(Ending::Running)),
        (1, 1),
        "{report}"
    );
}

/// What the h2 server does after two chunks.
#[derive(Clone, Copy)]
enum Then {
    End,
    /// Ends with a digest in trailers that no `Trailer` field announced.
    EndWithDigest(&'static str),
    Reset,
    GoAway,
    /// Refuses the stream before any chunk.
    Refuse,
}

async fn h2(then: Then) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if let Then::Refuse = then {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    let mut body = respond
                        .send_response(http::Response::new(()), false)
                        .unwrap();
                    body.send_data(Bytes::from("a"), false).unwrap();
                    match then {
                        Then::End => body.send_data(Bytes::from("b"), true).unwrap(),
                        Then::EndWithDigest(md5) => {
                            body.send_data(Bytes::from("b"), false).unwrap();
                            let mut trailers = http::HeaderMap::new();
                            trailers.insert("x-content-md5", md5.parse().unwrap());
                            body.send_trailers(trailers).unwrap();
                        }
                        Then::Reset => {
                            // A reset discards whatever was not sent yet, the response head included.
                            tokio::spawn(async move {
                                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                                body.send_reset(h2::Reason::INTERNAL_ERROR);
                            });
                        }
                        Then::GoAway => {
                            connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
                        }
                        Then::Refuse => unreachable!(),
                    }
                }
            });
        }
    });
    url
}

/// Starts a server that answers the first bytes of a request with a GOAWAY whose last stream id is 0 (RFC 9113 section
/// 6.8).
async fn goes_away_at_once() -> String {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(SETTINGS).await.unwrap();
                let mut bytes = Vec::new();
                // The header of the HEADERS frame of stream 1.
                while !bytes.windows(6).any(|at| matches!(at, [1, _, 0, 0, 0, 1])) {
                    assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
                }
                stream.write_all(GOAWAY).await.unwrap();
                while stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    url
}

#[tokio::test]
async fn each_way_a_stream_can_end_over_http_2() {
    for (then, ending) in [(Then::End, Ending::Whole), (Then::Reset, Ending::Cut)] {
        let report = load(&h2(then).await, &["--http", "2"]).await;
        assert_eq!(report.count(ending), 2, "{report}");
    }
    let report = load(&h2(Then::Refuse).await, &["--http", "2"]).await;
    assert_eq!(report.count(Ending::Refused), 2, "{report}");
    let report = load(&goes_away_at_once().await, &["--http", "2"]).await;
    assert_eq!(report.count(Ending::GoneAway), 2, "{report}");
    // The connection may close before or after the response head is sent. The stream is never complete.
    let report = load(&h2(Then::GoAway).await, &["--http", "2"]).await;
    assert_eq!(
        report.count(Ending::Cut) + report.count(Ending::NoResponse),
        2,
        "{report}"
    );
}

#[tokio::test]
async fn digests_in_http_2_trailers_need_no_announcement() {
    let right = Then::EndWithDigest("187ef4436122d1cc2f40dc2b92f0eba0");
    let report = load(&h2(right).await, &["--http", "2"]).await;
    assert_eq!(
        (report.count(Ending::Whole), report.verified()),
        (2, 2),
        "{report}"
    );
    let wrong = Then::EndWithDigest("00000000000000000000000000000000");
    let report = load(&h2(wrong).await, &["--http", "2"]).await;
    assert_eq!(report.count(Ending::DigestMismatch), 2, "{report}");
}

#[tokio::test]
async fn total_and_connections_are_what_was_asked_for() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
    let report = load(&h1(whole, false).await, &["--total", "25"]).await;
    assert_eq!(
        (
            report.streams(),
            report.count(Ending::Whole),
            report.bytes()
        ),
        (25, 25, 50)
    );
    let report = load(&h2(Then::End).await, &["--http", "2", "--total", "25"]).await;
    assert_eq!(
        (
            report.streams(),
            report.count(Ending::Whole),
            report.bytes()
        ),
        (25, 25, 50)
    );
}

#[tokio::test]
async fn the_json_report_says_the_same() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
    let json = load(&h1(whole, false).await, &["--total", "4"])
        .await
        .to_json();
    assert_eq!(json["streams"], 4);
    assert_eq!(json["endings"]["whole"], 4);
    assert_eq!(json["endings"]["cut"], 0);
    assert_eq!(json["latency"]["first_chunk"]["count"], 4);
    assert_eq!(json["pass"], true);
}
