//! The flags of the demo server that are about its connections.

use std::{io::Write, path::Path, sync::Arc, time::Duration};

use e2e::{DemoProcess, End, PATIENCE, Protocol, Request, Signal, h1};
use rcgen::generate_simple_self_signed;
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn a_client_that_sends_nothing_is_closed_after_the_header_timeout() -> Outcome {
    let demo = DemoProcess::start(&["--header-timeout", "200ms"]).await?;
    let mut silent = h1::Connection::open(demo.public_addr()).await?;
    assert_eq!(silent.closed().await.0, End::Closed);
    Ok(())
}

/// Waits until the metrics contain this.
async fn counted(demo: &DemoProcess, wanted: &str) -> Outcome {
    loop {
        let request = Request::get("/metrics");
        let metrics = Protocol::Http11.send(demo.admin_addr(), &request).await?;
        let metrics = metrics.text();
        let lines = || metrics.lines().filter(|line| line.contains("stream_count"));
        match lines().find(|line| line.contains(wanted)) {
            Some(_) => return Ok(()),
            None if lines().next().is_some() => return Err(metrics.into()),
            None => sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn an_http1_client_that_stops_reading_is_aborted_and_named() -> Outcome {
    let demo = DemoProcess::start(&["--write-stall", "300ms", "--log", "json"]).await?;
    let mut client =
        h1::Connection::open_with_receive_buffer(demo.public_addr(), 16 * 1024).await?;
    let endless = Request::get("/events?count=0&interval_ms=0&bytes=10000");
    client.send(&endless).await?;
    client.read_some(16 * 1024).await?;
    counted(&demo, r#"error_type="slow_reader""#).await?;
    assert_eq!(client.closed().await.0, End::TcpReset);

    // The log line follows the metric.
    let logged = async {
        loop {
            let lines = demo.log().json();
            let is_it = |line: &&serde_json::Value| line["message"] == "the client stopped reading";
            match lines.iter().find(is_it).cloned() {
                Some(stopped) => return (stopped, lines),
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let logged = timeout(PATIENCE, logged).await;
    let (stopped, lines) = logged.map_err(|_| demo.log().text())?;
    assert_eq!(stopped["kind"], "slow_reader", "{stopped}");
    assert_eq!(stopped["outcome"], "aborted", "{stopped}");
    let warned = |line: &serde_json::Value| line.to_string().contains("a write_stall of 300ms");
    assert!(lines.iter().any(warned), "{}", demo.log().text());
    Ok(())
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap_or_default()
}

#[tokio::test]
async fn it_serves_over_tls() -> Outcome {
    let certificate = generate_simple_self_signed(["localhost".to_owned()])?;
    let (mut cert, mut key) = (NamedTempFile::new()?, NamedTempFile::new()?);
    cert.write_all(certificate.cert.pem().as_bytes())?;
    key.write_all(certificate.signing_key.serialize_pem().as_bytes())?;
    let files = [
        "--tls-cert",
        path(cert.path()),
        "--tls-key",
        path(key.path()),
    ];
    let demo = DemoProcess::start(&files).await?;

    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = TcpStream::connect(demo.public_addr()).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost")?;
    let mut client = connector.connect(name, client).await?;
    let request =
        b"GET /lines?count=3&interval_ms=0 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await?;
    let mut response = String::new();
    client.read_to_string(&mut response).await?;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(response.matches("\"n\":").count(), 3);
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() -> Outcome {
    let empty = NamedTempFile::new()?;
    for (cert, key, named) in [
        (
            "/no/such/cert",
            path(empty.path()),
            "--tls-cert /no/such/cert",
        ),
        (path(empty.path()), "/no/such/key", "--tls-key /no/such/key"),
    ] {
        let files = ["--tls-cert", cert, "--tls-key", key];
        let output = DemoProcess::command()?.args(files).output().await?;
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr)?;
        assert!(text.contains(named), "{text}");
    }
    let alone = DemoProcess::command()?
        .args(["--tls-cert", "a"])
        .output()
        .await?;
    assert_eq!(alone.status.code(), Some(2));
    Ok(())
}

async fn send(socket: &Path, path: &str, connection: &str) -> std::io::Result<UnixStream> {
    let mut client = UnixStream::connect(socket).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n");
    client.write_all(request.as_bytes()).await?;
    Ok(client)
}

#[tokio::test]
async fn it_serves_over_a_unix_socket_and_removes_it_after_the_drain() -> Outcome {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("demo.sock");
    // What a server that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    let flag = format!("unix:{}", path(&socket));
    let times = ["--advertise", "0s", "--deadline", "1s"];
    let flags = [["--public", &flag].as_slice(), &times].concat();
    let mut demo = DemoProcess::start(&flags).await?;

    let mut response = String::new();
    let mut client = send(&socket, "/lines?count=3&interval_ms=0", "close").await?;
    client.read_to_string(&mut response).await?;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(response.matches("\"n\":").count(), 3);

    // An endless stream is in flight when the drain starts, and gets its last event.
    let mut client = send(&socket, "/events?count=0&interval_ms=5", "keep-alive").await?;
    let mut stream = vec![0; 4096];
    let read = client.read(&mut stream).await?;
    stream.truncate(read);
    demo.signal(Signal::TERM)?;
    client.read_to_end(&mut stream).await?;
    let stream = String::from_utf8(stream)?;
    assert_eq!(stream.matches("event: drain\n").count(), 1, "{stream}");
    assert!(stream.ends_with("0\r\n\r\n"), "{stream}");
    assert_eq!(demo.exit(PATIENCE).await?.code(), Some(0));
    assert!(!socket.exists(), "the socket is left behind");
    Ok(())
}

#[tokio::test]
async fn a_file_in_the_place_of_the_unix_socket_is_named_and_kept() -> Outcome {
    let file = NamedTempFile::new()?;
    let flag = format!("unix:{}", path(file.path()));
    let mut command = DemoProcess::command()?;
    let output = command
        .args(["--public", &flag])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await??;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr)?;
    assert!(text.contains(&flag), "{text}");
    assert!(text.contains("not a socket"), "{text}");
    assert!(file.path().exists());
    Ok(())
}
