//! Two listeners, one server.

use std::{io, net::SocketAddr};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Args, State, admin, app};

/// A running demo server.
///
/// Dropping it starts the same graceful stop as [`shutdown`](Server::shutdown), without waiting.
#[derive(Debug)]
pub struct Server {
    state: State,
    public: Listening,
    admin: Listening,
}

#[derive(Debug)]
struct Listening {
    addr: SocketAddr,
    stop: watch::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Binds both listeners and serves in tasks of the current runtime.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound or the directory of `--files` not be read; the message
    /// names it.
    pub async fn start(args: Args) -> io::Result<Self> {
        let state = State::new(args)?;
        let public = bind("public", state.args.public).await?;
        let admin_listener = bind("admin", state.args.admin).await?;
        let server = Self {
            public: serve(public, app(&state))?,
            admin: serve(admin_listener, admin(&state))?,
            state,
        };
        tracing::info!(
            public = %server.public_addr(),
            admin = %server.admin_addr(),
            "listening"
        );
        Ok(server)
    }

    /// The bound address of the public listener.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.addr
    }

    /// The bound address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr
    }

    /// Stops gracefully: no new connections, streams in flight may end, at most
    /// `drain_deadline` long. The admin listener answers until the public one is done.
    ///
    /// Returns whether every stream ended in time. Streams that did not are left to the
    /// runtime: they are cut when it, or the process, ends.
    pub async fn shutdown(self) -> bool {
        let deadline = self.state.args.drain_deadline;
        tracing::info!(deadline = %humantime::format_duration(deadline), "stopping");
        self.state.stop();
        let in_time = tokio::time::timeout(deadline, self.public.stopped()).await;
        match &in_time {
            Ok(()) => tracing::info!("stopped: every stream ended"),
            Err(_) => tracing::warn!("stopped: streams were still open at the deadline"),
        }
        // An idle keep-alive probe must not hold the exit, so nobody waits for this one.
        drop(self.admin.stop);
        in_time.is_ok()
    }
}

impl Listening {
    async fn stopped(self) {
        drop(self.stop);
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "listener failed"),
            Err(error) => tracing::error!(%error, "listener task failed"),
        }
    }
}

async fn bind(name: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot bind the {name} listener to {addr}: {error}"),
        )
    })
}

/// Serves HTTP/1.1 and cleartext HTTP/2 on `listener`.
fn serve(listener: TcpListener, app: Router) -> io::Result<Listening> {
    let addr = listener.local_addr()?;
    let (stop, stopped) = watch::channel(());
    // Without it, the kernel holds a small frame back until the one before is acknowledged.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
    });
    let serving = axum::serve(listener, app).with_graceful_shutdown(sender_gone(stopped));
    let task = tokio::spawn(async move { serving.await });
    Ok(Listening { addr, stop, task })
}

async fn sender_gone(mut receiver: watch::Receiver<()>) {
    while receiver.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn start(drain_deadline: Duration) -> Server {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::start(Args {
            public: any,
            admin: any,
            drain_deadline,
            ..Args::default()
        })
        .await
        .unwrap()
    }

    /// Sends a request and waits for the first bytes of its answer.
    async fn open(addr: SocketAddr, path: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: demo\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = vec![0; 4096];
        let read = stream.read(&mut first).await.unwrap();
        first.truncate(read);
        (stream, String::from_utf8(first).unwrap())
    }

    #[tokio::test]
    async fn a_stream_in_flight_may_end_and_nobody_new_comes_in() {
        let server = start(Duration::from_secs(60)).await;
        let (public, admin) = (server.public_addr(), server.admin_addr());
        let (mut stream, mut text) = open(public, "/lines?count=4&interval_ms=50").await;
        let stopped = tokio::spawn(server.shutdown());
        let (_, ready) = loop {
            let probe = open(admin, "/readyz").await;
            if !probe.1.contains("200 OK") {
                break probe;
            }
        };
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("0\r\n\r\n"), "a whole chunked body: {text}");
        assert_eq!(text.matches("\"n\":").count(), 4);
        assert!(stopped.await.unwrap());
        assert!(TcpStream::connect(public).await.is_err());
    }

    #[tokio::test]
    async fn an_endless_stream_does_not_hold_the_stop_past_its_deadline() {
        let server = start(Duration::from_millis(50)).await;
        let (_stream, text) = open(server.public_addr(), "/events?count=0").await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(!server.shutdown().await);
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = start(Duration::from_secs(1)).await;
        let args = Args {
            public: server.public_addr(),
            ..Args::default()
        };
        let error = Server::start(args).await.unwrap_err().to_string();
        assert!(error.contains("public listener"), "{error}");
        assert!(error.contains(&server.public_addr().to_string()), "{error}");
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_named() {
        let args = Args {
            files: Some("/no/such/dir".into()),
            ..Args::default()
        };
        let error = Server::start(args).await.unwrap_err().to_string();
        assert!(error.contains("--files /no/such/dir"), "{error}");
    }
}
