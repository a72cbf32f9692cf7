//! Reads a stream: what is stored, and then what is appended.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{
    Shared,
    jetstream::{JetStream, Message},
    watch::Watch,
};
use crate::{
    Entry, LogError, LogErrorKind, LogReader, StreamId,
    log::reading::{self, Reading},
};

/// How often a reader looks without having been woken: wake-ups are lost with the connection, and there is none when a stream has
/// reached its age.
const LOOK: Duration = Duration::from_secs(2);

pub(super) fn read(shared: Arc<Shared>, id: StreamId, after: u64) -> LogReader {
    reading::reader(Reader {
        subject: shared.subject(&id),
        shared,
        id,
        after,
        position: None,
        watch: None,
    })
}

struct Reader {
    shared: Arc<Shared>,
    id: StreamId,
    subject: String,
    /// The offset up to which everything was returned.
    after: u64,
    /// The sequence number of the next message. `None` before the first look.
    position: Option<u64>,
    watch: Option<Arc<Watch>>,
}

impl Reading for Reader {
    async fn changed(&mut self) -> Result<Arc<Notify>, LogError> {
        if let Some(watch) = &self.watch {
            return Ok(Arc::clone(&watch.changed));
        }
        let server = self.shared.server().await?;
        let subject = self.shared.changed(&self.id);
        let watch = self.shared.watches.watch(&server.client, self.id, subject);
        let watch = self.shared.within(watch).await?;
        Ok(Arc::clone(&self.watch.insert(watch).changed))
    }

    async fn look(&mut self) -> Result<Option<Entry>, LogError> {
        let shared = Arc::clone(&self.shared);
        let server = shared.server().await?;
        loop {
            let found = shared.within(self.next(server)).await?;
            if let Some(entry) = found.and_then(|entry| entry.after(self.after)) {
                self.after = self.after.max(entry.next() - 1);
                return Ok(Some(entry));
            }
            if !self.is_behind(server).await? {
                return Ok(None);
            }
        }
    }

    fn look_again(&self) -> Option<Instant> {
        Instant::now().checked_add(LOOK)
    }
}

impl Reader {
    /// Reads the next entry. `None`: there is none yet, or only after the messages that were just skipped.
    async fn next(&mut self, server: &JetStream) -> Result<Option<Entry>, LogError> {
        let position = match self.position {
            Some(position) => position,
            None => *self.position.insert(self.seek(server).await?),
        };
        let Some(message) = server.next(&self.subject, position).await? else {
            return Ok(None);
        };
        self.position = Some(message.sequence + 1);
        Ok(message.state()?.entry)
    }

    /// Whether there are messages that were not read. A reader that began behind the end of the stream returns to the end.
    async fn is_behind(&mut self, server: &JetStream) -> Result<bool, LogError> {
        let last = self.shared.within(self.last(server)).await?;
        let position = self.position.unwrap_or_default();
        if last.sequence < position && last.state()?.end().is_some() {
            self.position = Some(last.sequence);
            return Ok(true);
        }
        Ok(last.sequence >= position)
    }

    async fn last(&self, server: &JetStream) -> Result<Message, LogError> {
        let last = server.last(&self.subject).await?;
        Ok(last.ok_or(LogErrorKind::NotFound)?)
    }

    /// The sequence number of the message in which the next offset is, or of the last one before it.
    async fn seek(&self, server: &JetStream) -> Result<u64, LogError> {
        let is_before =
            |message: &Message| Ok::<_, LogError>(message.state()?.first() <= self.after + 1);
        let last = self.last(server).await?;
        if is_before(&last)? {
            return Ok(last.sequence);
        }
        let (mut found, mut from, mut to) = (0, 0, last.sequence);
        // Most clients read from the start.
        while self.after > 0 && from < to {
            let middle = from + (to - from) / 2;
            match server.next(&self.subject, middle).await? {
                Some(message) if is_before(&message)? => {
                    found = message.sequence;
                    from = found + 1;
                }
                _ => to = middle,
            }
        }
        Ok(found)
    }
}
