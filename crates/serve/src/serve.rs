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
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tower_service::Service;
use tower_stream_core::BoxError;
use tower_stream_drain::Drain;

use crate::{Listener, Report, connection, limits::Clients, settings::Settings};

/// Serves `app` over HTTP/1 and cleartext HTTP/2 until its drain is dead.
///
/// It owns its accept loop and its connections, so it can do what `axum::serve` cannot: send GOAWAY, end a
/// connection that got too old, and cut a reader that stalls. Upgrades and extended CONNECT (RFC 8441) work. Each
/// request carries its peer's address as [`PeerAddr`](crate::PeerAddr) in its extensions.
///
/// SIGTERM and SIGINT start the drain and a second of them ends it at once, unless
/// [`without_signals`](Serve::without_signals).
///
/// A little before the close (250 ms, at most a quarter of advertise) it stops to accept, after it has taken in the
/// clients that had already connected, and sends GOAWAY; at the close it closes idle HTTP/1 connections. A request that
/// crosses this on its way comes from a client that could not know, so it is still served for 2 s after the close (or a
/// quarter of what is left until the deadline), then refused. Several servers may share one drain, which is dead when all
/// of them are done.
///
/// When the process is out of descriptors, the server goes on to accept the backlog as connections end, until the drain
/// is dead.
///
/// It resolves 250 ms after the drain is dead at the latest, also while a handler blocks its thread: such a handler
/// cannot be stopped and is left behind, and dropping the runtime waits for it. The bound needs a worker of the runtime
/// that is free: where handlers block every worker, or the one that happens to drive the timers of a runtime that is
/// idle otherwise, no timer fires.
///
/// # Errors
///
/// When the signals cannot be listened to. A connection that fails, or one that cannot be accepted, is no error: it
/// is logged.
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
        settings: Settings::default(),
        max_connections: None,
        max_per_client: None,
    }
}

/// A server, to be awaited; from [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    drain: Option<Drain>,
    listener: L,
    app: S,
    signals: bool,
    settings: Settings,
    max_connections: Option<usize>,
    max_per_client: Option<usize>,
}

impl<L, S> Serve<L, S> {
    /// The drain that ends the server. Without it, the server has one of its own with the defaults of
    /// [`Drain::builder`], which the signals start. Nothing but its connections holds it then, and no response says
    /// `Connection: close` before the close.
    pub fn drain(mut self, drain: &Drain) -> Self {
        self.drain = Some(drain.clone());
        self
    }

    /// Leaves SIGTERM and SIGINT alone.
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// How long a client may take to send a request head: its first one, counted from the connection (TLS handshake
    /// included), and each later one, counted from its first byte. The connection is closed then, without an answer.
    /// 10 s; `None` is no limit.
    ///
    /// It ends connections that send nothing, and clients that send a head a byte at a time (Slowloris), each of which would
    /// hold a descriptor for ever.
    pub fn header_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = timeout.into();
        self
    }

    /// How long a connection may wait for its next request. 75 s; `None` is no limit. HTTP/2 is told by GOAWAY.
    ///
    /// A proxy that keeps idle connections should close them first, because a request that it sends while the server
    /// closes is lost on HTTP/1: keep this above the proxy's own limit, which commonly is 60 s.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// How often an HTTP/2 client is sent a PING when nothing was received. 20 s; `None` sends none.
    ///
    /// The connection of a client that does not answer in [`ping_timeout`](Self::ping_timeout) is closed: without it, a
    /// client that has vanished holds its streams until the kernel gives up, which may take hours.
    pub fn ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.settings.ping_interval = interval.into();
        self
    }

    /// How long an HTTP/2 client may take to answer a PING. 20 s.
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.settings.ping_timeout = timeout;
        self
    }

    /// How many bytes the head of a request may have. 64 KiB. A larger one is answered 431 over HTTP/1 and HTTP/2
    /// alike; an HTTP/2 client that ignores the limit altogether loses its connection.
    ///
    /// It bounds the memory that a client can make the server hold before any handler runs.
    pub fn max_header_size(mut self, bytes: usize) -> Self {
        self.settings.max_header_size = bytes;
        self
    }

    /// How many bytes of a response the server takes from its body before the client has taken them: per connection over
    /// HTTP/1, per stream over HTTP/2. 64 KiB. An HTTP/1 connection buffers [`max_header_size`](Self::max_header_size) at
    /// least.
    ///
    /// A client that reads slowly holds this much memory, beside what the kernel buffers.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.settings.send_buffer = bytes;
        self
    }

    /// How many requests one HTTP/2 connection may have open at once; the client is told
    /// (SETTINGS_MAX_CONCURRENT_STREAMS), and a stream above it is refused. 200.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.settings.max_concurrent_streams = streams;
        self
    }

    /// How many streams an HTTP/2 client may have opened and reset before the server has looked at them. 20. The connection
    /// of a client that resets more is closed with ENHANCE_YOUR_CALM.
    ///
    /// It stops the rapid reset attack (CVE-2023-44487), which makes a server begin work without end that is
    /// cancelled at once.
    pub fn max_pending_resets(mut self, resets: usize) -> Self {
        self.settings.max_pending_resets = resets;
        self
    }

    /// How many connections may be open at once. No limit by default. The server does not accept more, so that they wait
    /// in the backlog of the listener until one has ended.
    ///
    /// It keeps the server within its descriptors and its memory. Give the clients a share each as well
    /// ([`max_connections_per_client`](Self::max_connections_per_client)), or one client can use all of them up.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections.max(1));
        self
    }

    /// How many connections one client may have open at once; one above that is closed as soon as it is accepted. No limit
    /// by default.
    ///
    /// A client is an IPv4 address, or the /64 of an IPv6 address, because one host usually has all of that. Behind a proxy
    /// every connection comes from the address of the proxy, so do not limit there. It applies to listeners whose address is a
    /// [`SocketAddr`](std::net::SocketAddr): a Unix socket has no clients to tell apart.
    pub fn max_connections_per_client(mut self, connections: usize) -> Self {
        self.max_per_client = Some(connections.max(1));
        self
    }

    /// Encrypts each connection by TLS with this configuration. Its key and certificates are read once; to change them
    /// while the server runs, set [`cert_resolver`](tokio_rustls::rustls::ServerConfig::cert_resolver).
    ///
    /// A configuration without ALPN protocols gets `h2` and `http/1.1`. A handshake holds up no other connection, and the
    /// [`header_timeout`](Self::header_timeout) includes it.
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
    pub fn tls(
        self,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> Serve<crate::TlsListener<L>, S> {
        Serve {
            drain: self.drain,
            listener: crate::TlsListener::new(self.listener, config),
            app: self.app,
            signals: self.signals,
            settings: self.settings,
            max_connections: self.max_connections,
            max_per_client: self.max_per_client,
        }
    }

    /// Closes each connection at about this age, each at another one within 10 %, so that clients spread over new
    /// servers. HTTP/2 is told by GOAWAY, HTTP/1 by `Connection: close` on its next response: no request is lost. Off by
    /// default.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = Some(age);
        self
    }

    /// Closes each connection after about this many requests, 10 % more or less. Off by default.
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.settings.max_requests = Some(requests);
        self
    }
}

impl<L, S, B> IntoFuture for Serve<L, S>
where
    L: Listener,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
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
            Ok(self.run(drain).await)
        })
    }
}

/// How long after an error a connection is accepted again, if none has ended before.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// How many connections are taken from the backlog of a listener that closes: more than a backlog holds, and not without end
/// while clients go on to connect.
const MAX_BACKLOG: u32 = 65_536;

/// After how many of them other tasks of the thread have their turn.
const BACKLOG_STEP: u32 = 64;

/// How long the tasks of aborted connections may take to end.
const ABORT: Duration = Duration::from_millis(250);

impl<L, S, B> Serve<L, S>
where
    L: Listener,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn run(self, drain: Drain) -> Report {
        let serving = drain.server();
        let mut server = Accepted {
            app: self.app,
            settings: Arc::new(self.settings),
            clients: self.max_per_client.map(Clients::new),
            drain: drain.clone(),
            connections: JoinSet::new(),
            count: 0,
        };
        let mut listener = self.listener;
        let max_connections = self.max_connections.unwrap_or(usize::MAX);
        {
            let mut handover = pin!(drain.handover());
            'accepting: loop {
                // It is polled to its end and not dropped when a connection ends: a listener may be in the middle of a
                // connection.
                let mut accept = pin!(listener.accept());
                let incoming = loop {
                    tokio::select! {
                        biased;
                        () = handover.as_mut() => break 'accepting,
                        incoming = accept.as_mut(), if server.connections.len() < max_connections => break incoming,
                        Some(_) = server.connections.join_next() => {}
                    }
                };
                server.begin(incoming);
                // those that have ended, which the loop above does not come to under a flood
                while server.connections.try_join_next().is_some() {}
            }
        }
        let mut dead = pin!(drain.dead());
        let mut taken = 0;
        for incoming in listener.close() {
            match incoming {
                Ok(incoming) => {
                    taken += 1;
                    server.begin(incoming);
                    if taken == MAX_BACKLOG {
                        break;
                    }
                    if taken % BACKLOG_STEP == 0 {
                        while server.connections.try_join_next().is_some() {}
                        yield_now().await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::select! {
                        biased;
                        () = dead.as_mut() => break,
                        // a connection that ends gives its descriptor back; so may something else
                        Some(_) = server.connections.join_next() => {}
                        () = sleep(ACCEPT_AGAIN) => {}
                    }
                }
            }
        }
        let all_done = async { while server.connections.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = all_done => true,
            () = drain.dead() => false,
        };
        let connections_aborted = server.connections.len() as u64;
        server.connections.abort_all();
        let aborted = async { while server.connections.join_next().await.is_some() {} };
        // a handler that blocks its thread cannot be aborted: it is left behind
        let _ = timeout(ABORT, aborted).await;
        server.connections.detach_all();
        drop(serving);
        if in_time {
            // requests of another server, or tokens, may still hold the drain
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
        tracing::info!("{report}");
        report
    }
}

/// The connections of a server, and what each of them gets.
struct Accepted<S> {
    app: S,
    settings: Arc<Settings>,
    clients: Option<Clients>,
    drain: Drain,
    connections: JoinSet<()>,
    count: u64,
}

impl<S, B> Accepted<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn begin<I, A>(&mut self, (io, peer): (I, A))
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
        let app = self.app.clone();
        let settings = Arc::clone(&self.settings);
        let connection = connection::serve(io, peer, app, settings, self.drain.clone());
        self.connections.spawn(async move {
            connection.await;
            drop(place);
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
