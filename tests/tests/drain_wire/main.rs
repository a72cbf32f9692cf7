//! The drain on the wire: what clients of HTTP/1.0, 1.1 and 2 receive while a server goes away.

mod answers;
mod connections;
mod deadline;
mod dialects;
mod phases;
mod tunnels;

use std::{convert::Infallible, error::Error, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response as AxumResponse},
    routing::get,
};
use futures_util::{StreamExt, stream};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tower_stream_drain::{Builder, Drain};
use tower_stream_serve::Report;

type Outcome = Result<(), Box<dyn Error>>;

const MS: Duration = Duration::from_millis(1);

/// Advertises for 200 ms, is over after a minute: what waits that long shows in the test's time.
fn drain() -> Builder {
    Drain::builder()
        .advertise(200 * MS)
        .deadline(Duration::from_secs(60))
}

struct Rig {
    drain: Drain,
    addr: SocketAddr,
    serving: JoinHandle<io::Result<Report>>,
}

impl Rig {
    async fn start(builder: Builder, routes: Router) -> io::Result<Self> {
        let drain = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let app = routes.layer(drain.farewell()).layer(drain.layer());
        let serving = tower_stream_serve::serve(listener, app)
            .drain(&drain)
            .without_signals();
        let serving = tokio::spawn(serving.into_future());
        Ok(Self {
            drain,
            addr,
            serving,
        })
    }

    async fn report(self) -> Result<Report, Box<dyn Error>> {
        Ok(self.serving.await??)
    }
}

/// An event every 20 ms, without an end.
async fn events() -> AxumResponse {
    let ticks = stream::unfold(0_u64, |n| async move {
        sleep(20 * MS).await;
        Some((
            Ok::<_, Infallible>(format!("id: {n}\ndata: {n}\n\n")),
            n + 1,
        ))
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(ticks),
    )
        .into_response()
}

/// Three chunks, 100 ms apart.
async fn slow() -> Body {
    let chunks = stream::iter(["a", "b", "c"]).then(|chunk| async move {
        sleep(100 * MS).await;
        Ok::<_, Infallible>(chunk)
    });
    Body::from_stream(chunks)
}

fn hello() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/empty", get(|| async { StatusCode::NO_CONTENT }))
        .route("/slow", get(slow))
        .route("/events", get(events))
}
