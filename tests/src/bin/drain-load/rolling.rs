//! Three demo servers behind a real proxy, restarted one after another under load.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::{Args, ValueEnum};
use e2e::{DemoProcess, End, Request, Response, Signal, h1};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    process::Child,
    task::JoinSet,
    time::sleep,
};

use crate::{BoxError, Findings, demo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The proxy, which has to be installed
    #[arg(long, value_enum)]
    proxy: Proxy,

    /// How often a server is replaced
    #[arg(long, default_value_t = 20)]
    restarts: usize,

    /// Connections to the proxy, each busy with one kind of request
    #[arg(long, default_value_t = 30)]
    clients: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proxy {
    Nginx,
    Haproxy,
}

struct Backend {
    public: SocketAddr,
    admin: SocketAddr,
    process: DemoProcess,
}

/// Long enough for haproxy's checks (2 x 100 ms); nginx has none and learns by refused connections.
const ADVERTISE: &str = "800ms";

#[derive(Debug, Default)]
struct Load {
    over: AtomicBool,
    good: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

pub(crate) async fn run(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let mut backends = Vec::new();
    for _ in 0..3 {
        let (public, admin) = (free().await?, free().await?);
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
    if outcome.is_err() {
        findings.note(std::fs::read_to_string(scratch.join("log")).unwrap_or_default())?;
    }
    proxy.kill().await?;
    std::fs::remove_dir_all(&scratch)?;
    outcome
}

async fn under_load(
    options: &Options,
    front: SocketAddr,
    backends: &mut [Backend],
    findings: &mut Findings,
) -> Result<(), BoxError> {
    reachable(front).await?;
    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for n in 0..options.clients {
        let load = Arc::clone(&load);
        clients.spawn(async move { load.client(front, KINDS[n % KINDS.len()]).await });
    }
    sleep(Duration::from_secs(1)).await;
    let (mut clean, mut served) = (0, 0);
    for n in 0..options.restarts {
        let backend = &mut backends[n % 3];
        backend.process.signal(Signal::TERM)?;
        let status = backend.process.exit(Duration::from_secs(30)).await?;
        clean += usize::from(status.code() == Some(0));
        served += figure(&backend.process.log().text(), "served ");
        backend.process = start(backend.public, backend.admin).await?;
        // the proxy takes it in again
        sleep(Duration::from_millis(400)).await;
    }
    load.over.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    let failures = load.failures.lock().clone();
    let failed: u64 = failures.values().sum();
    let good = load.good.load(Relaxed);
    findings.note(format_args!(
        "{:?}: {good} requests through {} restarts, {served} of them served by servers that were replaced",
        options.proxy, options.restarts
    ))?;
    for (failure, times) in failures {
        findings.note(format_args!("  {times} x {failure}"))?;
    }
    findings.check(failed == 0, format_args!("{failed} failed requests"))?;
    findings.check(
        clean == options.restarts,
        format_args!("{clean} of {} exits with 0", options.restarts),
    )?;
    findings.check(
        good > 0 && served > 0,
        "there was load on the servers that were replaced",
    )?;
    Ok(())
}

/// The number after `name` in the server's report.
fn figure(log: &str, name: &str) -> u64 {
    let report = log.lines().find(|line| line.contains("drained in"));
    let figure = report.and_then(|line| line.split_once(name));
    let digits = figure.map_or("", |(_, rest)| {
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap_or("")
    });
    digits.parse().unwrap_or(0)
}

async fn start(public: SocketAddr, admin: SocketAddr) -> Result<DemoProcess, BoxError> {
    let mut command = demo()?;
    command.args(["--advertise", ADVERTISE, "--deadline", "20s"]);
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

impl Proxy {
    fn start(
        self,
        front: SocketAddr,
        backends: &[Backend],
        scratch: &Path,
    ) -> Result<Child, BoxError> {
        let config = match self {
            Self::Nginx => nginx(front, backends, scratch),
            Self::Haproxy => haproxy(front, backends),
        };
        let path = scratch.join("config");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(scratch.join("log"))?;
        let mut command = match self {
            Self::Nginx => {
                let mut command = tokio::process::Command::new("nginx");
                command.arg("-c").arg(&path).arg("-p").arg(scratch);
                command
            }
            Self::Haproxy => {
                let mut command = tokio::process::Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&path);
                command
            }
        };
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        Ok(child.map_err(|error| format!("{self:?} cannot be run: {error}"))?)
    }
}

/// Its defaults, except for keep-alive to the servers: a request that was sent is repeated elsewhere only if that is safe.
fn nginx(front: SocketAddr, backends: &[Backend], scratch: &Path) -> String {
    let mut servers = String::new();
    for backend in backends {
        let _ = writeln!(servers, "    server {} fail_timeout=1s;", backend.public);
    }
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
           upstream demo {{\n{servers}    keepalive 64;\n  }}\n\
           server {{ listen {front};\n\
             location / {{ proxy_pass http://demo; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
           }}\n\
         }}\n",
        dir = scratch.display()
    )
}

fn haproxy(front: SocketAddr, backends: &[Backend]) -> String {
    let mut servers = String::new();
    for (n, backend) in backends.iter().enumerate() {
        let port = backend.admin.port();
        let _ = writeln!(
            servers,
            "  server s{n} {} check port {port} inter 100ms fall 2 rise 1",
            backend.public
        );
    }
    format!(
        "global\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  option redispatch\n\
         frontend front\n  bind {front}\n  default_backend demo\n\
         backend demo\n  option httpchk GET /readyz\n  http-reuse safe\n{servers}"
    )
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Get,
    Post,
    PostStream,
    Events,
}

const KINDS: [Kind; 4] = [Kind::Get, Kind::Post, Kind::PostStream, Kind::Events];

impl Kind {
    fn request(self) -> Request {
        let chat = |stream: bool| {
            let body = format!(
                "{{\"model\":\"demo\",\"stream\":{stream},\"max_tokens\":20,\
                 \"messages\":[{{\"role\":\"user\",\"content\":\"the rabbit\"}}]}}"
            );
            Request::post("/v1/chat/completions?interval_ms=10", body)
                .header("Content-Type", "application/json")
        };
        match self {
            Self::Get => Request::get("/bytes?size=20000&chunk=5000"),
            Self::Post => chat(false),
            Self::PostStream => chat(true),
            Self::Events => Request::get("/events?count=20&interval_ms=50"),
        }
    }

    /// Why an answer is not the whole and right one.
    fn fault(self, response: &Response) -> Option<String> {
        let whole = match self {
            Self::Get => response.body().len() == 20_000,
            Self::Post => response.text().contains("\"finish_reason\""),
            Self::PostStream => {
                let text = response.text();
                let last = text
                    .strip_suffix("\n\n")
                    .and_then(|all| all.rsplit("\n\n").next());
                last.is_some_and(|event| event.lines().any(|line| line == "data: [DONE]"))
            }
            Self::Events => {
                response.text().matches("data: ").count() == 20
                    && !response.text().contains("event: ")
            }
        };
        let good = response.status() == 200 && response.end.is_whole() && whole;
        (!good).then(|| {
            format!(
                "{} {} {}",
                response.status(),
                response.end,
                if whole { "whole" } else { "not whole" }
            )
        })
    }
}

impl Load {
    async fn client(&self, front: SocketAddr, kind: Kind) {
        while !self.over.load(Relaxed) {
            match h1::Connection::open(front).await {
                Ok(mut connection) => while self.exchange(&mut connection, kind).await {},
                Err(error) => self.fail(kind, &error.to_string()),
            }
        }
    }

    /// One request; false when the connection, or the load, is over.
    async fn exchange(&self, connection: &mut h1::Connection, kind: Kind) -> bool {
        if self.over.load(Relaxed) {
            return false;
        }
        match ask(connection, kind).await {
            Ok(response) => {
                match kind.fault(&response) {
                    Some(fault) => self.fail(kind, &fault),
                    None => {
                        self.good.fetch_add(1, Relaxed);
                    }
                }
                let close = response.header("connection");
                !close.is_some_and(|option| option.eq_ignore_ascii_case("close"))
            }
            Err(end) => {
                self.fail(kind, &end.to_string());
                false
            }
        }
    }

    fn fail(&self, kind: Kind, why: &str) {
        *self
            .failures
            .lock()
            .entry(format!("{kind:?}: {why}"))
            .or_default() += 1;
    }
}

async fn ask(connection: &mut h1::Connection, kind: Kind) -> Result<Response, End> {
    connection.send(&kind.request()).await?;
    Ok(connection.reply().await?.finish().await)
}
