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
use http::{Request, Response, Version};
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
    sync::{Notify, watch},
    task::yield_now,
    time::sleep,
};
use tower_service::Service;
use tower_stream_core::{BoxError, PeerAddr};

use super::{linger::Lingering, reached};
use crate::{
    close::{Closing, is_connect},
    drain::Step,
    link::Link,
    refusal::RefusedStream,
    settings::{FOR_EVER, at_most_for_ever},
};

/// When a connection is closed although nothing is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) age: Option<Duration>,
    pub(super) requests: Option<u64>,
    pub(super) header_read_timeout: Option<Duration>,
}

/// How long a connection without a request is left open after the close. The first request of a client that connected
/// before it is mostly in the kernel already.
const FIRST_REQUEST: Duration = Duration::from_millis(50);

/// What the connection and its requests know of each other.
#[derive(Debug)]
struct Shared {
    link: Link,
    h2: AtomicBool,
    /// the limit is reached: HTTP/1 is told with its next response
    retired: AtomicBool,
    retire: Notify,
    requests: AtomicU64,
    max_requests: u64,
}

/// Serves one connection to its end.
pub(super) async fn serve<I, A, S, B>(
    io: I,
    peer: A,
    app: S,
    limits: Limits,
    mut steps: watch::Receiver<Step>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Clone + Send + Sync + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = Arc::new(Shared {
        link: Link::default(),
        h2: AtomicBool::new(false),
        retired: AtomicBool::new(false),
        retire: Notify::new(),
        requests: AtomicU64::new(0),
        max_requests: limits
            .requests
            .map_or(u64::MAX, |max| jittered(max as f64) as u64)
            .max(1),
    });
    let io = TokioIo::new(Lingering::new(io, shared.link.clone()));
    let app = Connected {
        app,
        peer,
        shared: Arc::clone(&shared),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().enable_connect_protocol();
    if let Some(timeout) = limits.header_read_timeout {
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(at_most_for_ever(timeout));
    }
    let connection = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(app));
    let mut connection = pin!(connection);

    let mut ended = None;
    tokio::select! {
        biased;
        end = connection.as_mut() => ended = Some(end),
        () = told_to_close(&shared, limits.age, &mut steps) => {}
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
async fn told_to_close(shared: &Shared, age: Option<Duration>, steps: &mut watch::Receiver<Step>) {
    let mut handover = steps.clone();
    let goaway = async {
        tokio::select! {
            () = reached(&mut handover, Step::Handover) => {}
            () = old(age) => {}
            () = shared.retire.notified() => {}
        }
        shared.retired.store(true, Ordering::Relaxed);
        while !shared.h2.load(Ordering::Relaxed) {
            // by the next request, which may be the first
            shared.retire.notified().await;
        }
    };
    let close = async {
        reached(steps, Step::Close).await;
        // A connection that was accepted just now may have a request on its way that nobody has read.
        if shared.requests.load(Ordering::Relaxed) == 0 {
            sleep(FIRST_REQUEST).await;
        }
        // A request may have arrived that the runtime has not seen yet: let it look, and the connection read.
        for _ in 0..3 {
            yield_now().await;
        }
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

impl Shared {
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
    shared: Arc<Shared>,
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
        self.shared
            .h2
            .store(request.version() >= Version::HTTP_2, Ordering::Relaxed);
        self.shared.count();
        let closing = Closing::of(request.version());
        let connect = is_connect(request.method());
        let extensions = request.extensions_mut();
        extensions.insert(self.shared.link.clone());
        extensions.insert(PeerAddr(self.peer.clone()));
        Answer {
            future: self.app.call(request),
            shared: Arc::clone(&self.shared),
            closing,
            connect,
        }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        future: F,
        shared: Arc<Shared>,
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
        if this.shared.retired.load(Ordering::Relaxed) {
            this.closing.close(*this.connect, &mut response);
        }
        Poll::Ready(Ok(response))
    }
}
