//! A server of the chat, as a process.

use std::{error::Error, io, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};
use tower_stream::resume::{Durability, LostStream, Restart, Resume, StreamLog};

use crate::{Args, model};

pub(crate) struct Replica {
    process: Child,
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
}

impl Replica {
    pub(crate) async fn start(args: &Args) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--replica");
        for (flag, url) in [("--redis", &args.redis), ("--nats", &args.nats)] {
            command.args(url.iter().flat_map(|url| [flag, url]));
        }
        // It ends when its input does, and so with this process.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let line = line.ok_or("the server has not started")?;
        Ok(Self {
            pid: process.id().ok_or("the server has ended")?,
            address: line.parse().map_err(|_| line)?,
            process,
        })
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }
}

/// Runs as a server.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let app = match (&args.redis, &args.nats) {
        (Some(url), _) => with_log(redis(url)?),
        (None, Some(url)) => with_log(nats(url)?),
        (None, None) => Router::new().route("/chat/{chat}/after/{from}", get(rest)),
    };
    println!("{}", crate::serve(app).await?);
    // Until the process that started this one ends.
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// The rest of a chat. Nothing is kept here.
async fn rest(Path((chat, from)): Path<(String, u64)>) -> Response {
    (
        [(CONTENT_TYPE, "text/event-stream")],
        model::answer(&chat, from),
    )
        .into_response()
}

/// The chat, whose stream any server with this log can continue.
fn with_log(log: Arc<dyn StreamLog>) -> Router {
    let resume = Resume::builder(log)
        .secret("the same one on all servers")
        // So that the example takes three seconds. The default is 5 s and 1 s.
        .lease(Duration::from_secs(2), Duration::from_millis(300))
        .restart(go_on)
        .build();
    Router::new()
        .route("/chat/{chat}", get(chat))
        .layer(resume.layer().durability(Durability::Stored))
}

async fn chat(Path(chat): Path<String>) -> Response {
    let head = [(CONTENT_TYPE, "text/event-stream")];
    let body = model::answer(&chat, 0);
    (Extension(Restart::new(chat)), head, body).into_response()
}

/// The server that produced this chat was killed: says the rest of it.
async fn go_on(lost: LostStream) -> Option<Body> {
    // A chat that takes its server down is not tried on each of them.
    if lost.attempt() > 3 {
        return None;
    }
    let chat = std::str::from_utf8(lost.seed()).ok()?;
    Some(model::answer(chat, lost.records()))
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Arc<dyn StreamLog>, Box<dyn Error>> {
    Ok(Arc::new(tower_stream::resume::Redis::builder(url).build()?))
}

#[cfg(feature = "nats")]
fn nats(url: &str) -> Result<Arc<dyn StreamLog>, Box<dyn Error>> {
    Ok(Arc::new(tower_stream::resume::Nats::builder(url).build()?))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<Arc<dyn StreamLog>, Box<dyn Error>> {
    Err("--redis needs: cargo run -p resume-chat --features redis".into())
}

#[cfg(not(feature = "nats"))]
fn nats(_: &str) -> Result<Arc<dyn StreamLog>, Box<dyn Error>> {
    Err("--nats needs: cargo run -p resume-chat --features nats".into())
}
