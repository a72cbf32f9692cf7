//! Three demo servers behind a real proxy, restarted one after another under load.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use e2e::{DemoProcess, Signal};
use stream_load::{Ending, Report, Running};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{BoxError, Findings, demo, load, proxy::Proxy};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The proxy, which must be installed
    #[arg(long, value_enum)]
    proxy: Proxy,

    /// Number of server restarts
    #[arg(long, default_value_t = 20)]
    restarts: usize,

    /// Number of connections to the proxy, each busy with one kind of request
    #[arg(long, default_value_t = 30)]
    clients: usize,
}

pub(crate) struct Backend {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    process: DemoProcess,
}

/// Long enough for haproxy's checks (2 x 100 ms). nginx and caddy notice by refused connections.
const ADVERTISE: &str = "800ms";

/// Long enough for every request except the endless ones.
const DEADLINE: &str = "3s";

pub(crate) async fn run(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let mut backends = Vec::new();
    // As in a cluster: the same ports on every address. The second address is for caddy's checks.
    let (public, admin) = (free().await?.port(), free().await?.port());
    for host in 1..=3 {
        let host = Ipv4Addr::new(127, 0, 0, host);
        let (public, admin) = ((host, public).into(), (host, admin).into());
        let process = start(public, admin).await?;
        backends.push(Backend {
            public,
            admin,
            process,
        });
    }
    let front = free().await?;
    let scratch = std::env::temp_dir().join(format!("drain-load-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let mut proxy = options.proxy.start(front, &backends, &scratch)?;
    let outcome = under_load(options, front, &mut backends, findings).await;
    if !matches!(outcome, Ok(0)) {
        findings.note(std::fs::read_to_string(scratch.join("log")).unwrap_or_default())?;
    }
    if outcome.is_ok() {
        control(options, front, &mut backends[0], findings).await?;
    }
    proxy.kill().await?;
    std::fs::remove_dir_all(&scratch)?;
    outcome.map(drop)
}

/// Returns the number of failed requests.
async fn under_load(
    options: &Options,
    front: SocketAddr,
    backends: &mut [Backend],
    findings: &mut Findings,
) -> Result<u64, BoxError> {
    reachable(front).await?;
    let clients = Clients::start(front, options.clients).await?;
    sleep(Duration::from_secs(1)).await;
    let (mut clean, mut served) = (0, 0);
    for n in 0..options.restarts {
        let backend = &mut backends[n % 3];
        backend.process.signal(Signal::TERM)?;
        let status = backend.process.exit(Duration::from_secs(30)).await?;
        clean += usize::from(status.code() == Some(0));
        served += figure(&backend.process.log().text(), "served");
        backend.process = start(backend.public, backend.admin).await?;
        // Until the proxy uses the server again.
        sleep(Duration::from_millis(400)).await;
    }
    let found = clients.stop().await;
    findings.note(format_args!(
        "{:?}: {} requests and {} farewells through {} restarts, {served} of them served by servers that were replaced",
        options.proxy, found.good, found.farewells, options.restarts
    ))?;
    for failure in &found.failures {
        findings.note(format_args!("  {failure}"))?;
    }
    findings.check(
        found.failed == 0,
        format_args!("{} failed requests", found.failed),
    )?;
    findings.check(
        clean == options.restarts,
        format_args!("{clean} of {} exits with 0", options.restarts),
    )?;
    findings.check(
        found.good > 0 && served > 0,
        "there was load on the servers that were replaced",
    )?;
    findings.check(
        found.farewells > 0,
        format_args!("{} endless streams got their farewell", found.farewells),
    )?;
    Ok(found.failed)
}

/// Control: the same load must detect a server that is killed.
async fn control(
    options: &Options,
    front: SocketAddr,
    backend: &mut Backend,
    findings: &mut Findings,
) -> Result<(), BoxError> {
    let clients = Clients::start(front, options.clients).await?;
    sleep(Duration::from_secs(1)).await;
    backend.process.signal(Signal::KILL)?;
    backend.process.exit(Duration::from_secs(30)).await?;
    sleep(Duration::from_millis(200)).await;
    let found = clients.stop().await;
    for failure in &found.failures {
        findings.note(format_args!("  killed: {failure}"))?;
    }
    findings.check(
        found.failed > 0,
        format_args!(
            "the control, a server that is killed, fails {} requests: this rig can see them",
            found.failed
        ),
    )?;
    Ok(())
}

/// The field `name` of the server's report of its drain.
fn figure(log: &str, name: &str) -> u64 {
    let report = log.lines().find(|line| line.contains(": drained "));
    let figure = report.and_then(|line| line.split_once(&format!("{name}=")));
    let digits = figure.and_then(|(_, rest)| rest.split_whitespace().next());
    digits.unwrap_or_default().parse().unwrap_or(0)
}

async fn start(public: SocketAddr, admin: SocketAddr) -> Result<DemoProcess, BoxError> {
    let mut command = demo()?;
    command.args(["--advertise", ADVERTISE, "--deadline", DEADLINE]);
    command.args([
        "--public",
        &public.to_string(),
        "--admin",
        &admin.to_string(),
    ]);
    Ok(DemoProcess::start_command(&mut command).await?)
}

async fn free() -> Result<SocketAddr, BoxError> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

async fn reachable(addr: SocketAddr) -> Result<(), BoxError> {
    for _ in 0..100 {
        if TcpStream::connect(addr).await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("the proxy does not listen".into())
}

/// A kind of request, and how its response is recognized as complete and correct.
///
/// A clean end of the body proves nothing by itself: caddy 2.6 ends a chunked body cleanly when its upstream was
/// aborted. Each kind therefore has something that only a complete response has: a length, a number of records, or a
/// last record.
struct Kind {
    name: &'static str,
    path: &'static str,
    options: &'static [&'static str],
    good: Ending,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "GET",
        path: "/bytes?size=20000&chunk=5000",
        options: &["--expect-bytes", "20000"],
        good: Ending::Whole,
    },
    Kind {
        name: "POST",
        path: "/v1/chat/completions?interval_ms=10",
        options: &[
            "--data",
            r#"{"model":"demo","stream":false,"max_tokens":20,"messages":[{"role":"user","content":"the rabbit"}]}"#,
            "--expect-last",
            "\"finish_reason\"",
        ],
        good: Ending::Whole,
    },
    Kind {
        name: "POST, streamed",
        path: "/v1/chat/completions?interval_ms=10",
        options: &[
            "--data",
            r#"{"model":"demo","stream":true,"max_tokens":20,"messages":[{"role":"user","content":"the rabbit"}]}"#,
            "--expect-last",
            "data: [DONE]\n",
        ],
        good: Ending::Whole,
    },
    Kind {
        name: "20 events",
        path: "/events?count=20&interval_ms=50",
        options: &["--expect-records", "20"],
        good: Ending::Whole,
    },
    // Lasts beyond the deadline of its server, and so must get a last event.
    Kind {
        name: "endless events",
        path: "/events?count=0&interval_ms=50",
        options: &[],
        good: Ending::Drained,
    },
];

/// Busy clients, some of each kind.
struct Clients(Vec<(&'static Kind, Running)>);

struct Found {
    /// Number of complete responses.
    good: u64,
    farewells: u64,
    failed: u64,
    failures: Vec<String>,
}

impl Clients {
    async fn start(front: SocketAddr, clients: usize) -> Result<Self, BoxError> {
        let mut running = Vec::new();
        for (n, kind) in KINDS.iter().enumerate() {
            let share = (clients + KINDS.len() - 1 - n) / KINDS.len();
            let url = format!("http://{front}{}", kind.path);
            let share = share.max(1).to_string();
            let until_stopped = ["-n", &share, "--keep-alive", "--duration", "1h"];
            let load = load(&url, &[&until_stopped[..], kind.options].concat())?;
            running.push((kind, load.start().await?));
        }
        Ok(Self(running))
    }

    /// Waits for the end of every request except the endless ones.
    async fn stop(self) -> Found {
        let mut found = Found {
            good: 0,
            farewells: 0,
            failed: 0,
            failures: Vec::new(),
        };
        for (_, running) in &self.0 {
            running.stop();
        }
        for (kind, mut running) in self.0 {
            if kind.good == Ending::Whole {
                running.ended().await;
            }
            found.add(kind, &running.finish().await);
        }
        found
    }
}

impl Found {
    fn add(&mut self, kind: &Kind, report: &Report) {
        let good = report.count(kind.good);
        match kind.good {
            Ending::Whole => self.good += good,
            _ => self.farewells += good,
        }
        for ending in Ending::ALL {
            let count = report.count(ending);
            // The endless streams that were still open at the end.
            let left = ending == Ending::Running && kind.good == Ending::Drained;
            if count > 0 && ending != kind.good && !left {
                self.failed += count;
                self.failures
                    .push(format!("{}: {count} x {ending}", kind.name));
            }
        }
    }
}
