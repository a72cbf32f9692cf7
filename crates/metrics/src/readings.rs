//! What other layers count, read when metrics are collected.

use opentelemetry::{KeyValue, metrics::Meter};

use crate::names;

/// Puts what other layers count themselves under fixed names on the same meter.
///
/// No layer of `tower-stream` needs another one, so none of them knows a meter: each has a handle that tells its numbers,
/// and whoever puts the layers together says here where to read them. The closures run at each collection, on the
/// thread that collects, so they should only load an atomic or two. A counter must not go down.
///
/// | method | instruments |
/// |---|---|
/// | [`drain`](Self::drain) | [`DRAIN_STATE`](names::DRAIN_STATE), [`DRAIN_IN_FLIGHT`](names::DRAIN_IN_FLIGHT), [`DRAIN_REFUSED`](names::DRAIN_REFUSED) |
/// | [`request_ids_replaced`](Self::request_ids_replaced) | [`REQUEST_ID_REPLACED`](names::REQUEST_ID_REPLACED) |
/// | [`digests`](Self::digests) | [`DIGEST_COUNT`](names::DIGEST_COUNT) |
/// | [`digests_announced`](Self::digests_announced) | [`DIGEST_ANNOUNCED`](names::DIGEST_ANNOUNCED) |
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use tower_stream_metrics::{DrainReading, DrainState, Readings};
///
/// static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);
///
/// # let meter = opentelemetry::global::meter("docs");
/// Readings::new(&meter).drain(|| DrainReading {
///     state: DrainState::Active,
///     in_flight: IN_FLIGHT.load(Relaxed),
///     refused: 0,
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Readings<'a> {
    meter: &'a Meter,
}

/// Where a server stands on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrainState {
    /// It serves.
    Active,
    /// It serves, and tells clients and balancers to go elsewhere.
    Advertise,
    /// It takes no new requests and waits for those it has.
    Close,
    /// It is done.
    Dead,
}

impl DrainState {
    const ALL: [Self; 4] = [Self::Active, Self::Advertise, Self::Close, Self::Dead];

    /// `active`, `advertise`, `close` or `dead`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Advertise => "advertise",
            Self::Close => "close",
            Self::Dead => "dead",
        }
    }
}

/// What a drain knows of itself at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReading {
    /// Where the server stands.
    pub state: DrainState,
    /// Requests whose body has not ended.
    pub in_flight: u64,
    /// Requests refused so far.
    pub refused: u64,
}

impl<'a> Readings<'a> {
    /// Adds instruments to this meter.
    #[must_use]
    pub fn new(meter: &'a Meter) -> Self {
        Self { meter }
    }

    /// State, requests in flight and requests refused.
    ///
    /// The state is four series, one for each [`DrainState`], of which one is 1 and the others are 0.
    pub fn drain<F>(self, read: F) -> Self
    where
        F: Fn() -> DrainReading + Clone + Send + Sync + 'static,
    {
        let state = read.clone();
        self.meter
            .u64_observable_gauge(names::DRAIN_STATE)
            .with_description("1 for the state that the server is in, 0 for the others.")
            .with_callback(move |instrument| {
                let now = state().state;
                for state in DrainState::ALL {
                    let attribute = KeyValue::new(names::STATE, state.as_str());
                    instrument.observe(u64::from(state == now), &[attribute]);
                }
            })
            .build();
        let in_flight = read.clone();
        self.meter
            .i64_observable_up_down_counter(names::DRAIN_IN_FLIGHT)
            .with_unit("{request}")
            .with_description("Requests that a drain would wait for.")
            .with_callback(move |instrument| {
                instrument.observe(in_flight().in_flight.try_into().unwrap_or(i64::MAX), &[]);
            })
            .build();
        self.count(
            names::DRAIN_REFUSED,
            "{request}",
            "Requests refused because the server was draining.",
            move || read().refused,
        )
    }

    /// Inbound request ids that were replaced because they were not acceptable.
    pub fn request_ids_replaced(self, read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.count(
            names::REQUEST_ID_REPLACED,
            "{request}",
            "Inbound request ids that were not acceptable and were replaced.",
            read,
        )
    }

    /// How many digests came to each outcome; give every outcome, at 0 too, so that a first mismatch is a rise.
    pub fn digests<F, I>(self, read: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = (&'static str, u64)>,
    {
        self.count_each(
            names::DIGEST_COUNT,
            "Digests of bodies, by what came of them.",
            names::DIGEST_OUTCOME,
            read,
        )
    }

    /// How many digests of what was sent were announced where: `header`, `trailer`, `unannounced`.
    pub fn digests_announced<F, I>(self, read: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = (&'static str, u64)>,
    {
        self.count_each(
            names::DIGEST_ANNOUNCED,
            "Digests of what was sent, by where they were announced.",
            names::DIGEST_PLACEMENT,
            read,
        )
    }

    fn count_each<F, I>(
        self,
        name: &'static str,
        description: &'static str,
        attribute: &'static str,
        read: F,
    ) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = (&'static str, u64)>,
    {
        self.meter
            .u64_observable_counter(name)
            .with_unit("{digest}")
            .with_description(description)
            .with_callback(move |instrument| {
                for (value, count) in read() {
                    instrument.observe(count, &[KeyValue::new(attribute, value)]);
                }
            })
            .build();
        self
    }

    fn count(
        self,
        name: &'static str,
        unit: &'static str,
        description: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |instrument| instrument.observe(read(), &[]))
            .build();
        self
    }
}
