//! `https://` URLs.
#![cfg(feature = "tls")]

use std::{io::Write, process::Stdio, sync::Arc};

use bytes::Bytes;
use clap::Parser;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use stream_load::{Args, Ending, Report, run};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
    server::TlsStream,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BOTH: &[&str] = &["h2", "http/1.1"];

/// A self-signed certificate for `host`.
fn certificate(host: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([host.to_owned()]).unwrap()
}

fn file(certificate: &CertifiedKey<KeyPair>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(certificate.cert.pem().as_bytes()).unwrap();
    file
}

/// Serves the protocol that ALPN selected: HTTP/1.1 with `answer`, closed with or without `close_notify`, or HTTP/2.
async fn server(
    certificate: &CertifiedKey<KeyPair>,
    protocols: &[&str],
    answer: &'static str,
    close_notify: bool,
) -> String {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => http_2(stream).await,
                    _ => http_1(stream, answer, close_notify).await,
                }
            });
        }
    });
    url
}

async fn http_1(mut stream: TlsStream<TcpStream>, answer: &str, close_notify: bool) {
    let _ = stream.read(&mut [0; 4096]).await;
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    if close_notify {
        let _ = stream.shutdown().await;
    }
    let (mut tcp, _tls) = stream.into_inner();
    let _ = tcp.shutdown().await;
}

async fn http_2(stream: TlsStream<TcpStream>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().scheme_str(), Some("https"));
        let head = http::Response::new(());
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from("ok"), true).unwrap();
    }
}

async fn load(url: &str, more: &[&str]) -> Report {
    let args = ["stream-load", "-n", "2", url, "--no-progress"];
    run(&Args::parse_from(args.iter().chain(more)))
        .await
        .unwrap()
}

#[tokio::test]
async fn both_protocols_are_spoken_to_a_server_that_is_trusted() {
    let certificate = certificate("127.0.0.1");
    let url = server(&certificate, BOTH, OK, true).await;
    let file = file(&certificate);
    let trusted = ["--cacert", file.path().to_str().unwrap()];
    for http in ["1", "2"] {
        let report = load(&url, &[&trusted[..], &["--http", http]].concat()).await;
        assert_eq!(report.count(Ending::Whole), 2, "{report}");
        assert!(report.verdict().is_pass(), "{report}");
    }
    // HTTP/1.1 does not require ALPN.
    let url = server(&certificate, &[], OK, true).await;
    let report = load(&url, &trusted).await;
    assert_eq!(report.count(Ending::Whole), 2, "{report}");
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_no_connection_unless_insecure() {
    for (host, trusted) in [("127.0.0.1", false), ("other.example", true)] {
        let certificate = certificate(host);
        let url = server(&certificate, BOTH, OK, true).await;
        let file = if trusted {
            file(&certificate)
        } else {
            file(&self::certificate(host))
        };
        let report = load(&url, &["--cacert", file.path().to_str().unwrap()]).await;
        assert_eq!(report.count(Ending::ConnectFailure), 2, "{report}");
        assert!(report.to_string().contains("certificate"), "{report}");
        for http in ["1", "2"] {
            let report = load(&url, &["--insecure", "--http", http]).await;
            assert_eq!(report.count(Ending::Whole), 2, "{report}");
        }
    }
}

#[tokio::test]
async fn http_2_is_not_spoken_to_a_server_that_did_not_choose_it() {
    let certificate = certificate("127.0.0.1");
    for protocols in [&["http/1.1"][..], &[]] {
        let url = server(&certificate, protocols, OK, true).await;
        let report = load(&url, &["--insecure", "--http", "2"]).await;
        assert_eq!(report.count(Ending::ConnectFailure), 2, "{report}");
        assert_eq!(report.count(Ending::Whole), 0, "{report}");
    }
}

/// A close-delimited body is complete only if TLS was closed with `close_notify` (RFC 9112 section 9.8).
#[tokio::test]
async fn a_connection_that_ends_without_a_close_notify_cuts_its_body() {
    let certificate = certificate("127.0.0.1");
    let answer = "HTTP/1.1 200 OK\r\n\r\nhello";
    for (close_notify, ending) in [(true, Ending::Whole), (false, Ending::Cut)] {
        let url = server(&certificate, BOTH, answer, close_notify).await;
        let report = load(&url, &["--insecure"]).await;
        assert_eq!(report.count(ending), 2, "{report}");
    }
}

#[tokio::test]
async fn a_file_without_certificates_is_a_usage_error_that_names_the_flag() {
    let empty = NamedTempFile::new().unwrap();
    let url = "https://127.0.0.1:1/";
    for file in ["/nonexistent/ca.pem", empty.path().to_str().unwrap()] {
        let output = Command::new(env!("CARGO_BIN_EXE_stream-load"))
            .args([url, "--cacert", file])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("--cacert {file}")), "{message}");
    }
}
