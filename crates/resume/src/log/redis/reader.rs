//! Reads a stream: what is stored, and then what is appended.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{READ, Shared, decoded_end, nonsense, number, watch::Watch};
use crate::{
    Entry, LogError, LogReader, StreamId,
    log::reading::{self, Reading},
};

/// How many entries are read at once.
const ENTRIES: usize = 16;

/// How often a reader looks without a message: messages are lost with their connection, and there is none when a stream has
/// reached its age.
const LOOK: Duration = Duration::from_secs(5);

pub(super) fn read(shared: Arc<Shared>, id: StreamId, after: u64) -> LogReader {
    reading::reader(Reader {
        shared,
        id,
        after,
        position: None,
        ahead: VecDeque::new(),
        watch: None,
    })
}

struct Reader {
    shared: Arc<Shared>,
    id: StreamId,
    /// The offset up to which everything was returned.
    after: u64,
    /// The first offset of the last entry that was read.
    position: Option<u64>,
    ahead: VecDeque<Entry>,
    watch: Option<Watch>,
}

impl Reading for Reader {
    async fn changed(&mut self) -> Result<Arc<Notify>, LogError> {
        if let Some(watch) = &self.watch {
            return Ok(Arc::clone(&watch.changed));
        }
        let channel = self.shared.channel(&self.id);
        let mut connection = self.shared.connection.clone();
        let watch = self.shared.watches.watch(&mut connection, channel);
        let watch = self.shared.within(watch).await?;
        Ok(Arc::clone(&self.watch.insert(watch).changed))
    }

    async fn look(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            while let Some(entry) = self.ahead.pop_front() {
                if let Some(entry) = entry.after(self.after) {
                    self.after = self.after.max(entry.next() - 1);
                    return Ok(Some(entry));
                }
            }
            if !self.read_ahead().await? {
                return Ok(None);
            }
        }
    }

    fn look_again(&self) -> Option<Instant> {
        Instant::now().checked_add(LOOK)
    }
}

impl Reader {
    /// Reads the next entries. False: there are none yet.
    async fn read_ahead(&mut self) -> Result<bool, LogError> {
        let position = self.position.map(|position| position.to_string());
        let mut call = READ.key(self.shared.fields(&self.id));
        call.key(self.shared.entries(&self.id))
            .arg(position.unwrap_or_default())
            .arg(self.after.saturating_add(1))
            .arg(ENTRIES);
        let answer = self.shared.run(&call).await?;
        let [next, end, stored @ ..] = &answer[..] else {
            return Err(nonsense());
        };
        let is_start = self.position.is_none();
        if is_start {
            self.position = Some(0);
        }
        for entry in stored.chunks_exact(2) {
            self.position = Some(number(Some(&entry[0]))?);
            let entry = Entry::decode(entry[1].clone()).map_err(LogError::unavailable)?;
            self.ahead.push_back(entry);
        }
        if !stored.is_empty() || is_start {
            return Ok(true);
        }
        // Everything was read, but not returned: this reader began at the end, or behind it.
        if end.is_empty() {
            return Ok(false);
        }
        let at = number(Some(next))?.checked_sub(1).ok_or_else(nonsense)?;
        self.ahead.push_back(Entry::end(at, decoded_end(end)?));
        Ok(true)
    }
}
