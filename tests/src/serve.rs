use std::{error::Error, io, net::SocketAddr, pin::pin};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tower::ServiceExt;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// A service on a free loopback port. Dropping it closes the listener and aborts every connection.
#[derive(Debug)]
pub struct TestServer {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl TestServer {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting and calls hyper's `graceful_shutdown` on every connection (GOAWAY on h2, idle h1 closed), without
    /// waiting.
    pub fn begin_shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Like [`begin_shutdown`](Self::begin_shutdown), but waits until the last connection has ended. There is no
    /// deadline.
    pub async fn shutdown(mut self) {
        self.begin_shutdown();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves `service`, an axum `Router` or any tower service, over HTTP/1.x and cleartext HTTP/2 with TCP_NODELAY. A request
/// carries the peer's address as axum's `ConnectInfo<SocketAddr>`; upgrades work.
///
/// A test of a layer serves `Router::new().route(..).layer(the_layer)`, or `the_layer.layer(tower::service_fn(..))`.
///
/// # Errors
/// If no port can be bound.
pub async fn serve<S, B>(service: S) -> io::Result<TestServer>
where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<B>,
            Error: Into<BoxError>,
            Future: Send,
        >,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let accepting = tokio::spawn(accept(listener, service, stopping));
    Ok(TestServer {
        addr,
        stop,
        accepting,
    })
}

async fn accept<S, B>(listener: TcpListener, service: S, mut stopping: watch::Receiver<bool>)
where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<B>,
            Error: Into<BoxError>,
            Future: Send,
        >,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, peer)) = accepted {
                connections.spawn(connection(stream, peer, service.clone(), stopping.clone()));
            },
            Some(_) = connections.join_next() => {}
            _ = stopping.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    mut stopping: watch::Receiver<bool>,
) where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<B>,
            Error: Into<BoxError>,
            Future: Send,
        >,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    if stream.set_nodelay(true).is_err() {
        return; // The peer has disconnected already.
    }
    let service = service.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut serving =
        pin!(builder.serve_connection_with_upgrades(
            TokioIo::new(stream),
            TowerToHyperService::new(service)
        ));
    tokio::select! {
        // Many tests provoke a failure of the connection, and check the client's side.
        _ = serving.as_mut() => {}
        _ = stopping.changed() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}
