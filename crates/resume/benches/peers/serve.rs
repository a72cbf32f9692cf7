//! The server.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{StatusCode, header};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};
use tower_stream_resume::{Memory, Nats, Redis, Resume, StreamLog, WhoLeft};

use crate::now;

/// Producers wait for `POST /go` with their first event, and with `hold` for `POST /end` with their end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Waiting,
    Running,
    Ending,
}

#[derive(Clone)]
struct App {
    phase: Arc<watch::Sender<Phase>>,
    channels: Arc<Mutex<HashMap<String, broadcast::Sender<Bytes>>>>,
}

pub(crate) async fn serve(log: &str) {
    let app = App {
        phase: Arc::new(watch::Sender::new(Phase::Waiting)),
        channels: Arc::default(),
    };
    let to = |phase| {
        post(move |State(app): State<App>| async move {
            app.phase.send_replace(phase);
        })
    };
    let resume = match log.split(':').next() {
        Some("memory") => resume(Memory::new()),
        Some("nats") => resume(Nats::builder(log).build().unwrap()),
        _ => resume(Redis::builder(log).build().unwrap()),
    };
    let layer = resume
        .layer()
        .who_left(WhoLeft::Detach(Duration::from_secs(60)));
    let router = Router::new()
        .route("/stream", get(plain).layer(layer))
        .route("/bare", get(plain))
        .route("/broadcast", get(broadcast))
        .route("/broadcast/{id}", get(subscribe))
        .route("/wait", to(Phase::Waiting))
        .route("/go", to(Phase::Running))
        .route("/end", to(Phase::Ending))
        .nest_service("/streams", resume.routes())
        .with_state(app);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let listener = listener.tap_io(|io| _ = io.set_nodelay(true));
    axum::serve(listener, router).await.unwrap();
}

fn resume(log: impl StreamLog) -> Resume {
    // Replicas read the cursors of each other.
    Resume::builder(log).secret("peers").build()
}

type Ask = Query<HashMap<String, u64>>;

/// Server-sent events of 64 bytes with their number and the time when they were made: `data: @1,123456789@......`.
fn events(app: &App, ask: &HashMap<String, u64>) -> impl Stream<Item = Bytes> + use<> {
    let ask = |name| ask.get(name).copied().unwrap_or_default();
    let (count, holds) = (ask("count"), ask("hold") > 0);
    let interval = Duration::from_micros(ask("interval_us"));
    let mut phase = app.phase.subscribe();
    let start = (1, None::<Instant>);
    stream::unfold(
        (start, phase.clone()),
        move |((n, due), mut phase)| async move {
            if n == 1 {
                phase
                    .wait_for(|phase| *phase >= Phase::Running)
                    .await
                    .ok()?;
            }
            if n > count {
                return None;
            }
            let due = due.unwrap_or_else(Instant::now);
            if !interval.is_zero() {
                sleep_until(due).await;
            }
            let mut event = format!("data: @{n},{}@", now());
            event.extend(std::iter::repeat_n(
                '.',
                62_usize.saturating_sub(event.len()),
            ));
            event.push_str("\n\n");
            Some((Bytes::from(event), ((n + 1, Some(due + interval)), phase)))
        },
    )
    .chain(
        stream::once(async move {
            if holds {
                let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
            }
            Bytes::new()
        })
        .filter(|bytes| std::future::ready(!bytes.is_empty())),
    )
}

fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn plain(State(app): State<App>, Query(ask): Ask) -> Response {
    response(events(&app, &ask))
}

/// Fan-out as it is written by hand: a task, and a channel of which each reader has a receiver.
async fn broadcast(State(app): State<App>, Query(ask): Ask) -> Response {
    let (sender, receiver) = broadcast::channel(1_024);
    let id = format!("{}", now());
    app.channels.lock().insert(id.clone(), sender.clone());
    let mut events = Box::pin(events(&app, &ask));
    let (channels, key) = (Arc::clone(&app.channels), id.clone());
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let _ = sender.send(event);
        }
        channels.lock().remove(&key);
    });
    let mut response = response(received(receiver));
    response
        .headers_mut()
        .insert("stream-id", id.parse().unwrap());
    response
}

async fn subscribe(State(app): State<App>, Path(id): Path<String>) -> Response {
    let receiver = app
        .channels
        .lock()
        .get(&id)
        .map(broadcast::Sender::subscribe);
    match receiver {
        Some(receiver) => response(received(receiver)),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn received(receiver: broadcast::Receiver<Bytes>) -> impl Stream<Item = Bytes> {
    stream::unfold(receiver, async |mut receiver| {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((event, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
}
