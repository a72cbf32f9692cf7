//! The reader of a stream, whatever the log: what is stored, and then what is appended, without a hole in between.

use std::{future::Future, sync::Arc};

use futures_util::stream;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{Entry, LogError, LogReader};

/// Finds the entries of a stream, in their order. Not called again after the end of the stream or an error.
pub(super) trait Reading: Send + 'static {
    /// What is notified of each change of the stream, by `notify_waiters`. The reader is subscribed to it when this returns. Called before
    /// each look.
    fn changed(&mut self) -> impl Future<Output = Result<Arc<Notify>, LogError>> + Send;

    /// The next entry that is stored, without what was returned before. `None` if there is none yet.
    fn look(&mut self) -> impl Future<Output = Result<Option<Entry>, LogError>> + Send;

    /// When to look again without a notification. `None`: never.
    fn look_again(&self) -> Option<Instant>;
}

/// Waits for the next entry.
async fn next(reading: &mut impl Reading) -> Result<Entry, LogError> {
    loop {
        let changed = reading.changed().await?;
        // Before the look: it is notified of each change from now on, also before it is polled.
        let changed = changed.notified();
        if let Some(entry) = reading.look().await? {
            return Ok(entry);
        }
        match reading.look_again() {
            Some(at) => drop(timeout_at(at, changed).await),
            None => changed.await,
        }
    }
}

/// What this returns, up to the end of the stream or an error.
pub(super) fn reader(reading: impl Reading) -> LogReader {
    Box::pin(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        let item = next(&mut reading).await;
        let goes_on = matches!(&item, Ok(entry) if entry.end.is_none());
        Some((item, goes_on.then_some(reading)))
    }))
}

#[cfg(test)]
mod tests;
