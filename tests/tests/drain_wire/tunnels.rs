//! Upgrades and CONNECT hold the drain by their tokens.

use axum::{
    Router,
    extract::Request as AxumRequest,
    http::{StatusCode, header},
    response::{IntoResponse, Response as AxumResponse},
    routing::get,
};
use bytes::Bytes;
use e2e::{Request, h1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};
use tower_stream_drain::{DrainToken, Draining, State};

use super::{MS, Outcome, Rig, drain, hello};

/// Answers what it reads until the drain is started, says goodbye, and waits for the other side to close.
async fn talk(request: AxumRequest, token: DrainToken) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut io = TokioIo::new(upgraded);
    let draining = token.draining();
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            read = io.read(&mut buffer) => match read {
                Ok(n @ 1..) => { let _ = io.write_all(&buffer[..n]).await; }
                _ => break,
            },
            () = draining.started() => {
                let _ = io.write_all(b"bye").await;
                while !matches!(io.read(&mut buffer).await, Ok(0) | Err(_)) {}
                break;
            }
        }
    }
    drop(token);
}

async fn upgrade(token: DrainToken, _: Draining, request: AxumRequest) -> AxumResponse {
    tokio::spawn(talk(request, token));
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[tokio::test]
async fn a_websocket_holds_the_drain_by_its_token() -> Outcome {
    let rig = Rig::start(drain(), hello().route("/ws", get(upgrade))).await?;
    let mut socket = h1::Connection::open(rig.addr).await?;
    socket
        .send(
            &Request::get("/ws")
                .header("Connection", "upgrade")
                .header("Upgrade", "websocket"),
        )
        .await?;
    let answer = socket.reply().await?.finish().await;
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (101, Some("upgrade"))
    );
    let mut taken = socket.received().len();
    socket.send_raw(b"ping").await?;
    socket.read_some(64).await?;
    assert_eq!(&socket.received()[taken..], b"ping");
    taken = socket.received().len();
    assert_eq!(
        rig.drain.in_flight(),
        1,
        "the request is over, the token is held"
    );
    rig.drain.start();
    socket.read_some(64).await?;
    assert_eq!(&socket.received()[taken..], b"bye");
    while !rig.drain.state().is_refusing() {
        sleep(MS).await;
    }
    sleep(50 * MS).await;
    assert_ne!(rig.drain.state(), State::Dead);
    drop(socket);
    let report = rig.report().await?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

#[tokio::test]
async fn an_h2_connect_holds_the_drain_by_its_token() -> Outcome {
    async fn tunnel(token: DrainToken, request: AxumRequest) -> StatusCode {
        assert_eq!(request.method(), "CONNECT");
        tokio::spawn(talk(request, token));
        StatusCode::OK
    }
    let rig = Rig::start(drain(), Router::new().fallback(tunnel)).await?;
    let stream = tokio::net::TcpStream::connect(rig.addr).await?;
    let (client, connection) = ::h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = axum::http::Request::connect("example.org:443").body(())?;
    let (response, mut upload) = client.ready().await?.send_request(request, false)?;
    let response = response.await?;
    assert_eq!(response.status(), 200);
    let mut download = response.into_body();
    upload.send_data(Bytes::from("ping"), false)?;
    assert_eq!(download.data().await.ok_or("ended")??, "ping");
    assert_eq!(rig.drain.in_flight(), 1);
    rig.drain.start();
    assert_eq!(download.data().await.ok_or("ended")??, "bye");
    while !rig.drain.state().is_refusing() {
        sleep(MS).await;
    }
    sleep(50 * MS).await;
    assert_ne!(rig.drain.state(), State::Dead);
    upload.send_data(Bytes::new(), true)?;
    let report = rig.report().await?;
    assert!(report.is_clean(), "{report}");
    connection.abort();
    Ok(())
}
