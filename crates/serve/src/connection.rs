//! One connection.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    task::yield_now,
    time::sleep,
};
use tower_service::Service;
use tower_stream_core::{BoxError, PeerAddr};

use tower_stream_drain::{
    Drain,
    server::{Closing, RefusedStream, UnreadUpload},
};

use crate::linger::{Linger, Lingering};

/// Longer than any process runs, and short enough to be added to a time of day: hyper adds its timeouts to one, which
/// panics where that overflows.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// When a connection is closed although nothing is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) age: Option<Duration>,
    pub(crate) requests: Option<u64>,
    pub(crate) header_read_timeout: Option<Duration>,
}

/// How long a connection without a request is left open after the close. The first request of a client that connected
/// before it is mostly in the kernel already.
const FIRST_REQUEST: Duration = Duration::from_millis(50);

/// What a connection and its requests tell each other.
#[derive(Debug)]
struct ConnectionHandle {
    linger: Linger,
    h2: AtomicBool,
    /// The connection is to close: HTTP/1 is told with its next response.
    retired: AtomicBool,
    retire: Notify,
    requests: AtomicU64,
    max_requests: u64,
}

/// Serves one connection to its end.
pub(crate) async fn serve<I, A, S, B>(io: I, peer: A, app: S, limits: Limits, drain: Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let handle = Arc::new(ConnectionHandle {
        linger: Linger::default(),
        h2: AtomicBool::new(false),
        retired: AtomicBool::new(false),
        retire: Notify::new(),
        requests: AtomicU64::new(0),
        max_requests: limits
            .requests
            .map_or(u64::MAX, |max| jittered(max as f64) as u64)
            .max(1),
    });
    let io = TokioIo::new(Lingering::new(io, handle.linger.clone()));
    let app = Connected {
        app,
        peer,
        handle: Arc::clone(&handle),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().enable_connect_protocol();
    if let Some(timeout) = limits.header_read_timeout {
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(timeout.min(FOR_EVER));
    }
    let connection = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(app));
    let mut connection = pin!(connection);

    let mut ended = None;
    tokio::select! {
        biased;
        end = connection.as_mut() => ended = Some(end),
        () = told_to_close(&handle, limits.age, &drain) => {}
    }
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        ended = Some(connection.await);
    }
    if let Some(Err(error)) = ended {
        tracing::trace!(%error, "connection failed");
    }
}

/// Waits until the connection has to be shut down.
///
/// HTTP/2 has GOAWAY, after which nothing is lost, so it is told at the handover and when it gets too old. HTTP/1 can
/// only be told by a response; shut down while idle it may lose a request, so that waits for the close.
async fn told_to_close(connection: &ConnectionHandle, age: Option<Duration>, drain: &Drain) {
    tokio::select! {
        () = drain.handover() => {}
        () = old(age) => {}
        () = connection.retire.notified() => {}
    }
    connection.retired.store(true, Ordering::Relaxed);
    let goaway = async {
        while !connection.h2.load(Ordering::Relaxed) {
            // by the next request, which may be the first
            connection.retire.notified().await;
        }
    };
    let close = async {
        drain.close().await;
        // A connection that was accepted just now may have a request on its way that nobody has read.
        if connection.requests.load(Ordering::Relaxed) == 0 {
            sleep(FIRST_REQUEST).await;
        }
        // hyper closes an idle connection without a look at its socket. A request may be there that tokio has not seen:
        // this task goes on after tokio has asked the system, and then polls the connection first, which reads it.
        yield_now().await;
    };
    tokio::select! {
        () = goaway => {}
        () = close => {}
    }
}

async fn old(age: Option<Duration>) {
    match age {
        Some(age) => {
            let age = jittered(age.as_secs_f64());
            sleep(Duration::try_from_secs_f64(age).unwrap_or(FOR_EVER)).await;
        }
        None => std::future::pending().await,
    }
}

/// 10 % more or less.
fn jittered(value: f64) -> f64 {
    value * (0.9 + 0.2 * fastrand::f64())
}

impl ConnectionHandle {
    fn count(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= self.max_requests {
            self.retired.store(true, Ordering::Relaxed);
        }
        if self.retired.load(Ordering::Relaxed) {
            self.retire.notify_one();
        }
    }
}

/// The app as one connection sees it.
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
        self.handle
            .h2
            .store(request.version() >= Version::HTTP_2, Ordering::Relaxed);
        self.handle.count();
        let closing = Closing::of(request.version());
        let connect = *request.method() == Method::CONNECT;
        request.extensions_mut().insert(PeerAddr(self.peer.clone()));
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
            // hyper resets the stream of a service that fails, with the reason in its error and without a head
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
