//! The server with its two listeners.

use std::{future::pending, io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tower_stream_drain::Drain;
use tower_stream_serve::{Listener, Report};

use crate::{
    Args, ListenAddr, State, admin, app,
    listen::{Bound, cannot_bind},
};

/// A running demo server.
///
/// Dropping it starts the same drain as [`shutdown`](Server::shutdown), without waiting.
#[derive(Debug)]
pub struct Server {
    state: State,
    public: ListenAddr,
    admin: SocketAddr,
    serving: JoinHandle<io::Result<Report>>,
}

impl Server {
    /// Binds both listeners and serves in tasks of the current runtime.
    ///
    /// # Errors
    ///
    /// Fails if an address cannot be bound, or the directory of `--files` cannot be read. The message names it.
    pub async fn start(args: Args) -> io::Result<Self> {
        Self::start_with(State::new(args)?).await
    }

    /// Like [`start`](Server::start), with an existing state, whose traces can then be part of the subscriber.
    ///
    /// # Errors
    ///
    /// Fails if an address cannot be bound; the message names it.
    pub async fn start_with(state: State) -> io::Result<Self> {
        let tls = tls(&state.args)?;
        let public = Bound::bind(&state.args.public).await?;
        let admin = state.args.admin;
        let admin = TcpListener::bind(admin)
            .await
            .map_err(|error| cannot_bind("admin", admin, &error))?;
        let server = Self {
            public: public.addr()?,
            admin: admin.local_addr()?,
            serving: tokio::spawn(serve(public, tls, admin, state.clone())),
            state,
        };
        tracing::info!(
            public = %server.public(),
            admin = %server.admin_addr(),
            "listening"
        );
        Ok(server)
    }

    /// The bound address of the public listener.
    pub fn public(&self) -> &ListenAddr {
        &self.public
    }

    /// The bound TCP address of the public listener.
    ///
    /// # Panics
    ///
    /// Panics if the public listener is a Unix socket.
    pub fn public_addr(&self) -> SocketAddr {
        match &self.public {
            ListenAddr::Tcp(addr) => *addr,
            ListenAddr::Unix(path) => panic!("{} is a Unix socket", path.display()),
        }
    }

    /// The bound address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The drain of this server.
    pub fn drain(&self) -> &Drain {
        &self.state.drain
    }

    /// Starts the drain and waits for its end, see [`stopped`](Self::stopped).
    ///
    /// # Errors
    ///
    /// Fails if a task of the server failed.
    pub async fn shutdown(self) -> io::Result<Report> {
        self.state.drain.start();
        self.stopped().await
    }

    /// Waits until the server has been drained, whatever started the drain. The admin listener responds until then.
    ///
    /// # Errors
    ///
    /// Fails if a task of the server failed.
    pub async fn stopped(mut self) -> io::Result<Report> {
        (&mut self.serving).await?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.drain.start();
    }
}

#[cfg(feature = "tls")]
type Tls = std::sync::Arc<tower_stream_serve::rustls::ServerConfig>;
#[cfg(not(feature = "tls"))]
type Tls = std::convert::Infallible;

fn tls(args: &Args) -> io::Result<Option<Tls>> {
    #[cfg(feature = "tls")]
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        return crate::tls::config(cert, key).map(Some);
    }
    let _ = args;
    Ok(None)
}

/// Serves the public listener until its drain has ended.
async fn serve_public<L: Listener>(
    listener: L,
    tls: Option<Tls>,
    state: &State,
) -> io::Result<Report> {
    let limit = |limit: Duration| (!limit.is_zero()).then_some(limit);
    // `main` listens for signals. A server in process leaves signals to its program.
    let server = tower_stream_serve::serve(listener, app(state))
        .drain(&state.drain)
        .connections(&state.connections)
        .header_timeout(limit(state.args.header_timeout))
        .write_stall(limit(state.args.write_stall))
        .min_rate(u64::from(state.args.min_rate))
        .without_signals();
    match tls {
        #[cfg(feature = "tls")]
        Some(config) => server.tls(config).await,
        #[cfg(not(feature = "tls"))]
        Some(never) => match never {},
        None => server.await,
    }
}

/// Serves both listeners until the drain of the public one has ended. Probes need the admin listener until then.
async fn serve(
    public: Bound,
    tls: Option<Tls>,
    private: TcpListener,
    state: State,
) -> io::Result<Report> {
    let public = async {
        match public {
            Bound::Tcp(listener) => serve_public(listener, tls, &state).await,
            Bound::Unix(listener, _file) => serve_public(listener, tls, &state).await,
        }
    };
    // Never drained: dropped at the end of the public one, so that an idle probe connection cannot delay the end.
    let private = async {
        let never = Drain::builder().build();
        tower_stream_serve::serve(private, admin(&state))
            .drain(&never)
            .without_signals()
            .await
    };
    tokio::select! {
        report = public => report,
        failed = private => match failed {
            Ok(_) => pending().await,
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// Starts a server that advertises for 50 ms.
    async fn start(deadline: Duration) -> Server {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::start(Args {
            public: any.into(),
            admin: any,
            advertise: Duration::from_millis(50),
            deadline,
            ..Args::default()
        })
        .await
        .unwrap()
    }

    /// Sends a request and waits for the first bytes of the response.
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
        let report = stopped.await.unwrap().unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.stats.served, 1);
        assert!(TcpStream::connect(public).await.is_err());
    }

    #[tokio::test]
    async fn an_endless_stream_does_not_hold_the_stop_past_its_deadline() {
        let server = start(Duration::from_millis(100)).await;
        let (mut stream, mut text) = open(server.public_addr(), "/events?count=0").await;
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        let report = server.shutdown().await.unwrap();
        assert_eq!((report.stats.ended_early, report.stats.aborted), (1, 0));
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.matches("event: drain\n").count(), 1, "{text}");
        assert!(text.ends_with("0\r\n\r\n"), "{text}");
    }

    #[tokio::test]
    async fn times_that_contradict_each_other_are_named() {
        let args = Args {
            advertise: Duration::from_secs(9),
            deadline: Duration::from_secs(9),
            ..Args::default()
        };
        let error = Server::start(args).await.unwrap_err().to_string();
        assert!(error.contains("advertise (9s)"), "{error}");
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = start(Duration::from_secs(1)).await;
        let args = Args {
            public: server.public().clone(),
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
