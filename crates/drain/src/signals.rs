//! SIGTERM and SIGINT.

use std::{io, sync::atomic::Ordering, time::Duration};

use crate::Drain;

impl Drain {
    /// Starts to listen for SIGTERM and SIGINT now. The first starts the drain, the second ends it at once.
    ///
    /// SIGINT (Ctrl-C) comes from a person, who has no load balancer: when nothing is in flight, the drain does not
    /// [advertise](crate::Builder::advertise) then, and is over at once. Otherwise a line in the log says what it waits for.
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
                begin(&drain, name);
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

fn begin(drain: &Drain, name: &str) {
    let interrupt = name != TERMINATE;
    tracing::info!(signal = name, "shutdown signal");
    match drain.in_flight() {
        0 if interrupt => drain.start_without_advertise(),
        _ => drain.start(),
    }
    let in_flight = drain.in_flight();
    if interrupt && in_flight > 0 {
        tracing::info!(
            in_flight,
            "waiting for what is in flight; press Ctrl-C again to end it now"
        );
    }
}

const TERMINATE: &str = "SIGTERM";

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
            _ = self.terminate.recv() => TERMINATE,
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
