//! What each message of a stream carries: the state of the stream after it, and perhaps an entry.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{CodecError, End, Entry, Epoch, LogErrorKind};

const RECORD_COST: u64 = crate::log::entry::RECORD_COST as u64;

pub(super) const KEY_BYTES: usize = 32;

/// The state of a stream after a message. The last message on the stream's subject has the state of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) epoch: Epoch,
    /// The next offset.
    pub(super) next: u64,
    /// The bytes of all records so far, those that are no longer kept included.
    pub(super) bytes: u64,
    /// The first offset of the entry that this epoch stored last. 0: it has stored none.
    pub(super) last: u64,
    pub(super) lease: Duration,
    pub(super) forks: Vec<u64>,
    /// The SHA-256 of the application's key.
    pub(super) key: Option<[u8; KEY_BYTES]>,
    pub(super) meta: Bytes,
    /// The entry of the message. `None`: it creates the stream, renews its lease, or takes it over.
    pub(super) entry: Option<Entry>,
}

/// Records that are no longer kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl State {
    pub(super) fn end(&self) -> Option<&End> {
        self.entry.as_ref()?.end.as_ref()
    }

    /// The number of records so far.
    fn records(&self) -> u64 {
        self.next - 1 - u64::from(self.end().is_some())
    }

    /// The offset of the message's first record, or of the next one if it has none.
    pub(super) fn first(&self) -> u64 {
        self.entry.as_ref().map_or(self.next, |entry| entry.first)
    }

    /// What is gone if this message is the first one that is kept.
    pub(super) fn before(&self) -> Gone {
        let own = self.entry.as_ref().map_or(0, Entry::bytes) as u64;
        Gone {
            records: self.first() - 1,
            bytes: self.bytes.saturating_sub(own),
        }
    }

    /// What is gone if this message is the last one that is not kept.
    pub(super) fn through(&self) -> Gone {
        Gone {
            records: self.records(),
            bytes: self.bytes,
        }
    }

    /// What the records cost that are kept.
    pub(super) fn cost(&self, gone: Gone) -> u64 {
        let records = self.records().saturating_sub(gone.records);
        self.bytes.saturating_sub(gone.bytes) + RECORD_COST * records
    }

    /// Compares an append with the state. False: it was stored already.
    pub(super) fn check(&self, epoch: Epoch, entry: &Entry) -> Result<bool, LogErrorKind> {
        if self.epoch != epoch {
            return Err(LogErrorKind::Fenced);
        }
        let is_retry = entry.first == self.last && entry.next() == self.next && !entry.is_empty();
        if is_retry && entry.end.as_ref() == self.end() {
            return Ok(false);
        }
        if self.end().is_some() {
            return Err(LogErrorKind::Ended);
        }
        match entry.first == self.next {
            true => Ok(true),
            false => Err(LogErrorKind::Conflict { next: self.next }),
        }
    }

    pub(super) fn appended(mut self, entry: &Entry) -> Self {
        self.next = entry.next();
        self.bytes += entry.bytes() as u64;
        self.last = entry.first;
        self.entry = Some(entry.clone());
        self
    }

    pub(super) fn renewed(mut self) -> Self {
        self.entry = None;
        self
    }

    pub(super) fn taken_over(mut self) -> Self {
        self.epoch = self.epoch.next();
        self.forks.push(self.next);
        // An entry of the earlier producer is no retry of the new one.
        self.last = 0;
        self.entry = None;
        self
    }

    /// Without the records, for the memory of the producer.
    pub(super) fn without_records(mut self) -> Self {
        if let Some(entry) = &mut self.entry {
            entry.records = Vec::new();
        }
        self
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(64 + self.meta.len());
        to.put_u8(FORMAT);
        to.put_u32(self.epoch.get());
        to.put_u64(self.next);
        to.put_u64(self.bytes);
        to.put_u64(self.last);
        to.put_u64(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        to.put_u32(self.forks.len() as u32);
        self.forks.iter().for_each(|fork| to.put_u64(*fork));
        to.put_u8(u8::from(self.key.is_some()));
        to.extend_from_slice(self.key.as_ref().map_or(&[], |key| key));
        to.put_u32(self.meta.len() as u32);
        to.extend_from_slice(&self.meta);
        if let Some(entry) = &self.entry {
            to.extend_from_slice(&entry.encode());
        }
        to.freeze()
    }

    pub(super) fn decode(mut from: Bytes) -> Result<Self, CodecError> {
        if from.try_get_u8()? != FORMAT {
            return Err(CodecError::new());
        }
        let epoch = Epoch::new(from.try_get_u32()?).ok_or_else(CodecError::new)?;
        let (next, bytes, last) = (
            from.try_get_u64()?,
            from.try_get_u64()?,
            from.try_get_u64()?,
        );
        let lease = Duration::from_millis(from.try_get_u64()?);
        let count = from.try_get_u32()?;
        let mut forks = Vec::with_capacity((count as usize).min(from.len() / 8));
        for _ in 0..count {
            forks.push(from.try_get_u64()?);
        }
        let mut key = None;
        if from.try_get_u8()? == 1 {
            let mut bytes = [0; KEY_BYTES];
            from.try_copy_to_slice(&mut bytes)?;
            key = Some(bytes);
        }
        let length = from.try_get_u32()? as usize;
        if length > from.len() || next == 0 {
            return Err(CodecError::new());
        }
        let meta = from.split_to(length);
        let entry = match from.is_empty() {
            true => None,
            false => Some(Entry::decode(from)?),
        };
        Ok(Self {
            epoch,
            next,
            bytes,
            last,
            lease,
            forks,
            key,
            meta,
            entry,
        })
    }
}

/// Version of the encoding.
const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn state(entry: Option<Entry>) -> State {
        State {
            epoch: Epoch::FIRST.next(),
            next: 9,
            bytes: 70,
            last: 8,
            lease: Duration::from_millis(1_500),
            forks: vec![4],
            key: Some([7; KEY_BYTES]),
            meta: Bytes::from("meta"),
            entry,
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let entry = Entry::records(8, vec![Bytes::from("eight")]);
        for state in [
            state(None),
            state(Some(entry)),
            State {
                key: None,
                ..state(None)
            },
        ] {
            let bytes = state.encode();
            assert_eq!(State::decode(bytes.clone()), Ok(state.clone()));
            let whole = bytes.len() - state.entry.map_or(0, |entry| entry.encode().len());
            for cut in (0..bytes.len()).filter(|cut| *cut != whole) {
                assert!(State::decode(bytes.slice(..cut)).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_what_the_last_message_has_more_than_the_first() {
        let first = state(Some(Entry::records(8, vec![Bytes::from("eight")])));
        let mut last = Entry::records(9, vec![Bytes::from("nine")]);
        last.end = Some(End::Complete);
        let last = first.clone().renewed().appended(&last);
        assert_eq!((last.next, last.first(), last.last), (11, 9, 9));
        assert_eq!(
            first.before(),
            Gone {
                records: 7,
                bytes: 65
            }
        );
        assert_eq!(last.cost(first.before()), 9 + 2 * RECORD_COST);
        assert_eq!(last.cost(first.through()), 4 + RECORD_COST);
        assert_eq!(last.cost(last.through()), 0);
    }
}
