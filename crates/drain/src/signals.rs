//! SIGTERM and SIGINT.

use std::{io, sync::atomic::Ordering, time::Duration};

use crate::Drain;

impl Drain {
    /// Starts to listen for SIGTERM and SIGINT now. The first starts the drain, the second ends it at once.
    ///
    /// `tower_stream_serve::serve` does it by itself. Call it for a program that has work to do before it serves, and
    /// with another server.
    ///
    /// # Errors
    ///
    /// When a handler cannot be installed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        listen(self)
    }
}

/// Listens, unless this drain does so already: two servers of one drain must not make one signal two.
fn listen(drain: &Drain) -> io::Result<()> {
    if drain.shared.signals.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    let mut signals = Signals::new()?;
    let drain = drain.clone();
    tokio::spawn(async move {
        // Counted are signals, not starts: a preStop hook may have started the drain before the first one.
        tokio::select! {
            () = drain.dead() => return,
            name = signals.next() => {
                tracing::info!(signal = name, "draining");
                drain.start();
            }
        }
        tokio::select! {
            () = drain.dead() => {}
            name = signals.next() => {
                tracing::warn!(signal = name, "a second signal: ending now");
                drain.start_within(Duration::ZERO);
            }
        }
    });
    Ok(())
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
