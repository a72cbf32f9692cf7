//! What a reader knows of the producers of its stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tower_stream_core::Exchange;

use crate::{Epoch, LogErrorKind, Status, StreamId, log::forked_at, resume::Shared};

/// What is known of the epochs of a stream.
pub(crate) struct Epochs {
    /// The epoch of the record that is read next.
    pub(crate) current: Epoch,
    /// Where the next epoch begins. `u64::MAX`: not known.
    pub(crate) next_fork: u64,
    pub(crate) forks: Vec<u64>,
    /// When the log is to be asked for new epochs before a record is believed to be of a known one. A takeover waits for the lease, so
    /// until that had expired there was none. `None`: no more can follow.
    pub(crate) known_until: Option<Instant>,
}

impl Epochs {
    pub(crate) fn new(forks: &[u64], known_until: Option<Instant>) -> Self {
        Self {
            current: Epoch::FIRST,
            next_fork: forks.first().copied().unwrap_or(u64::MAX),
            forks: forks.to_owned(),
            known_until,
        }
    }

    /// Goes on to the epoch of this offset.
    pub(crate) fn reach(&mut self, offset: u64) {
        while self.next_fork <= offset {
            self.current = self.current.next();
            self.next_fork = forked_at(&self.forks, self.current).unwrap_or(u64::MAX);
        }
    }

    pub(crate) fn are_known(&self) -> bool {
        self.known_until.is_none_or(|until| Instant::now() < until)
    }
}

/// The state of a stream that a reader has asked for.
pub(crate) struct Looked {
    pub(crate) status: Status,
    pub(crate) asked: Instant,
}

impl Looked {
    pub(crate) fn known_until(status: &Status, asked: Instant) -> Option<Instant> {
        let lease = status.lease.unwrap_or_default();
        status.end.is_none().then(|| asked + lease)
    }
}

pub(crate) type Watch = Pin<Box<dyn Future<Output = Result<Option<Looked>, LogErrorKind>> + Send>>;

/// Waits, tells the producer that the stream has a reader, and looks after the stream: whether the producer lives. `None` if the log does
/// not answer. It is then not known whether the producer is lost, so the reader goes on.
pub(crate) fn watch(
    shared: &Arc<Shared>,
    id: StreamId,
    outer: Option<&Exchange>,
    wait: Duration,
) -> Watch {
    let (shared, outer) = (Arc::clone(shared), outer.cloned());
    Box::pin(async move {
        sleep(wait).await;
        let asked = Instant::now();
        let look = async {
            shared.log.attend(&id, shared.lease).await?;
            shared.look_after(&id, outer.as_ref()).await
        };
        match timeout(shared.lease, look).await {
            Ok(Ok(status)) => Ok(Some(Looked { status, asked })),
            Ok(Err(error)) if error.kind() == LogErrorKind::NotFound => Err(LogErrorKind::NotFound),
            _ => Ok(None),
        }
    })
}
