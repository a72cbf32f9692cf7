//! `demo-server`: see `--help`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use demo_server::{Args, Server, log};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo-server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Exit codes: 0 when every stream ended, 1 when one was cut or the server could not start.
async fn run(args: Args) -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
    log::install(args.log)?;
    // Before the addresses are printed: whoever reads them may signal at once.
    let mut signals = Signals::listen()?;
    let server = Server::start(args).await?;
    announce(&server)?;
    signals.next().await;
    let ended = tokio::select! {
        ended = server.shutdown() => ended,
        () = signals.next() => {
            tracing::warn!("stopped at once by a second signal");
            false
        }
    };
    Ok(if ended {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One line on stdout that a program can read.
fn announce(server: &Server) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "listening public={} admin={}",
        server.public_addr(),
        server.admin_addr()
    )?;
    out.flush()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
