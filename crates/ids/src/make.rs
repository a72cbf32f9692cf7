//! Generators of request ids.

use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use tower_stream_core::RequestId;
use uuid::{Builder, Uuid};

/// Makes the id of a request that has no valid inbound id, or whose inbound id [`Trust`](crate::Trust) rejects.
///
/// Runs in `Service::call`, before the inner service, so it must not block. Implemented for closures of this signature:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_stream_ids::{RequestId, RequestIdLayer};
///
/// let count = AtomicU64::new(0);
/// let layer = RequestIdLayer::new().make(move |_: &http::request::Parts| -> RequestId {
///     let n = count.fetch_add(1, Ordering::Relaxed);
///     format!("edge-7.{n}").parse().expect("1 to 128 of the bytes that an id may have")
/// });
/// # let _ = layer;
/// ```
pub trait MakeRequestId: Send + Sync + 'static {
    /// Returns a new id for the request with this head.
    fn make_request_id(&self, head: &Parts) -> RequestId;
}

impl<F> MakeRequestId for F
where
    F: Fn(&Parts) -> RequestId + Send + Sync + 'static,
{
    fn make_request_id(&self, head: &Parts) -> RequestId {
        self(head)
    }
}

/// Random UUIDs (RFC 9562 section 5.4): the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct MakeUuidV4;

impl MakeRequestId for MakeUuidV4 {
    fn make_request_id(&self, _: &Parts) -> RequestId {
        Self::make()
    }
}

impl MakeUuidV4 {
    pub(crate) fn make() -> RequestId {
        Uuid::new_v4().into()
    }
}

/// UUIDs that start with the time (RFC 9562 section 5.7), so that ids sort by time.
///
/// The 48 bits of milliseconds are followed by 12 bits of their fraction (section 6.2, method 3). Ids of one machine
/// are thus in order to a quarter of a microsecond, without a counter shared by all threads. The id reveals when the
/// request arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct MakeUuidV7;

impl MakeRequestId for MakeUuidV7 {
    fn make_request_id(&self, _: &Parts) -> RequestId {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let fraction = u64::from(since_epoch.subsec_nanos() % 1_000_000) * 4096 / 1_000_000;
        // In a random UUID, bytes 6 and 8 hold the version and the variant. The 8 bytes used here are random except for
        // the bits of the variant, which stay in place.
        let mut tail = [0; 10];
        tail[..2].copy_from_slice(&(fraction as u16).to_be_bytes());
        tail[2..].copy_from_slice(&Uuid::new_v4().as_bytes()[8..]);
        Builder::from_unix_timestamp_millis(millis, &tail)
            .into_uuid()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Parts {
        http::Request::new(()).into_parts().0
    }

    fn uuid(make: &impl MakeRequestId) -> Uuid {
        make.make_request_id(&head()).as_str().parse().unwrap()
    }

    #[test]
    fn versions_and_variants() {
        for _ in 0..100 {
            for (uuid, version) in [(uuid(&MakeUuidV4), 4), (uuid(&MakeUuidV7), 7)] {
                assert_eq!(uuid.get_version_num(), version);
                assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
            }
        }
    }

    #[test]
    fn v7_tells_the_time_and_sorts_by_it() {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let before = now().as_millis();
        let first = uuid(&MakeUuidV7);
        let after = now().as_millis();
        let bytes = first.as_bytes();
        let millis = bytes[..6].iter().fold(0, |n, b| n << 8 | u128::from(*b));
        assert!(
            (before..=after).contains(&millis),
            "{before} {millis} {after}"
        );

        // An id made one microsecond later is greater, also within one millisecond.
        let mut ids = Vec::new();
        for _ in 0..1000 {
            ids.push(uuid(&MakeUuidV7));
            let from = now();
            while now() - from < std::time::Duration::from_micros(1) {}
        }
        assert!(ids.is_sorted());
    }

    #[test]
    fn a_million_ids_without_a_duplicate() {
        let head = head();
        let makers: [&dyn MakeRequestId; 2] = [&MakeUuidV4, &MakeUuidV7];
        let mut ids: Vec<u128> = Vec::with_capacity(1_000_000);
        for i in 0..1_000_000 {
            let id = makers[i % 2].make_request_id(&head);
            ids.push(id.as_str().parse::<Uuid>().unwrap().as_u128());
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1_000_000);
    }
}
