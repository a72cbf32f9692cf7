//! One connection.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tower_service::Service;
use tower_stream_core::{BoxError, Cause, drop_for};
use tower_stream_drain::Drain;

use crate::{
    activity::{Activity, Lateness},
    alarm::{Alarm, Deadline},
    aside::Aside,
    client_io::ClientIo,
    pace::Pace,
    preface::{Peeked, Version},
    request_body::RequestBody,
    service::ConnectedApp,
    settings::{FOR_EVER, Settings},
    socket::Socket,
    streams::{Spawn, StreamGuard, Streams},
};

/// How long a connection without a request stays open after the close. If its client connected before that, its first
/// request has usually reached the kernel already.
const FIRST_REQUEST: Duration = Duration::from_millis(50);

/// How long to wait for a connection that was told to close and serves nothing. An HTTP/2 client must acknowledge the
/// GOAWAY, which a vanished client never does.
const UNACKNOWLEDGED: Duration = Duration::from_secs(1);

/// State shared by a connection and its requests.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    pub(crate) version: Version,
    pub(crate) activity: Arc<Activity>,
    /// Of an HTTP/2 connection with a stall guard.
    streams: Option<Arc<Streams>>,
    /// Whether the connection should close. An HTTP/1 client is told by the next response.
    pub(crate) retired: AtomicBool,
    retire: Notify,
    requests: AtomicU64,
    max_requests: u64,
    pub(crate) has_min_rate: bool,
}

/// A connection that has just been accepted.
pub(crate) struct Connection<A, S> {
    pub(crate) peer: A,
    pub(crate) app: S,
    pub(crate) settings: Arc<Settings>,
    pub(crate) drain: Drain,
}

impl<A, S, B> Connection<A, S>
where
    A: Clone + Send + Sync + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves the connection to its end.
    pub(crate) async fn serve<I>(self, io: I, tcp: fn(&I) -> Option<&TcpStream>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new(&self.settings));
        let alarm = Alarm::new(Arc::clone(&activity));
        let socket = Socket::new(io, tcp, activity, &self.settings);
        #[cfg(feature = "tls")]
        if let Some(config) = &self.settings.tls {
            let accept = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(socket);
            // Boxed: a connection without TLS should not be larger.
            return Box::pin(self.handshake(accept, alarm)).await;
        }
        self.converse(socket, alarm).await;
    }

    #[cfg(feature = "tls")]
    async fn handshake<I>(self, accept: tokio_rustls::Accept<Socket<I>>, mut alarm: Alarm<Activity>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some(stream) = begins(accept, &mut alarm, &self.drain).await {
            self.converse(stream, alarm).await;
        }
    }

    /// Speaks HTTP with a client.
    async fn converse<I>(self, mut io: I, mut alarm: Alarm<Activity>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some((peeked, version)) = begins(Peeked::read(&mut io), &mut alarm, &self.drain).await
        else {
            return;
        };
        let settings = self.settings;
        let activity = Arc::clone(alarm.of());
        let began = activity.clock().began();
        let old_at = settings.max_age.and_then(|age| {
            let age = Duration::try_from_secs_f64(jittered(age.as_secs_f64())).ok()?;
            began.checked_add(age)
        });
        let streams = || Arc::new(Streams::new(Arc::clone(&activity), &settings));
        let handle = Arc::new(ConnectionHandle {
            version,
            activity: Arc::clone(&activity),
            streams: (version == Version::Http2).then(streams),
            // The first request may arrive when the connection is already old.
            retired: AtomicBool::new(old_at.is_some_and(|at| at <= Instant::now())),
            retire: Notify::new(),
            requests: AtomicU64::new(0),
            max_requests: settings
                .max_requests
                .map_or(u64::MAX, |max| jittered(max as f64) as u64)
                .max(1),
            has_min_rate: settings.min_rate.is_some(),
        });
        let io = TokioIo::new(ClientIo::new(io, peeked, Arc::clone(&activity)));
        let app = ConnectedApp::new(self.app, self.peer, Arc::clone(&handle));
        match &handle.streams {
            None => {
                // Without a timer, because `Activity` measures the time of a head. hyper's own costs a second round of
                // polls per request.
                let mut builder = http1::Builder::new();
                builder
                    .max_header_size(settings.max_header_size)
                    .max_buf_size(settings.http1_buffer());
                let connection = builder.serve_connection(io, app).with_upgrades();
                run(connection, alarm, &handle, old_at, &self.drain).await;
            }
            Some(streams) => {
                let mut builder = http2::Builder::new(Spawn(Arc::clone(streams)));
                builder
                    .enable_connect_protocol()
                    .timer(TokioTimer::new())
                    .keep_alive_interval(settings.ping_interval.map(|time| time.min(FOR_EVER)))
                    .keep_alive_timeout(settings.ping_timeout.min(FOR_EVER))
                    .max_header_list_size(settings.http2_header_list())
                    .max_send_buf_size(settings.http2_send_buffer())
                    .max_concurrent_streams(settings.max_concurrent_streams)
                    .max_pending_accept_reset_streams(settings.max_pending_resets);
                let connection = builder.serve_connection(io, app);
                run(connection, alarm, &handle, old_at, &self.drain).await;
            }
        }
    }
}

/// Waits for the client to do the next step before its first request. Returns `None` if the connection ends before.
async fn begins<T>(
    step: impl Future<Output = io::Result<T>>,
    alarm: &mut Alarm<Activity>,
    drain: &Drain,
) -> Option<T> {
    let done = tokio::select! {
        biased;
        done = step => done,
        _ = alarm => {
            trace_silence();
            return None;
        }
        () = first_request_is_late(drain) => return None,
    };
    match done {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::trace!(%error, "connection failed before its first request");
            None
        }
    }
}

/// A connection of either HTTP version.
trait Shutdown: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, S, B> Shutdown for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Shutdown for http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What ends the normal operation of a connection.
enum Event {
    End(hyper::Result<()>),
    Told,
    Late(Lateness),
}

/// Drives a connection to its end.
async fn run(
    connection: impl Shutdown,
    mut alarm: Alarm<Activity>,
    handle: &ConnectionHandle,
    old_at: Option<Instant>,
    drain: &Drain,
) {
    let mut connection = pin!(Some(connection));
    let mut told = pin!(told_to_close(handle, old_at, drain));
    let mut stuck = pin!(stuck(handle));
    let mut aside = Aside::new();
    let event = poll_fn(|task| {
        if let Poll::Ready(end) = poll_connection(connection.as_mut(), task) {
            return Poll::Ready(Event::End(end));
        }
        let late = alarm.fires_too_late();
        aside.poll(task, late, |cx| {
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Told);
            }
            if let Poll::Ready(cause) = stuck.as_mut().poll(cx) {
                return Poll::Ready(Event::Late(Lateness::Stalled(cause)));
            }
            Pin::new(&mut alarm).poll(cx).map(Event::Late)
        })
    });
    match event.await {
        Event::End(end) => return trace_end(end),
        // GOAWAY loses no request that is on its way. HTTP/1 has no equivalent.
        Event::Late(Lateness::Silent)
            if handle.version == Version::Http1 || handle.has_no_request() =>
        {
            return trace_silence();
        }
        Event::Late(Lateness::Stalled(cause)) => {
            return handle.reader_stopped(cause, || connection.set(None));
        }
        Event::Told | Event::Late(Lateness::Silent) => {}
    }
    if let Some(connection) = connection.as_mut().as_pin_mut() {
        connection.graceful_shutdown();
    }
    let cause = tokio::select! {
        biased;
        end = poll_fn(|cx| poll_connection(connection.as_mut(), cx)) => return trace_end(end),
        cause = stuck => cause,
        cause = stalled(alarm) => cause,
        () = first_request_is_late(drain), if handle.has_no_request() => return,
        () = has_gone(&handle.activity) => return trace_silence(),
    };
    handle.reader_stopped(cause, || connection.set(None));
}

/// Polls a connection that has not been dropped.
#[inline]
fn poll_connection<C: Shutdown>(
    connection: Pin<&mut Option<C>>,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>> {
    match connection.as_pin_mut() {
        Some(connection) => connection.poll(cx),
        None => Poll::Ready(Ok(())),
    }
}

/// Waits until the client of an HTTP/2 connection reads none of its streams.
async fn stuck(handle: &ConnectionHandle) -> Cause {
    match &handle.streams {
        Some(streams) => streams.stuck().await,
        None => std::future::pending().await,
    }
}

/// Waits until the client has stopped reading.
async fn stalled(alarm: Alarm<Activity>) -> Cause {
    match alarm.await {
        Lateness::Stalled(cause) => cause,
        // `has_gone` closes the connection soon.
        Lateness::Silent => std::future::pending().await,
    }
}

fn trace_end(end: hyper::Result<()>) {
    if let Err(error) = end {
        tracing::trace!(%error, "connection failed");
    }
}

fn trace_silence() {
    tracing::trace!("connection closed: its client sent no request in time");
}

/// Waits until the server need not wait any longer for a connection that has sent no request.
async fn first_request_is_late(drain: &Drain) {
    drain.close().await;
    sleep(FIRST_REQUEST).await;
}

/// Waits until a connection that was told to close has served nothing for a while.
async fn has_gone(activity: &Activity) {
    let told = Instant::now();
    loop {
        let idle = activity.idle().map(|idle| idle.min(told.elapsed()));
        match UNACKNOWLEDGED.checked_sub(idle.unwrap_or_default()) {
            None | Some(Duration::ZERO) => return,
            Some(left) => sleep(left).await,
        }
    }
}

/// Waits until the connection has to be shut down.
///
/// HTTP/2 has GOAWAY, which loses no request, so this is at the handover, or when the connection reaches its maximum
/// age. HTTP/1 can only be told by a response. Shutting down an idle HTTP/1 connection may lose a request, so this
/// waits for the close.
async fn told_to_close(connection: &ConnectionHandle, old_at: Option<Instant>, drain: &Drain) {
    tokio::select! {
        () = drain.handover() => {}
        () = reached(old_at) => {}
        () = connection.retire.notified() => {}
    }
    connection.retired.store(true, Ordering::Relaxed);
    if connection.version == Version::Http2 {
        return;
    }
    drain.close().await;
    // The client of a connection that was just accepted may have sent a request that has not been read.
    if connection.has_no_request() {
        sleep(FIRST_REQUEST).await;
    }
    // hyper closes an idle connection without reading its socket again. A request that tokio has not noticed may be
    // waiting there. After this yield, tokio has asked the kernel, and the connection is polled first, which reads the
    // request.
    yield_now().await;
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Varies the value by up to 10 % in both directions.
fn jittered(value: f64) -> f64 {
    value * (0.9 + 0.2 * fastrand::f64())
}

impl ConnectionHandle {
    /// A request has been read.
    #[inline]
    pub(crate) fn request_begins(self: &Arc<Self>) -> RequestPart {
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= self.max_requests {
            self.retired.store(true, Ordering::Relaxed);
            self.retire.notify_one();
        }
        let guard = self.streams.as_ref().and_then(Streams::guard);
        RequestPart::of(self, guard)
    }

    /// How the client takes what the connection writes.
    pub(crate) fn pace(&self) -> &Pace {
        self.activity.writes()
    }

    /// A request body was sent too slowly. hyper closes an HTTP/1 connection whose request it has not read to the end.
    pub(crate) fn upload_is_cut(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.activity.lingers.store(true, Ordering::Relaxed);
    }

    /// Drops the connection, and with it the response body of an HTTP/1 connection. The streams of an HTTP/2 connection
    /// then end in their own tasks.
    fn reader_stopped(&self, cause: Cause, drop: impl FnOnce()) {
        tracing::debug!("connection aborted: {}", cause.message());
        self.activity.aborts.store(true, Ordering::Relaxed);
        if let Some(streams) = &self.streams {
            streams.abort(cause.clone());
        }
        drop_for(cause, drop);
    }

    fn has_no_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

/// One part of a request that is being served, its body or its response, until this is dropped. An HTTP/1 connection
/// waits for its next request when both have ended.
#[derive(Debug)]
pub(crate) struct RequestPart {
    connection: Arc<ConnectionHandle>,
    /// Of the response of an HTTP/2 request, if the server has a stall guard.
    guard: Option<Arc<StreamGuard>>,
}

impl RequestPart {
    #[inline]
    fn of(connection: &Arc<ConnectionHandle>, guard: Option<Arc<StreamGuard>>) -> Self {
        if connection.version == Version::Http1 {
            connection.activity.part_begins();
        }
        Self {
            connection: Arc::clone(connection),
            guard,
        }
    }

    /// The body of a request.
    pub(crate) fn body_of(connection: &Arc<ConnectionHandle>) -> Self {
        Self::of(connection, None)
    }

    pub(crate) fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    #[inline]
    pub(crate) fn guard(&self) -> Option<&StreamGuard> {
        self.guard.as_deref()
    }
}

impl Drop for RequestPart {
    #[inline]
    fn drop(&mut self) {
        if self.connection.version == Version::Http1 {
            self.connection.activity.part_ends();
        }
    }
}
