//! What the doctor says of servers that do one thing wrong.

use std::{process::Stdio, time::Duration};

use clap::Parser;
use stream_load::doctor::{Check, Diagnosis, DoctorArgs, Severity, examine};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    time::sleep,
};

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n";

/// What is sent, for the head of a request in lower case.
type Answer = fn(&str) -> Vec<String>;

/// Answers each request with the parts that `answer` gives for its head, a while after each other, and closes the connection.
async fn server(answer: Answer) -> String {
    server_with_pauses(Duration::ZERO, answer).await
}

async fn server_with_pauses(pause: Duration, answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(respond(stream, pause, answer));
        }
    });
    url
}

async fn respond(mut stream: TcpStream, pause: Duration, answer: Answer) {
    let mut head = vec![0; 4096];
    let length = stream.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    for part in answer(&head) {
        if stream.write_all(part.as_bytes()).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// An event of this time, in milliseconds after some start.
fn event(at: u64) -> String {
    chunk(&format!("data: {{\"t\":{}}}\n\n", 1_700_000_000_000 + at))
}

/// A whole stream of events that came when they were sent.
fn good(_: &str) -> Vec<String> {
    let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
    let events: String = (0..5).map(|_| event(0)).collect();
    vec![chunked, events, "0\r\n\r\n".to_owned()]
}

fn args(url: &str, more: &[&str]) -> DoctorArgs {
    DoctorArgs::parse_from(["doctor", url].iter().chain(more))
}

async fn diagnosis(url: &str, more: &[&str]) -> Diagnosis {
    examine(&args(url, more)).await.unwrap()
}

fn faults(diagnosis: &Diagnosis) -> Vec<Check> {
    let faults = diagnosis.findings.iter().filter(|finding| {
        assert_eq!(
            finding.remedy.is_some(),
            finding.severity == Severity::Fault
        );
        finding.severity == Severity::Fault
    });
    faults.map(|finding| finding.check).collect()
}

#[tokio::test]
async fn a_good_stream_has_no_fault() {
    let url = server(good).await;
    let found = diagnosis(&url, &["--broken", &format!("{url}/cut")]).await;
    // The broken stream is complete, so only that is wrong.
    assert_eq!(faults(&found), [Check::Laundered], "{found}");
    let found = diagnosis(&url, &[]).await;
    assert_eq!(faults(&found), [], "{found}");
    assert_eq!(found.events, 5);
}

#[tokio::test]
async fn each_fault_is_named() {
    let cases: [(Check, Answer); 7] = [
        (Check::Buffered, |_| {
            let events: String = (0..5).map(|n| event(n * 1_000)).collect();
            let head = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
            vec![head, events, "0\r\n\r\n".to_owned()]
        }),
        (Check::ContentLength, |_| {
            vec![format!("{HEAD}content-length: 11\r\n\r\ndata: 1\n\n: \n")]
        }),
        // Ends with the connection.
        (Check::ContentLength, |_| {
            vec![format!("{HEAD}\r\ndata: 1\n\n")]
        }),
        (Check::HttpVersion, |_| {
            let head = HEAD.replace("1.1", "1.0");
            vec![format!("{head}\r\ndata: 1\n\n")]
        }),
        (Check::Cached, |head| {
            let mut parts = good(head);
            parts[0] = parts[0].replace("cache-control", "age: 7\r\ncache-control");
            parts
        }),
        (Check::Trailers, |head| {
            let mut parts = good(head);
            parts[0] = parts[0].replace("cache-control", "trailer: x-md5\r\ncache-control");
            parts
        }),
        (Check::Cut, |head| good(head)[..2].to_vec()),
    ];
    for (check, answer) in cases {
        let found = diagnosis(&server(answer).await, &[]).await;
        assert_eq!(faults(&found), [check], "{found}");
    }
}

#[tokio::test]
async fn a_broken_stream_must_look_broken() {
    let url = server(|head| match head.contains("get /broken") {
        true if head.contains("error") => {
            let error = chunk("event: error\ndata: {\"code\":\"x\"}\n\n");
            let mut parts = good(head);
            parts.insert(2, error);
            parts
        }
        true => good(head)[..2].to_vec(),
        false => good(head),
    })
    .await;
    for route in ["/broken", "/broken?error"] {
        let found = diagnosis(&url, &["--broken", &format!("{url}{route}")]).await;
        assert_eq!(faults(&found), [], "{found}");
        assert!(
            found
                .findings
                .iter()
                .any(|finding| finding.check == Check::Laundered)
        );
    }
}

#[tokio::test]
async fn an_idle_stream_must_stay_open_and_its_heartbeats_arrive() {
    let url = server_with_pauses(Duration::from_millis(1), |head| {
        match head.contains("interval_ms=400") {
            // Ends long before its second event.
            true => good(head)[..1]
                .iter()
                .cloned()
                .chain([event(0), "0\r\n\r\n".to_owned()])
                .collect(),
            false => good(head),
        }
    })
    .await;
    let url = format!("{url}/events?interval_ms=0");
    let found = diagnosis(&url, &["--idle", "400ms"]).await;
    assert!(faults(&found).contains(&Check::IdleCut), "{found}");
    // A stream that stays open, with a comment and without.
    for (comment, expected) in [(": \n\n", vec![]), ("data: 1\n\n", vec![Check::Heartbeats])] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/silent", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = format!("{HEAD}transfer-encoding: chunked\r\n\r\n{}", chunk(comment));
                stream.write_all(head.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        let more = ["--for", "50ms", "--idle", "1ms", "--heartbeat", "1s"];
        let found = diagnosis(&url, &more).await;
        assert_eq!(faults(&found), expected, "{found}");
    }
}

#[tokio::test]
async fn a_compression_that_holds_back_is_a_fault_and_another_is_not() {
    let url = server_with_pauses(Duration::from_millis(200), |head| {
        let plain = good(head)[0].clone();
        let zipped = plain.replace("cache-control", "content-encoding: gzip\r\ncache-control");
        let events = (0..8).map(|_| event(0));
        match (head.contains("gzip"), head.contains("get /held")) {
            (false, _) => [plain].into_iter().chain(events).collect(),
            (true, false) => [zipped].into_iter().chain(events).collect(),
            (true, true) => vec![zipped, events.collect()],
        }
    })
    .await;
    for (route, held) in [("/held", true), ("/live", false)] {
        let found = diagnosis(&format!("{url}{route}"), &[]).await;
        assert_eq!(faults(&found).contains(&Check::Compressed), held, "{found}");
    }
}

#[tokio::test]
async fn what_is_no_stream_is_an_error_that_says_what_to_do() {
    let cases: [(&str, Answer); 4] = [
        ("redirects to https://b/: give that URL", |_| {
            vec!["HTTP/1.1 301 x\r\nlocation: https://b/\r\ncontent-length: 0\r\n\r\n".to_owned()]
        }),
        ("answers 404 Not Found", |_| {
            vec!["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned()]
        }),
        ("its Content-Type is text/html", |_| {
            vec![
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"
                    .to_owned(),
            ]
        }),
        // An alert of TLS.
        ("starts with https://", |_| {
            vec!["\u{15}\u{3}\u{1}\0\u{2}\u{2}\n".to_owned()]
        }),
    ];
    for (text, answer) in cases {
        let url = server(answer).await;
        let error = examine(&args(&url, &[])).await.unwrap_err().to_string();
        assert!(error.starts_with(&url) && error.contains(text), "{error}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    // The kernel accepts the connection, and nobody answers.
    let silent = examine(&args(&url, &["--connect-timeout", "100ms"])).await;
    let error = silent.unwrap_err().to_string();
    assert!(
        error.contains("no response head in time: a proxy that holds back"),
        "{error}"
    );
    drop(nobody);
    let error = examine(&args(&url, &[])).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn the_exit_code_tells_a_fault_from_an_error() {
    let good = server(good).await;
    let cut = server(|head| self::good(head)[..2].to_vec()).await;
    for (url, code, out, error) in [
        (&*good, 0, "\"version\": 1", ""),
        (&*cut, 1, "\"check\": \"cut\"", ""),
        ("ftp://h/", 2, "", "takes an http:// or https:// URL"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_stream-load"))
            .args(["doctor", url, "-o", "json"])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
        assert!(
            stdout.contains(out) && stderr.contains(error),
            "{stdout}{stderr}"
        );
        if code < 2 {
            let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
            assert!(json["findings"].as_array().is_some_and(|all| all.len() > 3));
        }
    }
}
