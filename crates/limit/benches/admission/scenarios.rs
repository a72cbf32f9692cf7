//! Three situations that a limit or a breaker is for, and what becomes of them with each candidate.
//!
//! They run on a paused clock: the figures depend on the candidate only, not on the machine. `tower_governor` reads another
//! clock, so it has no row where time passes.

#![allow(clippy::print_stdout)] // a table

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use failsafe::futures::CircuitBreaker;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower::{
    ServiceExt, layer::layer_fn, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer,
    service_fn,
};
use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder};
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;
use tower_stream_limit::{Adaptive, BreakerLayer, StreamLimitLayer};

use crate::request;

/// Prints the figures of all situations.
pub(crate) fn print() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        dying().await;
        cancelled().await;
        overloaded().await;
    });
}

/// 1,000 requests to an origin whose streams all die in the middle: how many does it have to answer?
async fn dying() {
    println!(
        "\nan origin that always dies in mid-stream, of 1,000 requests: answered by the origin"
    );
    async fn run<L, S, B>(name: &str, layer: L)
    where
        L: Layer<Origin, Service = S>,
        S: Service<Request<()>, Response = Response<B>> + Clone,
        B: http_body::Body<Data = Bytes>,
    {
        let origin = Origin::new(|origin| async move {
            origin.begun.fetch_add(1, Ordering::Relaxed);
            let died = io::Error::other("died");
            Body::from_stream(stream::iter([Ok(Bytes::from("data: a\n\n")), Err(died)]))
        });
        let service = layer.layer(origin.clone());
        for _ in 0..1_000 {
            if let Ok(response) = service.clone().oneshot(request()).await {
                let _ = response.into_body().collect().await;
            }
        }
        println!("{name:40}{:>8}", origin.begun.load(Ordering::Relaxed));
    }
    run("no layer", Identity::new()).await;
    run(
        "tower ConcurrencyLimit",
        GlobalConcurrencyLimitLayer::new(10),
    )
    .await;
    let config = GovernorConfigBuilder::default()
        .per_nanosecond(1)
        .burst_size(1_000_000)
        .finish();
    run(
        "tower_governor",
        GovernorLayer::new(config.expect("a quota")),
    )
    .await;
    let judge = failsafe::Config::new().build();
    let failsafe = layer_fn(|origin: Origin| {
        let judge = judge.clone();
        service_fn(move |request: Request<()>| {
            let (judge, origin) = (judge.clone(), origin.clone());
            async move { judge.call(origin.oneshot(request)).await }
        })
    });
    run("failsafe", failsafe).await;
    run("StreamLimitLayer", StreamLimitLayer::new().streams(10)).await;
    run("BreakerLayer", BreakerLayer::new()).await;
}

/// 10,000 requests of 50 clients at a limit of 10. A third of the clients leave before the head, and a third after one chunk.
async fn cancelled() {
    const LIMIT: usize = 10;
    const CLIENTS: usize = 50;
    println!(
        "\n10,000 requests of {CLIENTS} clients, two thirds cancelled, limit {LIMIT}: most streams open at once, permits in use afterwards"
    );
    async fn run<L, S, B>(name: &str, layer: L, in_use: impl Fn() -> usize)
    where
        L: Layer<Origin, Service = S>,
        S: Service<Request<()>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        B: http_body::Body<Data = Bytes> + Send,
    {
        let origin = Origin::new(|origin| async move {
            let open = Open::new(origin);
            sleep(Duration::from_millis(2)).await;
            Body::from_stream(stream::unfold((0, open), |(n, open)| async move {
                sleep(Duration::from_millis(5)).await;
                let chunk = Ok::<_, io::Error>(Bytes::from("data: a\n\n"));
                (n < 5).then_some((chunk, (n + 1, open)))
            }))
        });
        let service = layer.layer(origin.clone());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let service = service.clone();
            clients.spawn(async move {
                for n in (client..10_000).step_by(CLIENTS) {
                    let (wait, chunks) = [(1, 0), (1_000, 1), (1_000, 9)][n % 3];
                    let visit = visit(service.clone(), chunks);
                    let _ = timeout(Duration::from_millis(wait), visit).await;
                }
            });
        }
        clients.join_all().await;
        let most = origin.most.load(Ordering::Relaxed);
        println!("{name:40}{most:>8}{:>8}", in_use());
    }
    run("no layer", Identity::new(), || 0).await;
    let permits = Arc::new(Semaphore::new(LIMIT));
    let layer = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let in_use = || LIMIT - permits.available_permits();
    run("tower ConcurrencyLimit", layer, in_use).await;
    let limit = StreamLimitLayer::new()
        .streams(LIMIT)
        .wait(CLIENTS, Duration::from_secs(60));
    let in_use = || limit.stats().in_use;
    run("StreamLimitLayer", limit.clone(), in_use).await;
}

/// An origin that begins ten streams at a time, each in 100 ms, with requests at twice the rate that it can take.
async fn overloaded() {
    for lasts in [0, 1_000] {
        println!(
            "\ntwice the capacity, streams of {lasts} ms: time to first chunk, p50 and p99, times as long as unloaded, and admitted as a share of the capacity"
        );
        let lasts = Duration::from_millis(lasts);
        overload("no layer", Identity::new(), lasts).await;
        let shed = |most| {
            let limit = GlobalConcurrencyLimitLayer::new(most);
            Stack::new(limit, LoadShedLayer::new())
        };
        overload("tower ConcurrencyLimit 100, LoadShed", shed(100), lasts).await;
        overload("tower ConcurrencyLimit 10, LoadShed", shed(10), lasts).await;
        let fixed = StreamLimitLayer::new().streams(100);
        overload("StreamLimitLayer, fixed at 100", fixed, lasts).await;
        let adaptive = Adaptive::between(2, 1_000);
        let adaptive = StreamLimitLayer::new().adaptive(adaptive);
        overload("StreamLimitLayer, adaptive", adaptive, lasts).await;
    }
}

const WORKERS: usize = 10;
const WORK: Duration = Duration::from_millis(100);

/// In the last 20 of 60 s.
async fn overload<L, S, B>(name: &str, layer: L, lasts: Duration)
where
    L: Layer<Origin, Service = S>,
    S: Service<Request<()>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send,
{
    let workers = Arc::new(Semaphore::new(WORKERS));
    let origin = Origin::new(move |_| {
        let workers = Arc::clone(&workers);
        async move {
            let worker = workers.acquire().await;
            sleep(WORK).await;
            drop(worker);
            Body::from_stream(stream::unfold(0, move |n| async move {
                if n > 0 {
                    sleep(lasts).await;
                }
                let chunk = Ok::<_, io::Error>(Bytes::from("data: a\n\n"));
                (n == 0).then_some((chunk, 1))
            }))
        }
    });
    let service = layer.layer(origin);
    let mut clients = JoinSet::new();
    let pause = WORK / u32::try_from(WORKERS * 2).unwrap_or(1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let service = service.clone();
        let late = begun.elapsed() > Duration::from_secs(40);
        clients.spawn(async move {
            let sent = Instant::now();
            let response = service.oneshot(request()).await.ok()?;
            let admitted = response.status().is_success();
            let mut body = Box::pin(response.into_body());
            let _ = body.frame().await;
            let time = sent.elapsed();
            let _ = body.frame().await;
            (late && admitted).then_some(time)
        });
        sleep(pause).await;
    }
    let mut times: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |percent: usize| {
        let time = times.get(times.len() * percent / 100);
        time.map_or(f64::NAN, |time| time.as_secs_f64() / WORK.as_secs_f64())
    };
    let used = times.len() as f64 * WORK.as_secs_f64() / WORKERS as f64 / 20.0;
    println!("{name:40}{:>8.2}x{:>8.2}x{used:>8.2}", at(50), at(99));
}

async fn visit<S, B>(service: S, chunks: usize)
where
    S: Service<Request<()>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    if let Ok(response) = service.oneshot(request()).await {
        let mut body = Box::pin(response.into_body());
        for _ in 0..chunks {
            if !matches!(body.frame().await, Some(Ok(_))) {
                break;
            }
        }
    }
}

/// A handler that counts.
#[derive(Clone)]
struct Origin {
    begun: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    answer: Arc<Answer>,
}

type Answer = dyn Fn(Origin) -> Pin<Box<dyn Future<Output = Body> + Send>> + Send + Sync;

impl Origin {
    fn new<F>(answer: impl Fn(Self) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Body> + Send + 'static,
    {
        Self {
            begun: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
            answer: Arc::new(move |origin| Box::pin(answer(origin))),
        }
    }
}

impl Service<Request<()>> for Origin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let answer = (self.answer)(self.clone());
        Box::pin(async move { Ok(Response::new(answer.await)) })
    }
}

/// A stream that is open, from the call of its handler to the end of its body.
struct Open(Origin);

impl Open {
    fn new(origin: Origin) -> Self {
        let open = origin.open.fetch_add(1, Ordering::Relaxed) + 1;
        origin.most.fetch_max(open, Ordering::Relaxed);
        Self(origin)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
