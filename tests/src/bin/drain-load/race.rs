//! Requests lost while a server goes away.

use std::{
    future::IntoFuture,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use parking_lot::RwLock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tower_stream_drain::Drain;

use crate::{BoxError, Findings};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// HTTP/1.1 (one request at a time) or HTTP/2 (ten at a time)
    #[arg(long, value_enum, default_value_t = Protocol::H1)]
    protocol: Protocol,

    /// Connections that are always busy
    #[arg(long, default_value_t = 200)]
    clients: usize,

    /// Servers that go away, one after another
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    H1,
    H2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Drain,
    /// `axum::serve` with a graceful shutdown that begins at once.
    Control,
}

/// Where a load balancer sends new connections, and what became of the requests.
#[derive(Debug)]
struct Rig {
    backend: RwLock<SocketAddr>,
    over: AtomicBool,
    answered: AtomicU64,
    /// sent, and never answered
    lost: AtomicU64,
    /// sent, and known not to have been processed: a GOAWAY named an earlier stream
    returned: AtomicU64,
    refused: AtomicU64,
}

pub(crate) async fn run(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let chances = (options.clients * options.rounds) as f64;
    let mut shares = Vec::new();
    for arm in [Arm::Control, Arm::Drain] {
        let rig = measure(options, arm).await?;
        let lost = rig.lost.load(Relaxed);
        findings.note(format_args!(
            "{arm:?} {:?}: {} answered, {lost} lost ({:.2} % of {chances} connections that met a shutdown), {} returned \
             unprocessed, {} refused",
            options.protocol,
            rig.answered.load(Relaxed),
            lost as f64 / chances * 100.0,
            rig.returned.load(Relaxed),
            rig.refused.load(Relaxed),
        ))?;
        shares.push(lost as f64 / chances);
        if arm == Arm::Drain {
            findings.check(
                lost == 0,
                format_args!("{lost} requests lost in {} drains", options.rounds),
            )?;
            let refused = rig.refused.load(Relaxed);
            findings.check(refused == 0, format_args!("{refused} requests refused"))?;
        }
    }
    if options.protocol == Protocol::H1 {
        let control = shares[0] * 100.0;
        findings.check(
            control >= 5.0,
            format_args!("the control loses {control:.1} %, so this rig can see a loss"),
        )?;
    }
    Ok(())
}

async fn measure(options: &Options, arm: Arm) -> Result<Arc<Rig>, BoxError> {
    let mut server = start(arm).await?;
    let rig = Arc::new(Rig {
        backend: RwLock::new(server.addr),
        over: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        returned: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let mut clients = JoinSet::new();
    for _ in 0..options.clients {
        let rig = Arc::clone(&rig);
        match options.protocol {
            Protocol::H1 => clients.spawn(async move { rig.h1().await }),
            Protocol::H2 => clients.spawn(async move { rig.h2().await }),
        };
    }
    for _ in 0..options.rounds {
        sleep(Duration::from_millis(200)).await;
        let next = start(arm).await?;
        // readiness has failed: the balancer sends nobody new to the old one
        *rig.backend.write() = next.addr;
        std::mem::replace(&mut server, next).stop().await?;
    }
    rig.over.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    drop(server);
    Ok(rig)
}

struct Server {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

async fn start(arm: Arm) -> io::Result<Server> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let routes = Router::new().route("/", get(|| async { "hello" }));
    let serving = match arm {
        Arm::Drain => {
            let drain = Drain::builder()
                .advertise(Duration::from_millis(300))
                .deadline(Duration::from_secs(10))
                .build();
            let app = routes.layer(drain.farewell()).layer(drain.layer());
            let serving = drain.serve(listener, app).without_signals();
            tokio::spawn(async move {
                tokio::spawn(async move {
                    let _ = stopped.await;
                    drain.start();
                });
                serving.await.map(drop)
            })
        }
        Arm::Control => {
            let serving = axum::serve(listener, routes).with_graceful_shutdown(async {
                let _ = stopped.await;
            });
            tokio::spawn(serving.into_future())
        }
    };
    Ok(Server {
        addr,
        stop,
        serving,
    })
}

impl Server {
    async fn stop(self) -> Result<(), BoxError> {
        let _ = self.stop.send(());
        Ok(self.serving.await??)
    }
}

impl Rig {
    fn over(&self) -> bool {
        self.over.load(Relaxed)
    }

    async fn connect(&self) -> Option<TcpStream> {
        let backend = *self.backend.read();
        let stream = TcpStream::connect(backend).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(stream)
    }

    async fn h1(&self) {
        while !self.over() {
            if let Some(mut stream) = self.connect().await {
                while !self.over() && self.exchange(&mut stream).await {}
            }
        }
    }

    /// One request; false when its connection is over.
    async fn exchange(&self, stream: &mut TcpStream) -> bool {
        // what a client with a pool does: a connection that is known to be closed is not used
        if stream.try_read(&mut [0; 1]).is_ok() {
            return false;
        }
        if stream
            .write_all(b"GET / HTTP/1.1\r\nHost: race\r\n\r\n")
            .await
            .is_err()
        {
            self.lost.fetch_add(1, Relaxed);
            return false;
        }
        let mut answer = Vec::with_capacity(512);
        while !answer.ends_with(b"hello") {
            if answer.starts_with(b"HTTP/1.1 503") {
                self.refused.fetch_add(1, Relaxed);
                return false;
            }
            match stream.read_buf(&mut answer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => {
                    self.lost.fetch_add(1, Relaxed);
                    return false;
                }
            }
        }
        self.answered.fetch_add(1, Relaxed);
        !answer
            .windows(17)
            .any(|text| text.eq_ignore_ascii_case(b"connection: close"))
    }

    async fn h2(&self) {
        while !self.over() {
            let Some(stream) = self.connect().await else {
                continue;
            };
            let Ok((client, connection)) = h2::client::handshake(stream).await else {
                continue;
            };
            let connection = tokio::spawn(connection);
            futures_util::future::join_all((0..10).map(|_| self.h2_requests(client.clone()))).await;
            connection.abort();
        }
    }

    async fn h2_requests(&self, client: h2::client::SendRequest<Bytes>) {
        while !self.over() {
            // fails once a GOAWAY has come: nothing was sent
            let Ok(mut client) = client.clone().ready().await else {
                return;
            };
            let request = http::Request::get("http://race/")
                .body(())
                .expect("a valid request");
            let Ok((response, _)) = client.send_request(request, true) else {
                return;
            };
            match h2_answer(response).await {
                Ok(200) => self.answered.fetch_add(1, Relaxed),
                Ok(_) => self.refused.fetch_add(1, Relaxed),
                // RFC 9113 section 6.8: streams after the last one named were not processed
                Err(error)
                    if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) =>
                {
                    self.returned.fetch_add(1, Relaxed)
                }
                Err(_) => self.lost.fetch_add(1, Relaxed),
            };
        }
    }
}

async fn h2_answer(response: h2::client::ResponseFuture) -> Result<u16, h2::Error> {
    let response = response.await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(status)
}
