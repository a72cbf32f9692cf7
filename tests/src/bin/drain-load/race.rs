//! Requests that are lost while a server shuts down.

use std::{future::IntoFuture, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use clap::{Args, ValueEnum};
use parking_lot::RwLock;
use stream_load::{Ending, Report};
use tokio::{net::TcpSocket, sync::oneshot, task::JoinHandle, time::sleep};
use tower_stream_drain::Drain;

use crate::{BoxError, Findings, load};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// HTTP/1.1 (one request at a time) or HTTP/2 (ten at a time)
    #[arg(long, value_enum, default_value_t = Protocol::H1)]
    protocol: Protocol,

    /// Number of connections, all of them always busy
    #[arg(long, default_value_t = 200)]
    clients: usize,

    /// Number of servers that shut down, one after another
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
    /// `axum::serve` with a graceful shutdown that starts at once.
    Control,
}

/// What happened to the requests.
#[derive(Debug)]
struct Found {
    answered: u64,
    /// Sent, but never answered.
    lost: u64,
    /// Sent, and known not to have been processed, because a GOAWAY had a lower last stream id.
    returned: u64,
    /// Refused by a status, a reset, or a failed connection.
    refused: u64,
}

pub(crate) async fn run(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let chances = (options.clients * options.rounds) as f64;
    let mut shares = Vec::new();
    for arm in [Arm::Control, Arm::Drain] {
        let report = measure(options, arm).await?;
        let Found {
            answered,
            lost,
            returned,
            refused,
        } = Found::of(&report);
        findings.note(format_args!(
            "{arm:?} {:?}: {answered} answered, {lost} lost ({:.2} % of {chances} connections that met a shutdown), \
             {returned} returned unprocessed, {refused} refused",
            options.protocol,
            lost as f64 / chances * 100.0,
        ))?;
        shares.push(lost as f64 / chances);
        if arm == Arm::Drain {
            findings.check(
                lost == 0,
                format_args!("{lost} requests lost in {} drains", options.rounds),
            )?;
            findings.check(refused == 0, format_args!("{refused} requests refused"))?;
            if lost + refused > 0 {
                findings.note(&report)?;
            }
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

impl Found {
    fn of(report: &Report) -> Self {
        let count = |endings: &[Ending]| endings.iter().map(|ending| report.count(*ending)).sum();
        let answered = count(&[Ending::Whole]);
        let returned = count(&[Ending::GoneAway]);
        let refused = count(&[
            Ending::Refused,
            Ending::Status4xx,
            Ending::Status5xx,
            Ending::ConnectFailure,
        ]);
        Self {
            answered,
            lost: report.streams() - answered - returned - refused,
            returned,
            refused,
        }
    }
}

async fn measure(options: &Options, arm: Arm) -> Result<Report, BoxError> {
    let mut server = start(arm).await?;
    // Where a load balancer sends new connections.
    let backend = Arc::new(RwLock::new(server.addr));
    let (streams, http) = match options.protocol {
        Protocol::H1 => (options.clients, "1"),
        Protocol::H2 => (options.clients * 10, "2"),
    };
    let streams = streams.to_string();
    let args = [
        "-n",
        &streams,
        "--http",
        http,
        "--streams-per-connection",
        "10",
    ];
    let until_stopped = ["--keep-alive", "--duration", "1h", "--expect-bytes", "5"];
    let load = load("http://race/", &[&args[..], &until_stopped].concat())?;
    let addr = Arc::clone(&backend);
    let mut clients = load.connect_to(move || *addr.read()).start().await?;
    for _ in 0..options.rounds {
        sleep(Duration::from_millis(200)).await;
        let next = start(arm).await?;
        // Readiness has failed, so the load balancer sends no new connections to the old server.
        *backend.write() = next.addr;
        std::mem::replace(&mut server, next).stop().await?;
    }
    clients.stop();
    clients.ended().await;
    drop(server);
    Ok(clients.finish().await)
}

struct Server {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

async fn start(arm: Arm) -> io::Result<Server> {
    // A backlog for all clients at once: a SYN that finds no room is sent again a second later, when the server may be
    // gone.
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(4096)?;
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
            let serving = tower_stream_serve::serve(listener, app)
                .drain(&drain)
                .without_signals();
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
