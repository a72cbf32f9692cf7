//! Connections after an upgrade.

use axum::{extract::Request, http::StatusCode, response::IntoResponse};
use hyper_util::rt::TokioIo;

use super::*;

/// A tunnel belongs to its handler, which writes itself and so can limit how long a write takes.
#[tokio::test(start_paused = true)]
async fn a_tunnel_is_left_to_its_handler() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let upgrade = move |mut request: Request| async move {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let mut tunnel = TokioIo::new(upgraded);
            let written = timeout(1000 * SECOND, tunnel.write_all(&[b'x'; 200_000])).await;
            ended.send(written.is_err()).unwrap();
        });
        let headers = [("connection", "upgrade"), ("upgrade", "own")];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    };
    let routes = Router::new().route("/tunnel", get(upgrade));
    let rig = Rig::start_with(routes, |server| server.min_rate(1000));
    let mut client = rig.connect();
    let request = "GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n";
    client.send(request).await;
    assert_eq!(ends.recv().await, Some(true));
    assert_eq!(client.began.elapsed().as_secs(), 1000);
}
