//! The place of a reader in a stream that is produced in this process.

use std::{sync::Arc, time::Duration};

use tower_stream_core::{Exchange, FaultKind};

use crate::{live::Live, resume::Shared};

/// A reader's place in a stream that is produced here.
pub(crate) struct Place {
    pub(crate) live: Arc<Live>,
    pub(crate) place: usize,
    /// The exchange of the response.
    exchange: Option<Exchange>,
    lease: Duration,
}

impl Place {
    /// The place that [`Live::join`] returned.
    pub(crate) fn new(
        shared: &Shared,
        live: &Arc<Live>,
        place: usize,
        exchange: Option<&Exchange>,
    ) -> Self {
        Self {
            live: Arc::clone(live),
            place,
            exchange: exchange.cloned(),
            lease: shared.lease,
        }
    }

    /// How long the client may take to come back, if a drain has asked it to: the wait that it was told, and a lease for the
    /// connection. A reader on another server is noted in the log by then.
    fn back_within(&self) -> Option<Duration> {
        let cause = self.exchange.as_ref()?.cause()?;
        let is_drain = cause.kind() == FaultKind::Drain;
        is_drain.then(|| cause.retry_after().unwrap_or_default() + self.lease)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.leave(self.place, self.back_within());
    }
}
