//! The reader of a stream, whatever the log.

use std::future::Future;

use futures_util::stream;

use super::{Entry, LogError, LogReader};

/// Finds the entries of a stream, in their order.
pub(super) trait Reading: Send + 'static {
    /// Waits for the next entry. Not called again after the end of the stream or an error.
    fn next(&mut self) -> impl Future<Output = Result<Entry, LogError>> + Send;
}

/// What this returns, up to the end of the stream or an error.
pub(super) fn reader(reading: impl Reading) -> LogReader {
    Box::pin(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        let item = reading.next().await;
        let goes_on = matches!(&item, Ok(entry) if entry.end.is_none());
        Some((item, goes_on.then_some(reading)))
    }))
}
