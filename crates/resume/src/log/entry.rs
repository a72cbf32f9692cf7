//! What is appended at once, and its encoding for stores of bytes.

use std::{fmt, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tower_stream_core::{Cause, FaultKind};

use super::End;

/// What a record counts in the bounds of a log, beside its bytes.
pub(crate) const RECORD_COST: usize = 64;

/// Consecutive records of a stream, perhaps with its end: what is appended, stored and read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The offset of the first record, or of the end if there are no records.
    pub first: u64,
    /// The records. Each has the next offset.
    pub records: Vec<Bytes>,
    /// How the stream ended. The end has the offset after the last record.
    pub end: Option<End>,
}

impl Entry {
    /// Records from this offset on.
    #[must_use]
    pub const fn records(first: u64, records: Vec<Bytes>) -> Self {
        Self {
            first,
            records,
            end: None,
        }
    }

    /// The end of the stream, at this offset.
    #[must_use]
    pub const fn end(at: u64, end: End) -> Self {
        Self {
            first: at,
            records: Vec::new(),
            end: Some(end),
        }
    }

    /// The offset after this entry: after its last record, and after its end if it has one.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.records.len() as u64 + u64::from(self.end.is_some())
    }

    /// The number of bytes of the records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    /// What the records count in the bounds of a log.
    pub(crate) fn cost(&self) -> usize {
        self.bytes() + RECORD_COST * self.records.len()
    }

    /// Returns whether there is neither a record nor an end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.end.is_none()
    }

    /// The part of the entry after this offset, for a reader that has read up to there. `None` if there is none. An end is
    /// never dropped: for an offset at or after it, the part is the end alone.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use tower_stream_resume::{End, Entry};
    ///
    /// let mut entry = Entry::records(5, vec![Bytes::from("five"), Bytes::from("six")]);
    /// assert_eq!(entry.clone().after(5), Some(Entry::records(6, vec![Bytes::from("six")])));
    /// assert_eq!(entry.clone().after(6), None);
    /// entry.end = Some(End::Complete);
    /// assert_eq!(entry.after(9), Some(Entry::end(7, End::Complete)));
    /// ```
    #[must_use]
    pub fn after(mut self, offset: u64) -> Option<Self> {
        let read = (offset + 1).saturating_sub(self.first);
        let read = usize::try_from(read)
            .unwrap_or(usize::MAX)
            .min(self.records.len());
        if read > 0 {
            self.records.drain(..read);
            self.first += read as u64;
        }
        (!self.is_empty()).then_some(self)
    }

    /// The entry as bytes, for a store of bytes. The offset is included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(32 + self.bytes() + 4 * self.records.len());
        to.put_u8(FORMAT);
        to.put_u64(self.first);
        to.put_u32(self.records.len() as u32);
        for record in &self.records {
            put(&mut to, record);
        }
        match &self.end {
            None => to.put_u8(0),
            Some(End::Complete) => to.put_u8(1),
            Some(End::Failed(cause)) => {
                to.put_u8(2);
                put(&mut to, cause.kind().as_str().as_bytes());
                put(&mut to, cause.message().as_bytes());
                let wait = cause.retry_after().map(|wait| wait.as_millis());
                to.put_u64(wait.map_or(u64::MAX, |wait| wait as u64));
            }
        }
        to.freeze()
    }

    /// Reads what [`encode`](Self::encode) wrote. The records are slices of `from`, and are not copied.
    ///
    /// # Errors
    ///
    /// The bytes are not an entry, or that of a later version.
    pub fn decode(mut from: Bytes) -> Result<Self, CodecError> {
        if from.try_get_u8() != Ok(FORMAT) {
            return Err(CodecError(()));
        }
        let first = from.try_get_u64()?;
        let count = from.try_get_u32()?;
        // Each record takes at least four bytes, so a wrong count reserves little.
        let mut records = Vec::with_capacity((count as usize).min(from.len() / 4));
        for _ in 0..count {
            records.push(get(&mut from)?);
        }
        let end = match from.try_get_u8()? {
            0 => None,
            1 => Some(End::Complete),
            2 => {
                let kind = get_text(&mut from)?;
                let message = get_text(&mut from)?;
                let kind = FaultKind::from_name(&kind).unwrap_or(FaultKind::Other);
                let mut cause = Cause::new(kind, message);
                match from.try_get_u64()? {
                    u64::MAX => {}
                    wait => cause = cause.with_retry_after(Duration::from_millis(wait)),
                }
                Some(End::Failed(cause))
            }
            _ => return Err(CodecError(())),
        };
        if !from.is_empty() || first.checked_add(u64::from(count) + 1).is_none() {
            return Err(CodecError(()));
        }
        Ok(Self {
            first,
            records,
            end,
        })
    }
}

/// Version of the encoding.
const FORMAT: u8 = 1;

fn put(to: &mut BytesMut, bytes: &[u8]) {
    to.put_u32(bytes.len() as u32);
    to.put_slice(bytes);
}

fn get(from: &mut Bytes) -> Result<Bytes, CodecError> {
    let length = from.try_get_u32()? as usize;
    match length <= from.len() {
        true => Ok(from.split_to(length)),
        false => Err(CodecError(())),
    }
}

fn get_text(from: &mut Bytes) -> Result<String, CodecError> {
    let text = get(from)?;
    String::from_utf8(text.to_vec()).map_err(|_| CodecError(()))
}

/// The bytes are not an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecError(());

impl CodecError {
    #[cfg(feature = "nats")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl From<bytes::TryGetError> for CodecError {
    fn from(_: bytes::TryGetError) -> Self {
        Self(())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stored bytes are not an entry of a stream")
    }
}

impl std::error::Error for CodecError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends() -> impl Strategy<Value = Option<End>> {
        let cause = (0..3_usize, ".{0,8}", proptest::option::of(0..9_000_u64));
        let failed = cause.prop_map(|(kind, message, wait)| {
            let kinds = [
                FaultKind::ProducerLost,
                FaultKind::Other,
                FaultKind::Cancelled,
            ];
            let cause = Cause::new(kinds[kind], message);
            End::Failed(match wait {
                Some(wait) => cause.with_retry_after(Duration::from_millis(wait)),
                None => cause,
            })
        });
        prop_oneof![Just(None), Just(Some(End::Complete)), failed.prop_map(Some)]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let records = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5);
        (0..99_u64, records, ends()).prop_map(|(first, records, end)| Entry {
            first,
            records: records.into_iter().map(Bytes::from).collect(),
            end,
        })
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(entry in entries()) {
            prop_assert_eq!(Entry::decode(entry.encode()), Ok(entry));
        }

        #[test]
        fn bytes_that_are_cut_or_changed_are_refused_or_another_entry(
            entry in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let good = entry.encode();
            let at = at.index(good.len());
            prop_assert!(Entry::decode(good.slice(..at)).is_err());
            let mut bad = good.to_vec();
            bad[at] = byte;
            let _ = Entry::decode(bad.into());
        }
    }

    #[test]
    fn an_offset_that_would_overflow_is_refused() {
        let entry = Entry::records(u64::MAX, vec![Bytes::from("x")]);
        assert!(Entry::decode(entry.encode()).is_err());
    }
}
