//! TLS over the connections in memory.

use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

use super::*;

/// A server, and how a client that trusts it connects.
fn secure() -> (Rig, RootCertStore) {
    secure_with(Router::new())
}

fn secure_with(routes: Router) -> (Rig, RootCertStore) {
    let certificate = generate_simple_self_signed(["a".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let rig = Rig::start_with(routes, |server| server.tls(Arc::new(config)));
    (rig, roots)
}

async fn connect(rig: &Rig, roots: &RootCertStore, protocols: &[&str]) -> TlsStream<DuplexStream> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().into())
        .collect();
    let name = ServerName::try_from("a").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, rig.connect().io).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn alpn_chooses_the_version() {
    let (rig, roots) = secure();
    for (offer, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let mut client = connect(&rig, &roots, offer).await;
        assert_eq!(client.get_ref().1.alpn_protocol(), chosen);
        let mut received = Vec::new();
        if chosen == Some(b"h2") {
            client
                .write_all(&[H2_START, H2_GET].concat())
                .await
                .unwrap();
            while !received.ends_with(b"hello") {
                assert_ne!(client.read_buf(&mut received).await.unwrap(), 0);
            }
            continue;
        }
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        // This fails if the server sends no close_notify.
        client.read_to_end(&mut received).await.unwrap();
        assert!(received.ends_with(b"\r\n\r\nhello"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_ends_at_the_header_timeout_and_holds_up_nobody() {
    let (rig, roots) = secure();
    let mut silent = rig.connect();
    let mut half = rig.connect();
    half.send(b"\x16\x03\x01\x02\x00\x01").await;
    let mut garbage = rig.connect();
    garbage.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(garbage.closed().await.1 < SECOND);
    connect(&rig, &roots, &["http/1.1"]).await;
    assert!(silent.began.elapsed() < SECOND);
    assert_eq!(silent.closed().await.1.as_secs(), 10);
    assert_eq!(half.closed().await.1.as_secs(), 10);
}

/// rustls has a buffer of 64 KiB, which hyper flushes as a whole. The progress below it is what counts.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_served_and_one_that_stops_is_not() {
    let (routes, mut ends) = stall::producers();
    let (rig, roots) = secure_with(routes);
    let mut client = connect(&rig, &roots, &["http/1.1"]).await;
    let request = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    // A flush of 64 KiB and the pipe takes 87 s at this rate.
    let mut buffer = vec![0; 1500];
    for _ in 0..400 {
        sleep(SECOND).await;
        client.read_exact(&mut buffer).await.unwrap();
    }
    assert!(ends.try_recv().is_err());
    let began = Instant::now();
    assert_eq!(stall::ended(&mut ends).await, "slow_reader");
    assert!(began.elapsed() <= 30 * SECOND);
}
