//! The server and its accept loop.

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tower_service::Service;
use tower_stream_core::BoxError;
use tower_stream_drain::Drain;

use crate::{
    Connections, Listener, Report, RequestBody, connection::Connection, limits::Clients,
    settings::Settings,
};

/// Serves `app` over HTTP/1 and cleartext HTTP/2 until its drain is dead.
///
/// The server owns its accept loop and its connections, so it can do what `axum::serve` cannot: send GOAWAY, retire old
/// connections, and abort a stalled client. Upgrades and extended CONNECT (RFC 8441) work. Each request has its peer
/// address in its extensions, which [`PeerAddr::of`](crate::PeerAddr::of) reads.
///
/// The first SIGTERM or SIGINT starts the drain, and a second one ends it at once, unless
/// [`without_signals`](Serve::without_signals) is set.
///
/// Shortly before the close (250 ms, or a quarter of advertise if that is less), the server accepts the clients that
/// have already connected, stops accepting, and sends GOAWAY. At the close it closes idle HTTP/1 connections. A request
/// that arrives just after that was sent before its client could know, so it is still served for 2 s after the close
/// (or a quarter of the time to the deadline, if that is less), and then refused. Several servers may share one drain,
/// which is dead when all of them have ended.
///
/// If the process is out of file descriptors, the server keeps accepting the backlog as connections end, until the
/// drain is dead.
///
/// The future resolves at the latest 250 ms after the drain is dead, even if a handler blocks its thread: such a
/// handler cannot be stopped and is left behind, and dropping the runtime waits for it. This limit requires a free
/// worker thread of the runtime. If handlers block every worker, or the one that drives the timers of an otherwise idle
/// runtime, no timer fires.
///
/// # Errors
///
/// Fails if the signal handlers cannot be installed. A connection that fails, or that cannot be accepted, is logged and
/// is not an error.
///
/// ```no_run
/// # async fn run(app: axum::Router) -> std::io::Result<()> {
/// use tokio::net::TcpListener;
/// use tower_stream_drain::Drain;
/// use tower_stream_serve::serve;
///
/// let drain = Drain::builder().build();
/// let app = app.layer(drain.farewell()).layer(drain.layer());
/// let report = serve(TcpListener::bind("0.0.0.0:3000").await?, app).drain(&drain).await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
pub fn serve<L, S>(listener: L, app: S) -> Serve<L, S> {
    Serve {
        drain: None,
        listener,
        app,
        signals: true,
        connections: Connections::default(),
        settings: Settings::default(),
        max_connections: None,
        max_per_client: None,
    }
}

/// A server, from [`serve`]. Await it to run it.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    drain: Option<Drain>,
    listener: L,
    app: S,
    signals: bool,
    connections: Connections,
    settings: Settings,
    max_connections: Option<usize>,
    max_per_client: Option<usize>,
}

impl<L, S> Serve<L, S> {
    /// Sets the drain that ends the server. Without it, the server creates its own with the defaults of
    /// [`Drain::builder`], which the signals start. Only connections are then in flight, and no response has
    /// `Connection: close` before the close.
    pub fn drain(mut self, drain: &Drain) -> Self {
        self.drain = Some(drain.clone());
        self
    }

    /// Counts the connections of this server in `connections`, where the program can read how many are open.
    pub fn connections(mut self, connections: &Connections) -> Self {
        self.connections = connections.clone();
        self
    }

    /// Does not handle SIGTERM and SIGINT.
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// Sets how long a client may take to send a request head: the first one, counted from the connection (TLS
    /// handshake included), and each later one, counted from its first byte. The connection is then closed without a
    /// response. Default: 10 s; `None` is no limit.
    ///
    /// This ends connections that send nothing, and clients that send a head one byte at a time (Slowloris), each of
    /// which would keep a file descriptor forever.
    pub fn header_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = timeout.into();
        self
    }

    /// Sets how long a connection may wait for its next request. Default: 75 s; `None` is no limit. HTTP/2 clients are
    /// told by GOAWAY.
    ///
    /// A proxy that keeps idle connections should close them first, because over HTTP/1 a request that it sends while
    /// the server closes is lost. Set this above the proxy's own limit, which is usually 60 s.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// Sets how often an HTTP/2 client is sent a PING if nothing was received. Default: 20 s; `None` sends none.
    ///
    /// The connection of a client that does not respond within [`ping_timeout`](Self::ping_timeout) is closed.
    /// Otherwise, a client that has vanished keeps its streams open until the kernel gives up, which may take hours.
    pub fn ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.settings.ping_interval = interval.into();
        self
    }

    /// Sets how long an HTTP/2 client may take to respond to a PING. Default: 20 s.
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.settings.ping_timeout = timeout;
        self
    }

    /// Sets how long bytes of a response may wait while the client takes none of them. Default: 30 s; `None` is no
    /// limit. The reader has then stopped: the request ends with the cause
    /// [`SlowReader`](tower_stream_core::FaultKind::SlowReader), and its response body is dropped at once, which frees
    /// what produces it. An HTTP/1 connection is aborted. Over HTTP/2, the stream is reset, and the other streams of
    /// the connection go on.
    ///
    /// A client that reads slowly is not affected, and neither is one that has nothing to read. A body's own timeout
    /// cannot do this, because a body is not polled while its client does not read. After an upgrade, the connection
    /// belongs to the handler, whose own writes wait for the client, and is not watched.
    ///
    /// Over HTTP/2, a client must take 16 KiB of a stream in this time.
    ///
    /// Do not set this below 20 s: a client of 56 kbit/s may take nothing for 19 s, because the kernel announces free
    /// space to the server in large steps. Requires the connection's TCP stream
    /// ([`Listener::tcp`](crate::Listener::tcp)), whose `TCP_NOTSENT_LOWAT` is set to 16 KiB and whose
    /// `TCP_USER_TIMEOUT` to twice this time (on Linux).
    ///
    /// ```no_run
    /// # async fn run(listener: tokio::net::TcpListener, app: axum::Router) -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tower_stream_serve::serve;
    ///
    /// serve(listener, app)
    ///     .write_stall(Duration::from_secs(60)) // the reader may pause for a minute
    ///     .min_rate(240) // and reads 240 bytes per second otherwise
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_stall(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.write_stall = timeout.into();
        self
    }

    /// Sets how many bytes per second a client must read at least while bytes wait for it. Off by default. A client
    /// that is slower ends like one that [stopped](Self::write_stall).
    ///
    /// The rate is measured over 20 s during which bytes wait, so a client that reads as fast as the app writes is not
    /// measured. This ends clients that read one byte at a time, which [`write_stall`](Self::write_stall) does not.
    ///
    /// A client must also send a request body at this rate, measured over 20 s during which the handler waits for it
    /// (slow POST). Otherwise the body fails with a [`Cause`](tower_stream_core::Cause) of the kind
    /// [`SlowUpload`](tower_stream_core::FaultKind::SlowUpload), and an HTTP/1 connection is closed after the response.
    /// The body of a gRPC request is not limited, because such a call may wait for its next message.
    pub fn min_rate(mut self, bytes_per_second: impl Into<Option<u64>>) -> Self {
        self.settings.min_rate = bytes_per_second.into().filter(|rate| *rate > 0);
        self
    }

    /// Sets the maximum size of a request head in bytes. Default: 64 KiB. A larger one gets a 431, over HTTP/1 and
    /// HTTP/2; an HTTP/2 client that ignores the limit altogether loses its connection.
    ///
    /// This limits the memory that a client can make the server use before any handler runs.
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.settings.max_header_size = bytes;
        self
    }

    /// Sets how many bytes of a response the server buffers before the client has received them: per connection over
    /// HTTP/1, per stream over HTTP/2. Default: 64 KiB. An HTTP/1 connection buffers at least
    /// [`max_header_size`](Self::max_header_size).
    ///
    /// A slow client takes this much memory, in addition to the buffers of the kernel.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.settings.send_buffer = bytes;
        self
    }

    /// Sets how many requests one HTTP/2 connection may have open at the same time. Default: 200. The client is told
    /// (SETTINGS_MAX_CONCURRENT_STREAMS), and streams above the limit are refused.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.settings.max_concurrent_streams = streams;
        self
    }

    /// Sets how many streams an HTTP/2 client may open and reset before the server has processed them. Default: 20. The
    /// connection of a client that resets more is closed with ENHANCE_YOUR_CALM.
    ///
    /// This stops the rapid reset attack (CVE-2023-44487), which makes a server start an endless amount of work that is
    /// cancelled at once.
    pub fn max_pending_resets(mut self, resets: usize) -> Self {
        self.settings.max_pending_resets = resets;
        self
    }

    /// Sets how many connections may be open at the same time. Default: no limit. The server accepts no more, so
    /// further connections wait in the backlog of the listener until one has ended.
    ///
    /// This limits the file descriptors and the memory of the server. Also limit the connections of each client
    /// ([`max_connections_per_client`](Self::max_connections_per_client)), or one client can use all of them.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections.max(1));
        self
    }

    /// Sets how many connections one client may have open at the same time. A connection above the limit is closed as
    /// soon as it is accepted. Default: no limit.
    ///
    /// A client is an IPv4 address, or the /64 of an IPv6 address, because one host usually has all of that. Behind a
    /// proxy, every connection comes from the address of the proxy, so do not set a limit there. The limit applies to
    /// listeners whose address is a [`SocketAddr`](std::net::SocketAddr): a Unix socket does not distinguish clients.
    pub fn max_connections_per_client(mut self, connections: usize) -> Self {
        self.max_per_client = Some(connections.max(1));
        self
    }

    /// Encrypts each connection by TLS with this configuration. Its key and certificates are read once; to change them
    /// while the server runs, set [`cert_resolver`](tokio_rustls::rustls::ServerConfig::cert_resolver).
    ///
    /// A configuration without ALPN protocols gets `h2` and `http/1.1`. A handshake does not block other connections,
    /// and is included in the [`header_timeout`](Self::header_timeout).
    ///
    /// ```no_run
    /// # async fn run(app: axum::Router, config: tower_stream_serve::rustls::ServerConfig) -> std::io::Result<()> {
    /// use std::sync::Arc;
    /// use tokio::net::TcpListener;
    /// use tower_stream_serve::serve;
    ///
    /// let listener = TcpListener::bind("0.0.0.0:443").await?;
    /// serve(listener, app).tls(Arc::new(config)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        let config = match config.alpn_protocols.is_empty() {
            true => {
                let mut config = tokio_rustls::rustls::ServerConfig::clone(&config);
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                Arc::new(config)
            }
            false => config,
        };
        self.settings.tls = Some(config);
        self
    }

    /// Sets the age at which connections are closed, varied by up to 10 % per connection, so that clients spread over
    /// new servers. HTTP/2 clients are told by GOAWAY, HTTP/1 clients by `Connection: close` on the next response, so
    /// no request is lost. Off by default.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = Some(age);
        self
    }

    /// Closes each connection after about this many requests (up to 10 % more or less). Off by default.
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.settings.max_requests = Some(requests);
        self
    }
}

impl<L, S, B> IntoFuture for Serve<L, S>
where
    L: Listener,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = io::Result<Report>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<Report>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let drain = self.drain.clone();
            let drain = drain.unwrap_or_else(|| Drain::builder().build());
            if self.signals {
                drain.listen_for_signals()?;
            }
            if let Some(warning) = drain.over_budget() {
                tracing::warn!("{warning}");
            }
            if let Some(limit) = self.settings.write_stall
                && limit < SHORTEST_STALL
            {
                tracing::warn!(
                    "a write_stall of {limit:?} is below {SHORTEST_STALL:?}: it ends healthy clients that read slowly"
                );
            }
            Ok(self.run(drain).await)
        })
    }
}

/// A healthy TCP client of 56 kbit/s can take nothing for this long.
const SHORTEST_STALL: Duration = Duration::from_secs(20);

/// How long after an error the server accepts again, if no connection has ended before.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// How many connections are taken from the backlog of a closing listener: more than a backlog contains, but not
/// endlessly many while clients keep connecting.
const MAX_BACKLOG: u32 = 65_536;

/// How long a closing listener waits for handshakes in progress: some round trips within a network.
const HANDSHAKE: Duration = Duration::from_millis(5);

/// After this many of them, other tasks of the thread run.
const BACKLOG_STEP: u32 = 64;

/// How long the tasks of aborted connections may take to end.
const ABORT: Duration = Duration::from_millis(250);

impl<L, S, B> Serve<L, S>
where
    L: Listener,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn run(self, drain: Drain) -> Report {
        let serving = drain.server();
        let mut server = Accepted {
            app: prepared(self.app),
            settings: Arc::new(self.settings),
            clients: self.max_per_client.map(Clients::new),
            drain: drain.clone(),
            connections: JoinSet::new(),
            open: self.connections,
            count: 0,
        };
        let mut listener = self.listener;
        let max_connections = self.max_connections.unwrap_or(usize::MAX);
        {
            let mut handover = pin!(drain.handover());
            'accepting: loop {
                // Polled to its end and not dropped when a connection ends, because the listener may be in the middle
                // of accepting a connection.
                let mut accept = pin!(listener.accept());
                let incoming = loop {
                    tokio::select! {
                        biased;
                        () = handover.as_mut() => break 'accepting,
                        incoming = accept.as_mut(), if server.connections.len() < max_connections => break incoming,
                        Some(_) = server.connections.join_next() => {}
                    }
                };
                server.begin(incoming, L::tcp);
                // The ended connections, which the loop above does not reach under a flood of new ones.
                while server.connections.try_join_next().is_some() {}
            }
        }
        let mut dead = pin!(drain.dead());
        let mut taken = 0;
        let mut backlog = listener.close();
        let mut asked_again = false;
        loop {
            match backlog.next() {
                None if asked_again => break,
                None => {
                    asked_again = true;
                    sleep(HANDSHAKE).await;
                }
                Some(Ok(incoming)) => {
                    taken += 1;
                    server.begin(incoming, L::tcp);
                    if taken == MAX_BACKLOG {
                        break;
                    }
                    if taken % BACKLOG_STEP == 0 {
                        while server.connections.try_join_next().is_some() {}
                        yield_now().await;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::select! {
                        biased;
                        () = dead.as_mut() => break,
                        // A connection that ends frees its file descriptor, but so may something else.
                        Some(_) = server.connections.join_next() => {}
                        () = sleep(ACCEPT_AGAIN) => {}
                    }
                }
            }
        }
        drop(backlog);
        let all_done = async { while server.connections.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = all_done => true,
            () = drain.dead() => false,
        };
        let connections_aborted = server.connections.len() as u64;
        server.connections.abort_all();
        let aborted = async { while server.connections.join_next().await.is_some() {} };
        // A handler that blocks its thread cannot be aborted, and is left behind.
        let _ = timeout(ABORT, aborted).await;
        server.connections.detach_all();
        drop(serving);
        if in_time {
            // Requests of another server, or tokens, may still hold the drain.
            drain.dead().await;
        }
        let report = Report {
            stats: drain.stats(),
            connections: server.count,
            connections_aborted,
            took: drain
                .started_at()
                .map_or(Duration::ZERO, |started| started.elapsed()),
        };
        report.log();
        report
    }
}

/// axum's `Router` turns the handler of a route into a service, with all its layers, for each request, unless it was given
/// its state before: that costs some 1,000 instructions per request.
fn prepared<S: 'static>(app: S) -> S {
    #[cfg(feature = "axum")]
    let app = {
        let mut app = app;
        if let Some(router) = (&mut app as &mut dyn std::any::Any).downcast_mut::<axum::Router>() {
            *router = std::mem::take(router).with_state(());
        }
        app
    };
    app
}

/// The connections of a server, and their shared state.
struct Accepted<S> {
    app: S,
    settings: Arc<Settings>,
    clients: Option<Clients>,
    drain: Drain,
    connections: JoinSet<()>,
    open: Connections,
    count: u64,
}

impl<S, B> Accepted<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn begin<I, A>(&mut self, (io, peer): (I, A), tcp: fn(&I) -> Option<&TcpStream>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Clone + Send + Sync + 'static,
    {
        self.count += 1;
        let clients = self.clients.as_ref();
        let Ok(place) = clients.map(|clients| clients.enter(&peer)).transpose() else {
            tracing::debug!("connection refused: its client has its share of them");
            return;
        };
        let connection = Connection {
            peer,
            app: self.app.clone(),
            settings: Arc::clone(&self.settings),
            drain: self.drain.clone(),
        };
        let open = self.open.enter();
        self.connections.spawn(async move {
            connection.serve(io, tcp).await;
            drop((place, open));
        });
    }
}

impl<L, S> fmt::Debug for Serve<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("drain", &self.drain)
            .field("settings", &self.settings)
            .field("max_connections", &self.max_connections)
            .field("max_connections_per_client", &self.max_per_client)
            .finish_non_exhaustive()
    }
}
