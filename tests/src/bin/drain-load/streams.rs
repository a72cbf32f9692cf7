//! Many event streams while their server goes away.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use e2e::{DemoProcess, Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{BoxError, Findings, demo};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Event streams that are open when the server is told to stop
    #[arg(long, default_value_t = 10_000)]
    streams: usize,

    /// Per cent of the readers that stall (farewell only)
    #[arg(long, default_value_t = 1)]
    stalled: usize,

    /// The deadline, or the window in which streams are ended early, in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// What a reader saw, and when it saw the end.
struct Seen {
    farewells: usize,
    half_event: bool,
    whole: bool,
    at: Instant,
}

pub(crate) async fn farewell(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let deadline = Duration::from_secs(options.seconds);
    let flags = [("--advertise", deadline / 2), ("--deadline", deadline)];
    let stalled = options.streams * options.stalled / 100;
    let run = drain(options.streams, stalled, &flags).await?;
    let reading = options.streams - stalled;
    let well = run
        .seen
        .iter()
        .filter(|seen| seen.farewells == 1 && seen.whole && !seen.half_event);
    let well = well.count();
    findings.note(format_args!("{}", run.report))?;
    findings.check(
        well == reading,
        format_args!("{well} of {reading} reading clients got one whole farewell"),
    )?;
    let limit = deadline + Duration::from_millis(250);
    findings.check(
        run.exit <= limit,
        format_args!(
            "the process was gone after {:?}, at most {limit:?} ({stalled} readers stalled)",
            run.exit
        ),
    )?;
    // cut streams are what exit code 1 is for
    let code = i32::from(stalled > 0);
    findings.check(
        run.code == Some(code),
        format_args!("exit code {:?}", run.code),
    )?;
    Ok(())
}

pub(crate) async fn early(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let window = Duration::from_secs(options.seconds);
    let advertise = Duration::from_secs(1);
    let flags = [
        ("--advertise", advertise),
        ("--deadline", advertise + window + Duration::from_secs(5)),
        ("--early-end-window", window),
    ];
    let run = drain(options.streams, 0, &flags).await?;
    findings.note(format_args!("{}", run.report))?;
    let well = run
        .seen
        .iter()
        .filter(|seen| seen.farewells == 1 && seen.whole)
        .count();
    findings.check(
        well == options.streams,
        format_args!("{well} farewells of {}", options.streams),
    )?;
    let close = run.signalled + advertise;
    let mut bins = vec![0_usize; (window.as_millis() / 100) as usize + 10];
    let last = bins.len() - 1;
    for seen in &run.seen {
        let bin = seen.at.saturating_duration_since(close).as_millis() / 100;
        bins[(bin as usize).min(last)] += 1;
    }
    let mean = options.streams as f64 / (window.as_millis() as f64 / 100.0);
    let busiest = bins.iter().max().copied().unwrap_or(0);
    findings.check(
        busiest as f64 <= 2.0 * mean,
        format_args!("the busiest 100 ms ended {busiest} streams, the mean is {mean:.0}"),
    )?;
    Ok(())
}

struct Run {
    signalled: Instant,
    exit: Duration,
    code: Option<i32>,
    /// the server's own word
    report: String,
    seen: Vec<Seen>,
}

/// Opens the streams, waits until each reader has an event, sends SIGTERM, and reads to the end.
async fn drain(
    streams: usize,
    stalled: usize,
    flags: &[(&str, Duration)],
) -> Result<Run, BoxError> {
    let mut command = demo()?;
    command.env("RUST_LOG", "tower_stream_drain=info");
    command.args(["--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    for (flag, value) in flags {
        command.arg(flag).arg(format!("{}ms", value.as_millis()));
    }
    let mut server = DemoProcess::start_command(&mut command).await?;
    let addr = server.public_addr();
    let opening = Arc::new(Semaphore::new(100));
    let mut readers = JoinSet::new();
    let ready = Arc::new(Semaphore::new(0));
    let mut idle = Vec::new();
    for n in 0..streams {
        let permit = Arc::clone(&opening).acquire_owned().await?;
        if n < stalled {
            // as much as it takes, read by nobody
            idle.push(open(addr, "/events?count=0&interval_ms=0&bytes=65536").await?);
            continue;
        }
        let ready = Arc::clone(&ready);
        readers.spawn(async move {
            let stream = open(addr, "/events?count=0&interval_ms=1000").await;
            drop(permit);
            read(stream?, &ready).await
        });
    }
    let _all = ready
        .acquire_many(u32::try_from(streams - stalled)?)
        .await?;
    sleep(Duration::from_millis(500)).await;
    let signalled = Instant::now();
    server.signal(Signal::TERM)?;
    let status = server.exit(Duration::from_secs(120)).await?;
    let exit = signalled.elapsed();
    let mut seen = Vec::new();
    while let Some(reader) = readers.join_next().await {
        seen.push(reader??);
    }
    drop(idle);
    let log = server.log().text();
    let report = log.lines().find(|line| line.contains("drained in"));
    let report = report.and_then(|line| line.find("drained in").map(|at| &line[at..]));
    Ok(Run {
        signalled,
        exit,
        code: status.code(),
        report: report.unwrap_or("no report").to_owned(),
        seen,
    })
}

async fn open(addr: SocketAddr, path: &str) -> Result<tokio::net::TcpStream, BoxError> {
    let socket = TcpSocket::new_v4()?;
    let mut stream = socket.connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: load\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Reads to the end of the connection; keeps no more than the last few hundred bytes.
async fn read(mut stream: tokio::net::TcpStream, ready: &Semaphore) -> Result<Seen, BoxError> {
    let mut tail = Vec::new();
    let mut farewells = 0;
    let mut first = true;
    let mut at = Instant::now();
    loop {
        let known = tail.len();
        if !matches!(stream.read_buf(&mut tail).await, Ok(1..)) {
            break;
        }
        let from = known.saturating_sub(b"event: drain".len() - 1);
        let new = count(&tail[from..], b"event: drain");
        if new > 0 {
            at = Instant::now();
        }
        farewells += new;
        if first && count(&tail, b"\n\n\r\n") > 0 {
            ready.add_permits(1);
            first = false;
        }
        if tail.len() > 2048 {
            tail.drain(..tail.len() - 1024);
        }
    }
    // one record is one chunk: before the farewell's stand the end of another, CRLF, and the size of its own
    let text = String::from_utf8_lossy(&tail);
    let before = text.split("event: drain").next().unwrap_or_default();
    let record = before
        .strip_suffix("\r\n")
        .and_then(|before| before.rsplit_once("\r\n"));
    Ok(Seen {
        farewells,
        half_event: !record.is_some_and(|(record, _size)| record.ends_with("\n\n")),
        whole: tail.ends_with(b"\n\n\r\n0\r\n\r\n"),
        at,
    })
}

fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes
        .windows(what.len())
        .filter(|window| *window == what)
        .count()
}
