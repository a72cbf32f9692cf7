//! Many event streams while their server shuts down.

use std::{sync::Arc, time::Duration};

use clap::Args;
use e2e::{DemoProcess, Signal};
use parking_lot::Mutex;
use stream_load::{Ending, Stream, Watch};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::{BoxError, Findings, demo, load};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Event streams that are open when the server is stopped
    #[arg(long, default_value_t = 10_000)]
    streams: usize,

    /// Percentage of clients that stall (farewell only)
    #[arg(long, default_value_t = 1)]
    stalled: usize,

    /// The deadline, or the window in which streams are ended early, in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u64,

    /// Check the times of docs/figures.md too, which only a quiet machine keeps
    #[arg(long)]
    timed: bool,
}

/// The clients of all streams.
#[derive(Debug)]
struct Readers {
    /// One permit for each client that has received an event.
    open: Semaphore,
    seen: Mutex<Vec<Seen>>,
}

/// What a client received.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Whether it got exactly one last event, complete and by itself, and a clean end.
    well: bool,
    /// When its last byte arrived.
    at: Instant,
}

impl Watch for Readers {
    fn opened(&self) {
        self.open.add_permits(1);
    }

    fn ended(&self, stream: &Stream<'_>) {
        let well = stream.ending == Ending::Drained
            && stream.farewells == 1
            // No part of another event before it.
            && stream.last_record.starts_with(b"event: drain\n");
        let at = stream.last_chunk.unwrap_or(stream.started);
        self.seen.lock().push(Seen { well, at });
    }
}

pub(crate) async fn farewell(options: &Options, findings: &mut Findings) -> Result<(), BoxError> {
    let deadline = Duration::from_secs(options.seconds);
    let flags = [("--advertise", deadline / 2), ("--deadline", deadline)];
    let stalled = options.streams * options.stalled / 100;
    let run = drain(options.streams, stalled, &flags).await?;
    let reading = options.streams - stalled;
    let well = run.seen.iter().filter(|seen| seen.well).count();
    findings.note(format_args!("{}", run.report))?;
    findings.check(
        well == reading,
        format_args!("{well} of {reading} reading clients got one whole farewell"),
    )?;
    // A reader that holds the server does so until its stall guard cuts it, 30 s after it stopped.
    let margin = if options.timed {
        Duration::from_millis(250)
    } else {
        Duration::from_secs(20)
    };
    let limit = deadline + margin;
    findings.check(
        run.exit <= limit,
        format_args!(
            "the process was gone after {:?}, at most {limit:?} ({stalled} readers stalled)",
            run.exit
        ),
    )?;
    // Aborted streams make the exit code 1.
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
    let well = run.seen.iter().filter(|seen| seen.well).count();
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
    // Streams that all end at once end in one or two of these intervals.
    let most = if options.timed {
        2.0 * mean
    } else {
        options.streams as f64 / 2.0
    };
    findings.check(
        busiest as f64 <= most,
        format_args!(
            "the busiest 100 ms ended {busiest} streams, at most {most:.0}; the mean is {mean:.0}"
        ),
    )?;
    Ok(())
}

struct Run {
    signalled: Instant,
    exit: Duration,
    code: Option<i32>,
    /// The report that the server printed.
    report: String,
    seen: Vec<Seen>,
}

/// Opens the streams, waits until each client has an event, sends SIGTERM, and reads to the end.
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
    let url = |query| format!("http://{}/events?count=0&{query}", server.public_addr());
    let readers = Arc::new(Readers {
        open: Semaphore::new(0),
        seen: Mutex::default(),
    });
    // As many bytes as the buffers take, which no client reads.
    let mut idle = None;
    if stalled > 0 {
        let options = [
            "-n",
            &stalled.to_string(),
            "--stall",
            "100%",
            "--opening",
            "100",
        ];
        let load = load(&url("interval_ms=0&bytes=65536"), &options)?;
        idle = Some(load.start().await?);
    }
    let reading = (streams - stalled).to_string();
    let load = load(
        &url("interval_ms=1000"),
        &["-n", &reading, "--opening", "100"],
    )?;
    let mut running = load.watch(Arc::clone(&readers)).start().await?;
    let all = readers.open.acquire_many(u32::try_from(streams - stalled)?);
    timeout(Duration::from_secs(120), all).await??.forget();
    sleep(Duration::from_millis(500)).await;
    let signalled = Instant::now();
    server.signal(Signal::TERM)?;
    let status = server.exit(Duration::from_secs(120)).await?;
    let exit = signalled.elapsed();
    running.ended().await;
    drop(idle);
    let log = server.log().text();
    let report = log.lines().find_map(|line| line.split_once(": drained "));
    let report = report.map(|(_, fields)| fields);
    Ok(Run {
        signalled,
        exit,
        code: status.code(),
        report: report.unwrap_or("no report").to_owned(),
        seen: std::mem::take(&mut *readers.seen.lock()),
    })
}
