use std::{io, sync::Arc};

use parking_lot::Mutex;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

/// Collects what a `tracing` subscriber writes.
///
/// ```
/// use e2e::LogCapture;
///
/// let log = LogCapture::default();
/// let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
/// tracing::subscriber::with_default(subscriber, || tracing::info!(chunk = 3, "sent"));
/// assert_eq!(log.json()[0]["fields"]["chunk"], 3);
/// ```
#[derive(Debug, Clone, Default)]
pub struct LogCapture(Arc<Mutex<Vec<u8>>>);

impl LogCapture {
    /// Everything written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    /// Each line parsed as JSON.
    ///
    /// # Panics
    /// If a line is not JSON; the message shows it.
    pub fn json(&self) -> Vec<Value> {
        parse(&self.0.lock())
    }

    /// As [`json`](Self::json), and what was collected is gone.
    ///
    /// # Panics
    /// If a line is not JSON; the message shows it.
    pub fn take_json(&self) -> Vec<Value> {
        let written = std::mem::take(&mut *self.0.lock());
        parse(&written)
    }
}

fn parse(written: &[u8]) -> Vec<Value> {
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in log line {line:?}"))
    };
    String::from_utf8_lossy(written)
        .lines()
        .map(parse)
        .collect()
}

impl io::Write for LogCapture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogCapture {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
