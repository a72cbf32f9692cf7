//! The state of a limit, shared by all clones of its layer.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, request::Parts};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    adaptive::{Adaptive, Gradient},
    key::KeyBy,
    permit::Permit,
    rate::{Meter, MonotonicClock, Rate, Remaining},
    refusal::Reason,
    slots::Slots,
    table::{Entry, Table},
};

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) streams: Option<usize>,
    pub(crate) adaptive: Option<Adaptive>,
    pub(crate) per_key: Option<usize>,
    pub(crate) rate: Option<Rate>,
    pub(crate) key: KeyBy,
    pub(crate) keys: usize,
    pub(crate) expiry: Duration,
    pub(crate) queue: Option<Queue>,
    pub(crate) until_head: bool,
    pub(crate) retry_after: Duration,
    pub(crate) exempt: Option<Arc<Exempt>>,
}

pub(crate) type Exempt = dyn Fn(&Parts) -> bool + Send + Sync;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) length: usize,
    pub(crate) time: Duration,
}

impl Config {
    fn is_keyed(&self) -> bool {
        self.per_key.is_some() || self.rate.is_some()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("streams", &self.streams)
            .field("adaptive", &self.adaptive)
            .field("per_key", &self.per_key)
            .field("rate", &self.rate)
            .field("key", &self.key)
            .field("queue", &self.queue)
            .field("until_head", &self.until_head)
            .finish_non_exhaustive()
    }
}

/// What is counted for one key.
pub(crate) struct KeyEntry {
    pub(crate) slots: Slots,
    meter: Option<Meter>,
}

impl Entry for KeyEntry {
    fn is_fresh(&self) -> bool {
        // The table keeps an entry until its burst is replenished, see `Limit::new`.
        self.slots.taken() == 0
    }
}

pub(crate) struct Limit {
    pub(crate) config: Config,
    pub(crate) slots: Slots,
    pub(crate) gradient: Option<Gradient>,
    keys: Option<Table<KeyEntry>>,
    clock: MonotonicClock,
    /// `RateLimit-Policy`, if there is a rate.
    pub(crate) policy: Option<HeaderValue>,
    refused: [AtomicU64; Reason::COUNT],
}

/// The figures of a limit, by [`StreamLimitLayer::stats`](crate::StreamLimitLayer::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStats {
    /// Streams that have a permit.
    pub in_use: usize,
    /// The most streams at once. `usize::MAX >> 3` without a limit for all.
    pub limit: usize,
    /// Streams whose first chunk is awaited. 0 without an adaptive limit.
    pub awaited: usize,
    /// The most of them at once, by the [adaptive limit](crate::Adaptive). 0 without one.
    pub adaptive_limit: usize,
    /// Requests that wait for a permit of the limits for all. Those that wait for a permit of their key are not included.
    pub waiting: usize,
    /// Keys in the table.
    pub keys: usize,
    /// Requests refused because of the limits for all, since the start.
    pub refused_streams: u64,
    /// Requests refused because of the limit of their key, since the start.
    pub refused_key: u64,
    /// Requests refused because of the rate of their key, since the start.
    pub refused_rate: u64,
}

/// The decision on a request.
pub(crate) enum Decision {
    Admitted(Arc<Permit>),
    /// Resolves when the permit has its slots.
    Waiting(Arc<Permit>, WaitFuture),
    Refused(Reason),
}

pub(crate) type WaitFuture =
    std::pin::Pin<Box<dyn Future<Output = Result<(), Reason>> + Send + 'static>>;

impl Limit {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let clock = MonotonicClock::new();
        let replenished = config.rate.map(|rate| rate.replenished_in());
        let expiry = config.expiry.max(replenished.unwrap_or_default());
        let keys = config
            .is_keyed()
            .then(|| Table::new(config.keys, expiry, || entry(&config, clock)));
        Arc::new(Self {
            slots: Slots::new(config.streams.unwrap_or(Semaphore::MAX_PERMITS)),
            gradient: config.adaptive.map(Gradient::new),
            keys,
            clock,
            policy: config.rate.and_then(|rate| rate.policy()),
            refused: Default::default(),
            config,
        })
    }

    pub(crate) fn entry(&self, key: Option<u128>) -> Option<Arc<KeyEntry>> {
        let keys = self.keys.as_ref()?;
        Some(keys.get(key, || entry(&self.config, self.clock)))
    }

    pub(crate) fn is_keyed(&self) -> bool {
        self.keys.is_some()
    }

    /// Counts the request of a key against its rate, or returns the time until the next one is admitted. `None` without a
    /// rate.
    pub(crate) fn check_rate(
        &self,
        entry: Option<&KeyEntry>,
    ) -> Option<(Remaining, Option<Duration>)> {
        let meter = entry?.meter.as_ref()?;
        Some(self.config.rate?.check(meter, &self.clock))
    }

    /// Admits a request, lets it wait or refuses it.
    #[inline]
    pub(crate) fn admit(self: &Arc<Self>, entry: Option<Arc<KeyEntry>>) -> Decision {
        let permit = Permit::new(Arc::clone(self), entry);
        if !permit.try_take_key() {
            return self.wait(permit, Reason::Key);
        }
        if !permit.try_take_stream() {
            return self.wait(permit, Reason::Streams);
        }
        Decision::Admitted(Arc::new(permit))
    }

    #[cold]
    fn wait(self: &Arc<Self>, permit: Permit, missing: Reason) -> Decision {
        let Some(queue) = self.config.queue else {
            return Decision::Refused(missing);
        };
        let permit = Arc::new(permit);
        let Some(place) = Place::join(&permit, missing, queue.length) else {
            return Decision::Refused(missing);
        };
        let deadline = Instant::now() + queue.time;
        let waits = Arc::clone(&permit);
        let future = async move {
            let mut place = place;
            if missing == Reason::Key {
                let taken = timeout_at(deadline, waits.take_key()).await;
                taken.map_err(|_| Reason::Key)?;
                drop(place);
                if waits.try_take_stream() {
                    return Ok(());
                }
                let joined = Place::join(&waits, Reason::Streams, queue.length);
                place = joined.ok_or(Reason::Streams)?;
            }
            let taken = timeout_at(deadline, waits.take_stream()).await;
            drop(place);
            taken.map_err(|_| Reason::Streams)
        };
        Decision::Waiting(permit, Box::pin(future))
    }

    pub(crate) fn count_refusal(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> LimitStats {
        let refused = |reason: Reason| self.refused[reason as usize].load(Ordering::Relaxed);
        let awaited = self.gradient.as_ref().map(|gradient| &gradient.awaited);
        LimitStats {
            awaited: awaited.map_or(0, Slots::taken),
            adaptive_limit: awaited.map_or(0, Slots::limit),
            in_use: self.slots.taken(),
            limit: self.slots.limit(),
            waiting: self.slots.waiting(),
            keys: self.keys.as_ref().map_or(0, Table::len),
            refused_streams: refused(Reason::Streams),
            refused_key: refused(Reason::Key),
            refused_rate: refused(Reason::Rate),
        }
    }
}

fn entry(config: &Config, clock: MonotonicClock) -> KeyEntry {
    KeyEntry {
        slots: Slots::new(config.per_key.unwrap_or(Semaphore::MAX_PERMITS)),
        meter: config.rate.map(|rate| rate.meter(clock)),
    }
}

/// A place in a queue.
struct Place {
    permit: Arc<Permit>,
    queue: Reason,
}

impl Place {
    /// At most as many requests of a key wait for its permits as it may have streams, so one client cannot fill the memory.
    fn join(permit: &Arc<Permit>, queue: Reason, longest: usize) -> Option<Self> {
        let slots = permit.slots(queue)?;
        let longest = match queue {
            Reason::Key => longest.min(slots.limit()),
            _ => longest,
        };
        slots.join_queue(longest).then(|| Self {
            permit: Arc::clone(permit),
            queue,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slots) = self.permit.slots(self.queue) {
            slots.leave_queue();
        }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish()
    }
}
