//! What the tests of the logs in real stores share.

use std::time::Duration;

use bytes::Bytes;
use tower_stream_resume::{Entry, NewStream, StreamId, StreamLog};

pub(crate) const LEASE: Duration = Duration::from_secs(5);
pub(crate) const MAX: usize = 256 * 1_024;

/// Waits until the server of this log answers.
pub(crate) async fn is_up(log: impl StreamLog) {
    while log.find(b"any").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A new stream of this log.
pub(crate) async fn stream(log: &impl StreamLog) -> StreamId {
    let id = StreamId::random();
    log.create(&id, NewStream::new("", LEASE)).await.unwrap();
    id
}

pub(crate) fn one(offset: u64) -> Entry {
    Entry::records(offset, vec![Bytes::from("x")])
}
