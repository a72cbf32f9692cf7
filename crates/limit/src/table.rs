//! A bounded table of what is kept for each key.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a table keeps for a key.
pub(crate) trait Entry {
    /// Returns whether the entry, which nobody uses, is no different from a new one.
    fn is_fresh(&self) -> bool;
}

/// Entries by key, at most `capacity` of them.
///
/// An entry leaves when no request uses it, it is like a new one, and its key was not seen for `expiry`. While the table is
/// full, all new keys share one entry: whoever invents keys can neither make the table grow nor remove the entries of others.
pub(crate) struct Table<E> {
    entries: Mutex<Entries<E>>,
    capacity: usize,
    expiry: Duration,
    overflow: Arc<E>,
    keyless: Arc<E>,
}

struct Entries<E> {
    by_key: HashMap<u128, Seen<E>, BuildHasherDefault<KeyHash>>,
    swept: Option<Instant>,
}

/// A key is a hash already, with a random seed (see [`KeyBy`](crate::KeyBy)).
#[derive(Default)]
struct KeyHash(u64);

impl Hasher for KeyHash {
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("the key is a u128, not {bytes:?}")
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Seen<E> {
    entry: Arc<E>,
    last: Instant,
}

/// A full table is searched for expired entries no more often than this, because the search takes time in proportion to its
/// size and a client can request it at will.
const PAUSE: Duration = Duration::from_secs(1);

impl<E: Entry> Table<E> {
    pub(crate) fn new(capacity: usize, expiry: Duration, new: impl Fn() -> E) -> Self {
        Self {
            entries: Mutex::new(Entries {
                by_key: HashMap::default(),
                swept: None,
            }),
            capacity,
            expiry,
            overflow: Arc::new(new()),
            keyless: Arc::new(new()),
        }
    }

    /// The entry of a key; requests without a key share one.
    pub(crate) fn get(&self, key: Option<u128>, new: impl FnOnce() -> E) -> Arc<E> {
        let Some(key) = key else {
            return Arc::clone(&self.keyless);
        };
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if let Some(seen) = entries.by_key.get_mut(&key) {
            seen.last = now;
            return Arc::clone(&seen.entry);
        }
        let is_full = entries.by_key.len() >= self.capacity;
        let pause = if is_full {
            PAUSE
        } else {
            self.expiry.max(PAUSE)
        };
        if entries.swept.is_none_or(|swept| now - swept >= pause) {
            entries.swept = Some(now);
            entries.sweep(now, self.expiry);
        }
        if entries.by_key.len() >= self.capacity {
            return Arc::clone(&self.overflow);
        }
        let entry = Arc::new(new());
        let seen = Seen {
            entry: Arc::clone(&entry),
            last: now,
        };
        entries.by_key.insert(key, seen);
        entry
    }

    /// Visits the entries, the shared ones included.
    pub(crate) fn each(&self, mut visit: impl FnMut(&E)) {
        visit(&self.overflow);
        visit(&self.keyless);
        let entries = self.entries.lock();
        entries.by_key.values().for_each(|seen| visit(&seen.entry));
    }

    /// Number of keys.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().by_key.len()
    }
}

impl<E: Entry> Entries<E> {
    fn sweep(&mut self, now: Instant, expiry: Duration) {
        self.by_key.retain(|_, seen| {
            let is_used = Arc::strong_count(&seen.entry) > 1;
            is_used || now - seen.last < expiry || !seen.entry.is_fresh()
        });
        if self.by_key.len() < self.by_key.capacity() / 4 {
            self.by_key.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always;

    impl Entry for Always {
        fn is_fresh(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn invented_keys_neither_grow_the_table_nor_remove_others() {
        const CAPACITY: usize = 1000;
        let expiry = Duration::from_secs(60);
        let table = Table::new(CAPACITY, expiry, || Always);
        let get = |key| table.get(Some(key), || Always);
        let in_use = get(1);
        for key in 2..=900 {
            get(key);
        }
        for key in 1_000..1_001_000 {
            get(key);
        }
        assert_eq!(table.len(), CAPACITY);
        // Known keys keep their own entries; a new one has that of all new ones.
        assert!(Arc::ptr_eq(&in_use, &get(1)));
        assert!(!Arc::ptr_eq(&get(900), &table.overflow));
        assert!(Arc::ptr_eq(&get(2_000_000), &table.overflow));
        tokio::time::advance(expiry).await;
        for key in 1..=900 {
            get(key);
        }
        assert!(!Arc::ptr_eq(&get(2_000_000), &table.overflow));
        assert!(Arc::ptr_eq(&in_use, &get(1)));
        assert_eq!(table.len(), 901);
    }
}
