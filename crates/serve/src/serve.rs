//! The server and its accept loop.

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_service::Service;
use tower_stream_core::BoxError;
use tower_stream_drain::Drain;

use crate::{
    Listener, Report,
    connection::{self, Limits},
};

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
        limits: Limits::default(),
    }
}

/// A server, to be awaited; from [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<L, S> {
    drain: Option<Drain>,
    listener: L,
    app: S,
    signals: bool,
    limits: Limits,
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

    /// Closes each connection at about this age, each at another one within 10 %, so that clients spread over new
    /// servers. HTTP/2 is told by GOAWAY, HTTP/1 by `Connection: close` on its next response: no request is lost.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.limits.age = Some(age);
        self
    }

    /// Closes each connection after about this many requests, 10 % more or less.
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.limits.requests = Some(requests);
        self
    }

    /// Closes an HTTP/1 connection whose next request head is not complete after this time, idle time included. Without
    /// it, none is, as with `axum::serve`.
    pub fn header_read_timeout(mut self, timeout: Duration) -> Self {
        self.limits.header_read_timeout = Some(timeout);
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
        let mut connections = JoinSet::new();
        let mut accepted = 0;
        let mut listener = self.listener;
        let connection =
            |(io, peer), app| connection::serve(io, peer, app, self.limits, drain.clone());
        let mut handover = pin!(drain.handover());
        loop {
            tokio::select! {
                biased;
                () = handover.as_mut() => break,
                incoming = listener.accept() => {
                    accepted += 1;
                    connections.spawn(connection(incoming, self.app.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        let mut dead = pin!(drain.dead());
        for incoming in listener.close() {
            match incoming {
                Ok(incoming) => {
                    accepted += 1;
                    connections.spawn(connection(incoming, self.app.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    tokio::select! {
                        biased;
                        () = dead.as_mut() => break,
                        // a connection that ends gives its descriptor back; so may something else
                        Some(_) = connections.join_next() => {}
                        () = sleep(ACCEPT_AGAIN) => {}
                    }
                }
            }
        }
        let all_done = async { while connections.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            biased;
            () = all_done => true,
            () = drain.dead() => false,
        };
        let connections_aborted = connections.len() as u64;
        connections.abort_all();
        let aborted = async { while connections.join_next().await.is_some() {} };
        // a handler that blocks its thread cannot be aborted: it is left behind
        let _ = timeout(ABORT, aborted).await;
        connections.detach_all();
        drop(serving);
        if in_time {
            // requests of another server, or tokens, may still hold the drain
            drain.dead().await;
        }
        let report = Report {
            stats: drain.stats(),
            connections: accepted,
            connections_aborted,
            took: drain
                .started_at()
                .map_or(Duration::ZERO, |started| started.elapsed()),
        };
        tracing::info!("{report}");
        report
    }
}

impl<L, S> fmt::Debug for Serve<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("drain", &self.drain)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
