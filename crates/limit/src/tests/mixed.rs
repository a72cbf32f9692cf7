//! However requests end, every permit comes back, and there are never more than the limit.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tower_stream_core::wrapper::{Fused, Wrapped};

use super::*;
use crate::{BreakerLayer, BreakerState, StreamLimitLayer};

const LIMIT: usize = 7;
const REQUESTS: usize = 10_000;
const TASKS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_ten_thousand_mixed_requests_no_permit_is_left() {
    let limit = StreamLimitLayer::new()
        .streams(LIMIT)
        .streams_per_key(6)
        .wait(64, Duration::from_secs(60));
    let breaker = BreakerLayer::new().failure_share(1.0);
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let counted = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        tower::service_fn(move |request: Request<()>| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                let inside = Inside::new(now, &most);
                tokio::task::yield_now().await;
                if request.uri().path().starts_with("/throw") {
                    panic!("scripted");
                }
                let response = send(&Origin::default(), request).await;
                Ok::<_, Infallible>(response.map(|body| WithGuard {
                    body,
                    _inside: inside,
                }))
            }
        })
    };
    let layers = Fused::new().layer(limit.clone()).layer(breaker.clone());
    let service = Wrapped::new(counted, layers);
    silence_scripted_panics();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let service = service.clone();
        tasks.spawn(async move {
            for n in (task..REQUESTS).step_by(TASKS) {
                // Cancelled before its first poll is over, before its end, or not at all.
                let time = Duration::from_millis(if n % 7 == 0 { 0 } else { 3 });
                let client = AssertUnwindSafe(client(service.clone(), n));
                let _ = tokio::time::timeout(time, client.catch_unwind()).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let stats = limit.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
    assert_eq!(now.load(Ordering::SeqCst), 0);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=LIMIT).contains(&most), "{most}");
    // Nothing is lost either: as many as the limit are admitted.
    let mut open = Vec::new();
    for n in 0..=LIMIT {
        let status = if n < LIMIT { 200 } else { 503 };
        let mut response = Box::pin(send(&service, from(&format!("10.0.{n}.1:1"), "/hang")));
        match poll_until_begun(&mut response).await {
            Some(response) => {
                assert_eq!(response.status(), status);
                open.push(response);
            }
            None => assert_eq!(n, LIMIT, "only the last one waits"),
        }
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

/// `None` for a request that waits.
async fn poll_until_begun<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    for _ in 0..4 {
        if let Poll::Ready(output) = poll(future) {
            return Some(output);
        }
    }
    None
}

async fn client<S, B>(service: S, n: usize)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
{
    let paths = [
        "/", "/die", "/panic", "/hang", "/lost", "/upgrade", "/500", "/throw",
    ];
    let request = from(&format!("10.0.{}.1:1", n % 5), paths[n / 5 % paths.len()]);
    let mut body = Box::pin(send(&service, request).await.into_body());
    // One frame in three requests, then the client disconnects.
    let frames = if n.is_multiple_of(3) { 1 } else { 9 };
    for _ in 0..frames {
        if !matches!(body.frame().await, Some(Ok(_))) {
            break;
        }
    }
}

fn silence_scripted_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&"scripted") {
            hook(info);
        }
    }));
}

/// Counts itself for as long as it lives.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn new(now: Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(now)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct WithGuard {
    body: MockBody,
    _inside: Inside,
}

impl http_body::Body for WithGuard {
    type Data = Bytes;
    type Error = tower_stream_core::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}
