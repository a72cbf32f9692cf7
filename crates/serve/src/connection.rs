//! One connection.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tower_service::Service;
use tower_stream_core::{BoxError, Cause, Exchange};
use tower_stream_drain::{
    Drain,
    server::{Closing, RefusedStream, UnreadUpload},
};

use crate::{
    activity::{Activity, ClientTimer, HeadTimer, Lateness},
    aside::Aside,
    linger::{Linger, Lingering},
    preface::{Peeked, Version},
    settings::{FOR_EVER, Settings},
    socket::{Abort, Socket},
    streams::{GuardedBody, Spawn, StreamGuard, Streams},
};

/// How long a connection without a request stays open after the close. If its client connected before that, its first
/// request has usually reached the kernel already.
const FIRST_REQUEST: Duration = Duration::from_millis(50);

/// How long to wait for a connection that was told to close and serves nothing. An HTTP/2 client must acknowledge the
/// GOAWAY, which a vanished client never does.
const UNACKNOWLEDGED: Duration = Duration::from_secs(1);

/// State shared by a connection and its requests.
#[derive(Debug)]
struct ConnectionHandle {
    version: Version,
    activity: Arc<Activity>,
    linger: Linger,
    abort: Abort,
    has_stall_guard: bool,
    /// Of an HTTP/2 connection.
    streams: Option<Arc<Streams>>,
    /// Of the last request of an HTTP/1 connection.
    exchange: Mutex<Option<Exchange>>,
    /// Whether the connection should close. An HTTP/1 client is told by the next response.
    retired: AtomicBool,
    retire: Notify,
    requests: AtomicU64,
    max_requests: u64,
}

/// Serves one connection to its end.
pub(crate) async fn serve<I, A, S, B>(
    io: I,
    tcp: fn(&I) -> Option<&TcpStream>,
    peer: A,
    app: S,
    settings: Arc<Settings>,
    drain: Drain,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let activity = Arc::new(Activity::new(&settings));
    let io = Socket::new(io, tcp, Arc::clone(&activity), &settings);
    let abort = io.abort();
    let old_at = settings.max_age.and_then(|age| {
        let age = Duration::try_from_secs_f64(jittered(age.as_secs_f64())).ok()?;
        Instant::now().checked_add(age)
    });
    let mut timer = pin!(ClientTimer::new(Arc::clone(&activity)));
    let peeked = tokio::select! {
        biased;
        peeked = Peeked::read(io) => peeked,
        _ = timer.as_mut() => return trace_silence(),
        () = first_request_is_late(&drain) => return,
    };
    let (io, version) = match peeked {
        Ok(peeked) => peeked,
        Err(error) => {
            tracing::trace!(%error, "connection failed before its first request");
            return;
        }
    };
    let streams = (version == Version::Http2).then(|| Streams::new(Arc::clone(&activity)).into());
    let handle = Arc::new(ConnectionHandle {
        version,
        activity: Arc::clone(&activity),
        linger: Linger::default(),
        abort,
        has_stall_guard: settings.has_stall_guard(),
        streams,
        exchange: Mutex::default(),
        // The first request may arrive when the connection is already old.
        retired: AtomicBool::new(old_at.is_some_and(|at| at <= Instant::now())),
        retire: Notify::new(),
        requests: AtomicU64::new(0),
        max_requests: settings
            .max_requests
            .map_or(u64::MAX, |max| jittered(max as f64) as u64)
            .max(1),
    });
    let io = TokioIo::new(Lingering::new(io, handle.linger.clone()));
    let app = Guarded {
        app: TowerToHyperService::new(Connected {
            app,
            peer,
            handle: Arc::clone(&handle),
        }),
        handle: Arc::clone(&handle),
    };
    match &handle.streams {
        None => {
            let mut builder = http1::Builder::new();
            builder
                .timer(HeadTimer(activity))
                .header_read_timeout(FOR_EVER)
                .max_header_size(settings.max_header_size)
                .max_buf_size(settings.http1_buffer());
            let connection = builder.serve_connection(io, app).with_upgrades();
            run(connection, timer, &handle, old_at, &drain).await;
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
            run(connection, timer, &handle, old_at, &drain).await;
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
    timer: Pin<&mut ClientTimer>,
    handle: &ConnectionHandle,
    old_at: Option<Instant>,
    drain: &Drain,
) {
    let mut connection = pin!(connection);
    let mut told = pin!(told_to_close(handle, old_at, drain));
    let mut stuck = pin!(stuck(handle));
    let mut timer = timer;
    let mut aside = Aside::new();
    let event = poll_fn(|task| {
        if let Poll::Ready(end) = connection.as_mut().poll(task) {
            return Poll::Ready(Event::End(end));
        }
        let late = timer.fires_too_late();
        aside.poll(task, late, |cx| {
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Told);
            }
            if let Poll::Ready(cause) = stuck.as_mut().poll(cx) {
                return Poll::Ready(Event::Late(Lateness::Stalled(cause)));
            }
            timer.as_mut().poll(cx).map(Event::Late)
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
        Event::Late(Lateness::Stalled(cause)) => return handle.reader_stopped(cause),
        Event::Told | Event::Late(Lateness::Silent) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        end = connection.as_mut() => trace_end(end),
        cause = stuck => handle.reader_stopped(cause),
        cause = stalled(timer) => handle.reader_stopped(cause),
        () = first_request_is_late(drain), if handle.has_no_request() => {}
        () = has_gone(&handle.activity) => trace_silence(),
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
async fn stalled(mut timer: Pin<&mut ClientTimer>) -> Cause {
    match timer.as_mut().await {
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
    fn request_begins(&self) {
        if self.version == Version::Http1 {
            self.activity.request_begins();
        }
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= self.max_requests {
            self.retired.store(true, Ordering::Relaxed);
            self.retire.notify_one();
        }
    }

    /// The caller drops the connection next, and with it the response body of an HTTP/1 connection. The streams of an
    /// HTTP/2 connection then end in their own tasks.
    fn reader_stopped(&self, cause: Cause) {
        tracing::debug!("connection aborted: {}", cause.message());
        self.abort.set();
        match &self.streams {
            Some(streams) => streams.abort(cause),
            None => {
                if let Some(exchange) = self.exchange.lock().take() {
                    exchange.record(cause);
                }
            }
        }
    }

    fn has_no_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

/// The app, as one connection uses it.
#[derive(Clone)]
struct Connected<S, A> {
    app: S,
    peer: A,
    handle: Arc<ConnectionHandle>,
}

impl<S, A, B> Service<Request<Incoming>> for Connected<S, A>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    A: Clone + Send + Sync + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.app.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        self.handle.request_begins();
        let closing = Closing::of(request.version());
        let connect = *request.method() == Method::CONNECT;
        // One of the two, because each insertion costs about 400 instructions. `PeerAddr::of` reads both.
        #[cfg(feature = "axum")]
        let peer = axum::extract::ConnectInfo(self.peer.clone());
        #[cfg(not(feature = "axum"))]
        let peer = tower_stream_core::PeerAddr(self.peer.clone());
        request.extensions_mut().insert(peer);
        Answer {
            future: self.app.call(request),
            handle: Arc::clone(&self.handle),
            closing,
            connect,
        }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        future: F,
        handle: Arc<ConnectionHandle>,
        closing: Closing,
        connect: bool,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx)).map_err(Into::into)?;
        if response.extensions().get::<RefusedStream>().is_some() {
            // If a service fails, hyper resets its stream without a head, with the reason in the error.
            let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
            return Poll::Ready(Err(refused.into()));
        }
        if response.extensions().get::<UnreadUpload>().is_some() {
            this.handle.linger.set();
        }
        if this.handle.retired.load(Ordering::Relaxed) {
            let (mut head, body) = response.into_parts();
            this.closing.close(*this.connect, &mut head);
            response = Response::from_parts(head, body);
        }
        Poll::Ready(Ok(response))
    }
}

/// The app, with the stall guard of each request. hyper calls it in the task of the connection, before it spawns the
/// stream of an HTTP/2 request; [`Connected`] is called in the task of the stream.
struct Guarded<S> {
    app: S,
    handle: Arc<ConnectionHandle>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<GuardedBody<B>>;
    type Error = S::Error;
    type Future = GuardedAnswer<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let mut guard = None;
        if self.handle.has_stall_guard {
            let exchange = Exchange::of(request.extensions_mut());
            match &self.handle.streams {
                Some(streams) => guard = Some(streams.guard(exchange)),
                None => *self.handle.exchange.lock() = Some(exchange),
            }
        }
        GuardedAnswer {
            future: self.app.call(request),
            handle: Arc::clone(&self.handle),
            guard,
        }
    }
}

pin_project! {
    struct GuardedAnswer<F> {
        #[pin]
        future: F,
        handle: Arc<ConnectionHandle>,
        guard: Option<Arc<StreamGuard>>,
    }
}

impl<F, B, E> Future for GuardedAnswer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<GuardedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        if response.extensions().get::<Exchange>().is_some() {
            // The request may have been retried. The attempt with this response is the one that counts.
            match this.guard {
                Some(guard) => guard.exchange().lock().join(response.extensions_mut()),
                None => {
                    if let Some(exchange) = &mut *this.handle.exchange.lock() {
                        exchange.join(response.extensions_mut());
                    }
                }
            }
        }
        let guard = this.guard.take();
        Poll::Ready(Ok(response.map(|body| GuardedBody::new(body, guard))))
    }
}
