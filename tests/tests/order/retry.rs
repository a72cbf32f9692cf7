//! A layer that sends a request more than once, at any place. If the response of an attempt is not sent to the client,
//! only the layers inside report its end, and it does not change the end that the layers outside report.

use std::{
    future::{Future, Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, extract, middleware::Next, response::Response, routing::any};
use e2e::{Protocol, Request};
use fastrand::Rng;
use futures_util::future::{Either, select};
use tokio::sync::Semaphore;
use tower::retry::Policy;
use tower_stream::metrics::names;

use crate::{
    endings::{Ending, Kind},
    layers::{Piece, Served, Stack, Telemetry},
    run::{self, PROTOCOLS, Place},
    wire::Exchange,
};

/// Tries once more after a 5xx.
#[derive(Clone)]
pub(crate) struct Once;

impl<E> Policy<extract::Request, Response, E> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut extract::Request,
        got: &mut Result<Response, E>,
    ) -> Option<Self::Future> {
        let failed = got.as_ref().map_or(true, |r| r.status().is_server_error());
        failed.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &extract::Request) -> Option<extract::Request> {
        let mut clone = extract::Request::new(Body::empty());
        *clone.method_mut() = request.method().clone();
        *clone.uri_mut() = request.uri().clone();
        *clone.version_mut() = request.version();
        *clone.headers_mut() = request.headers().clone();
        *clone.extensions_mut() = request.extensions().clone();
        Some(clone)
    }
}

/// Sends two attempts, and sends on the first response that is good; the other attempt is dropped.
pub(crate) async fn hedge(request: extract::Request, next: Next) -> Response {
    let clone = Policy::<_, _, ()>::clone_request(&mut Once, &request).expect("always");
    let first = Box::pin(next.clone().run(clone));
    let second = Box::pin(next.run(request));
    let (response, other) = match select(first, second).await {
        Either::Left((response, other)) | Either::Right((response, other)) => (response, other),
    };
    match response.status().is_server_error() {
        true => other.await,
        false => response,
    }
}

/// How the attempt fails whose response is not sent to the client.
const FAILURES: [Ending; 3] = [
    Ending::PanicHandler,
    Ending::ErrorFirst,
    Ending::BrokenPromise,
];

/// The layer that turns the failure into a 5xx. It must be inside of the retry.
fn answers(failure: Ending) -> Piece {
    match failure {
        Ending::BrokenPromise => Piece::Verify,
        _ => Piece::Errors,
    }
}

/// The attempts of a route, in the order in which they come.
#[derive(Clone, Default)]
struct Attempts(Arc<AtomicUsize>);

impl Attempts {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

fn path(failure: Ending, kind: Kind) -> String {
    format!("/twice{}", failure.path(kind))
}

/// Every first attempt fails, every second is good.
fn retried() -> Router {
    routes(|failure, kind| {
        let attempts = Attempts::default();
        move || {
            let ending = match attempts.next() % 2 {
                0 => failure,
                _ => Ending::Chunked,
            };
            async move { respond(ending, kind) }
        }
    })
}

/// Of two attempts the one with this number fails, and the other waits for that.
fn hedged(failing: usize) -> Router {
    routes(move |failure, kind| {
        let attempts = Attempts::default();
        let failed = Arc::new(Semaphore::new(0));
        move || {
            let attempt = attempts.next() % 2;
            let failed = Arc::clone(&failed);
            async move {
                if attempt == failing {
                    failed.add_permits(1);
                    return respond(failure, kind);
                }
                let permit = failed.acquire().await.expect("never closed");
                permit.forget();
                respond(Ending::Chunked, kind)
            }
        }
    })
}

/// Of two attempts the one with this number hangs, until the other is sent on.
fn hanging(hanging: usize) -> Router {
    routes(move |_, kind| {
        let attempts = Attempts::default();
        move || {
            let attempt = attempts.next() % 2;
            async move {
                if attempt == hanging {
                    std::future::pending::<()>().await;
                }
                // Yield, so that the other attempt begins before this one responds.
                tokio::task::yield_now().await;
                respond(Ending::Chunked, kind)
            }
        }
    })
}

fn routes<H, F>(handler: impl Fn(Ending, Kind) -> H) -> Router
where
    H: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let mut routes = Router::new();
    for failure in FAILURES {
        for kind in Kind::ALL {
            routes = routes.route(&path(failure, kind), any(handler(failure, kind)));
        }
    }
    routes
}

fn respond(ending: Ending, kind: Kind) -> Response {
    let mut response = ending.response(kind);
    if ending == Ending::BrokenPromise {
        // The whole body is ready at once, so that its digest is checked before the head is sent.
        *response.body_mut() = Body::from(kind.frames().concat());
    }
    response
}

/// Sends each failure through the stack, and checks what everybody tells of both attempts.
async fn every_failure(app: Router, stack: Stack, other: Option<&str>, telemetry: &Telemetry) {
    let place = |piece| stack.pieces.iter().position(|p| *p == piece);
    let twice = place(Piece::Retry).or(place(Piece::Hedge));
    let twice = twice.expect("one of them");
    let inside = |piece| place(piece).is_some_and(|place| place > twice);
    let served = Served::serving(app, stack.clone(), telemetry).await;
    for protocol in PROTOCOLS {
        telemetry.spans();
        telemetry.log();
        let mut expected = telemetry.sums(names::STREAM_COUNT);
        for failure in FAILURES {
            if other.is_none() && !inside(answers(failure)) {
                continue;
            }
            for kind in Kind::ALL {
                // A digest layer inside of the check replaces the wrong digest by the correct one of the same bytes.
                let renewed = stack.is_inside(Piece::Digest, Piece::Verify);
                if failure == Ending::BrokenPromise && (renewed || !stack.verifies(kind)) {
                    continue;
                }
                let _place = Place::new(&stack, protocol, (failure, kind));
                let told = other.unwrap_or_else(|| failure.told(kind, &stack));
                exchange(&served, protocol, failure, kind).await;

                let both = |piece: Piece| match (place(piece), inside(piece)) {
                    (None, _) => Vec::new(),
                    (Some(_), false) => vec!["complete"],
                    (Some(_), true) => vec!["complete", told],
                };
                let sorted = |mut ends: Vec<String>| {
                    ends.sort_unstable();
                    ends
                };
                assert_eq!(served.outside.take(), ["complete"], "told outside");
                if stack.probed_inside {
                    let inside = sorted(served.inside.take());
                    assert_eq!(sorted(vec![told.into(), "complete".into()]), inside);
                }
                let spans = sorted(telemetry.spans());
                let expected_spans = both(Piece::RequestSpan).into_iter().map(str::to_owned);
                assert_eq!(spans, sorted(expected_spans.collect()), "told by the spans");
                for end in both(Piece::Metrics) {
                    let route = path(failure, kind);
                    *expected.entry(format!("{route} {end}")).or_default() += 1;
                }
                let failures = telemetry.log().failures();
                let logs = inside(Piece::Errors) && other.is_none();
                let logged = if logs {
                    vec![format!("ERROR {told}")]
                } else {
                    vec![]
                };
                assert_eq!(failures, logged, "told by the log");
                let hashed = served.hashed.take();
                let known =
                    |end: &String| *end == "complete" || inside(Piece::Digest) && *end == told;
                assert!(hashed.iter().all(known), "told by the digest: {hashed:?}");
            }
        }
        let _place = Place::new(&stack, protocol, "the sums");
        assert_eq!(telemetry.sums(names::STREAM_COUNT), expected);
        let active = telemetry.sums(names::STREAM_ACTIVE);
        assert!(active.values().all(|count| *count == 0), "{active:?}");
    }
}

/// The client gets what the good attempt gave.
async fn exchange(served: &Served, protocol: Protocol, failure: Ending, kind: Kind) {
    let request = Request::get(&path(failure, kind)).header("origin", "http://a.test");
    let seen = protocol.send(served.server.addr(), &request).await;
    let exchange = Exchange {
        stack: &served.stack,
        protocol,
        kind,
        ending: Ending::Chunked,
        drained: false,
    };
    exchange.check(&seen);
    assert!(seen.is_ok());
    run::are_over(served, 1).await;
}

/// The recommended order with the piece at each place, then random orders.
fn stacks(piece: Piece) -> impl Iterator<Item = Stack> {
    let places = 0..=Piece::OURS.len();
    let recommended = places.map(move |place| {
        let mut pieces = Piece::OURS.to_vec();
        pieces.insert(place, piece);
        Stack::new(pieces)
    });
    let first = std::env::var("ORDER_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let random = (first..first + 12).map(move |seed| {
        let mut pieces = Piece::OURS.to_vec();
        pieces.push(piece);
        Rng::with_seed(seed).shuffle(&mut pieces);
        let mut stack = Stack::new(pieces);
        stack.probed_inside = seed % 2 == 0;
        stack.seed = Some(seed);
        stack
    });
    recommended.chain(random)
}

#[tokio::test]
async fn a_retry_at_any_place() {
    let telemetry = Telemetry::new();
    for stack in stacks(Piece::Retry) {
        every_failure(retried(), stack, None, &telemetry).await;
    }
}

#[tokio::test]
async fn a_hedge_of_which_one_attempt_fails() {
    let telemetry = Telemetry::new();
    for (n, stack) in stacks(Piece::Hedge).enumerate() {
        every_failure(hedged(n % 2), stack, None, &telemetry).await;
    }
}

#[tokio::test]
async fn a_hedge_of_which_one_attempt_is_dropped() {
    let telemetry = Telemetry::new();
    for (n, stack) in stacks(Piece::Hedge).enumerate() {
        every_failure(hanging(n % 2), stack, Some("aborted dropped"), &telemetry).await;
    }
}
