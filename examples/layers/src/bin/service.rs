//! A complete service, which shows where CORS, compression, authentication, a rate limit and a body limit go among the
//! layers of `tower-stream`. `cargo run -p layers --bin service`
//!
//! ```sh
//! curl -i http://127.0.0.1:3000/events                                                            # 401
//! curl -iN http://127.0.0.1:3000/events -H 'authorization: Bearer demo'                           # a stream
//! curl -i http://127.0.0.1:3000/panic -H 'authorization: Bearer demo' -H 'origin: http://a.test'  # 500, with CORS
//! head -c 2000 /dev/zero | curl -i http://127.0.0.1:3000/notes -H 'authorization: Bearer demo' --data-binary @-  # 413
//! for n in $(seq 21); do curl -so /dev/null -w '%{http_code}\n' http://127.0.0.1:3000/ -H 'authorization: Bearer demo'; done
//! ```
//!
//! Outermost first; `crates/tower-stream/README.md` explains the order:
//!
//! | layer | reason for its place |
//! |---|---|
//! | CORS | a browser can read an error only if its response has CORS headers, whichever layer wrote it |
//! | `StreamStack` | every response has a request id and a span, and is counted by metrics and drain |
//! | compression, in its slot | it must be outside of the layer that writes the last event of a failed stream |
//! | authentication | before every layer that is expensive or counts per account |
//! | rate limit | per account, so inside of authentication |
//! | body limit | next to the handlers that read the body |
//!
//! To use another address: `cargo run -p layers --bin service 127.0.0.1:8080`

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, Method, StatusCode, header};
use tokio::{net::TcpListener, sync::Semaphore, time::interval};
use tower_http::{
    compression::CompressionLayer,
    cors::{Any, CorsLayer},
    limit::RequestBodyLimitLayer,
};
use tower_stream::prelude::*;

const REQUESTS_A_MINUTE: usize = 20;
const MOST_BYTES: usize = 1024;

/// All layers, innermost first: `Router::layer` wraps each around the previous ones.
fn app(drain: &Drain) -> Router {
    Router::new()
        .route("/", get(|| async { "hello ".repeat(100) }))
        .route("/events", get(events))
        .route("/notes", post(|note: String| async move { note }))
        .route("/panic", get(panics))
        .layer(RequestBodyLimitLayer::new(MOST_BYTES))
        .layer(from_fn_with_state(budget(), limit_rate))
        .layer(from_fn(authenticate))
        .layer(
            StreamStack::new()
                .drain(drain)
                .compression(CompressionLayer::new()),
        )
        .layer(cors())
}

fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        // Otherwise a script in a browser cannot read the id.
        .expose_headers([HeaderName::from_static("x-request-id")])
}

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=5).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

async fn panics() -> &'static str {
    panic!("the client never reads this text")
}

/// Accepts one fixed token. A real service looks up the account and inserts it into the request extensions.
async fn authenticate(request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    if authorization.is_none_or(|value| value != "Bearer demo") {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    }
    next.run(request).await
}

/// One limit for all requests. A real service limits each account, for example with the crate `tower_governor`.
async fn limit_rate(
    State(budget): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    match budget.try_acquire() {
        Ok(permit) => permit.forget(),
        Err(_) => {
            let wait = [(header::RETRY_AFTER, "60")];
            return (StatusCode::TOO_MANY_REQUESTS, wait).into_response();
        }
    }
    next.run(request).await
}

/// Permits for requests, refilled once a minute.
fn budget() -> Arc<Semaphore> {
    let budget = Arc::new(Semaphore::new(REQUESTS_A_MINUTE));
    let filled = Arc::clone(&budget);
    tokio::spawn(async move {
        let mut minute = interval(Duration::from_secs(60));
        loop {
            minute.tick().await;
            filled.add_permits(REQUESTS_A_MINUTE - filled.available_permits());
        }
    });
    budget
}

#[tokio::main]
async fn main() -> io::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let drain = Drain::builder().build();
    let report = serve(listener, app(&drain)).drain(&drain).await?;
    println!("{report}");
    Ok(())
}
