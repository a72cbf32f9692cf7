//! Attributes and series, created once per route instead of per stream or frame.

use std::{collections::HashMap, sync::Arc, time::Duration};

use opentelemetry::{KeyValue, StringValue, metrics::Histogram};
use parking_lot::RwLock;
use tower_stream_core::Outcome;

#[cfg(feature = "bound-instruments")]
use {opentelemetry::metrics::BoundHistogram, std::sync::OnceLock};

use crate::{instruments::Instruments, names};

/// Number of values of `chunk.index_bucket`: 1, 2, 4, .. 2048.
const BUCKETS: usize = 12;

/// Further routes count as unmatched. A program has a few hundred routes, but a function that returns paths has as many
/// as clients request, and the SDK keeps 2000 attribute sets per instrument.
const MAX_ROUTES: usize = 1000;

/// Further routes have a single series of `chunk.gap`, without `chunk.index_bucket`, so that all routes fit into the
/// SDK's 2000 attribute sets: (80 + 1 unmatched) * 12 + 920 = 1892. The SDK folds attribute sets beyond 2000 into one
/// series without a route.
const MAX_INDEXED_ROUTES: usize = 80;

/// Which values are measured for each frame, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerFrame {
    pub(crate) gap: bool,
    pub(crate) producer_wait: bool,
    pub(crate) consumer_hold: bool,
    #[cfg(feature = "bound-instruments")]
    pub(crate) bound: bool,
}

impl Default for PerFrame {
    fn default() -> Self {
        Self {
            gap: true,
            producer_wait: false,
            consumer_hold: false,
            #[cfg(feature = "bound-instruments")]
            bound: false,
        }
    }
}

/// A histogram with its attributes.
#[derive(Debug)]
pub(crate) struct Series {
    histogram: Histogram<f64>,
    attributes: Box<[KeyValue]>,
    // Bound at the first value, because a series that is bound but never recorded is exported with a count of 0.
    #[cfg(feature = "bound-instruments")]
    bound: Option<OnceLock<BoundHistogram<f64>>>,
}

impl Series {
    fn new(
        histogram: &Histogram<f64>,
        attributes: impl Into<Box<[KeyValue]>>,
        #[cfg_attr(not(feature = "bound-instruments"), expect(unused_variables))] per: PerFrame,
    ) -> Self {
        Self {
            histogram: histogram.clone(),
            attributes: attributes.into(),
            #[cfg(feature = "bound-instruments")]
            bound: per.bound.then(OnceLock::new),
        }
    }

    #[inline]
    pub(crate) fn record(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        #[cfg(feature = "bound-instruments")]
        if let Some(bound) = &self.bound {
            bound
                .get_or_init(|| self.histogram.bind(&self.attributes))
                .record(seconds);
            return;
        }
        self.histogram.record(seconds, &self.attributes);
    }
}

/// The series of one route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) instruments: Instruments,
    pub(crate) route: KeyValue,
    /// The attributes of a complete stream, the most frequent case.
    pub(crate) complete: [KeyValue; 2],
    /// One series per bucket, or a single one.
    gap: Option<Box<[Series]>>,
    pub(crate) producer_wait: Option<Series>,
    pub(crate) consumer_hold: Option<Series>,
}

impl Route {
    fn new(name: StringValue, instruments: &Instruments, per: PerFrame, indexed: bool) -> Self {
        let route = KeyValue::new(names::ROUTE, name);
        let series = |histogram, on: bool| on.then(|| Series::new(histogram, [route.clone()], per));
        let gap = |bucket: usize| {
            let bucket = KeyValue::new(names::INDEX_BUCKET, 1_i64 << bucket);
            Series::new(&instruments.chunk_gap, [route.clone(), bucket], per)
        };
        let gaps = || match indexed {
            true => (0..BUCKETS).map(gap).collect(),
            false => [Series::new(&instruments.chunk_gap, [route.clone()], per)].into(),
        };
        Self {
            gap: per.gap.then(gaps),
            producer_wait: series(&instruments.producer_wait, per.producer_wait),
            consumer_hold: series(&instruments.consumer_hold, per.consumer_hold),
            instruments: instruments.clone(),
            complete: [
                route.clone(),
                KeyValue::new(names::OUTCOME, Outcome::Complete.as_str()),
            ],
            route,
        }
    }

    /// Returns the series for the gap before chunk `index`, which is at least 1.
    #[inline]
    pub(crate) fn gap(&self, index: u64) -> Option<&Series> {
        let gap = self.gap.as_ref()?;
        gap.get(bucket(index)).or(gap.first())
    }

    pub(crate) fn times_chunks(&self) -> bool {
        self.gap.is_some() || self.times_polls()
    }

    pub(crate) fn times_polls(&self) -> bool {
        self.producer_wait.is_some() || self.consumer_hold.is_some()
    }
}

/// Maps 1, 2, 3.. to 0, 1, 1..: the binary logarithm, rounded down.
#[inline]
fn bucket(index: u64) -> usize {
    (index.max(1).ilog2() as usize).min(BUCKETS - 1)
}

/// The routes seen so far.
#[derive(Debug)]
pub(crate) struct Routes {
    instruments: Instruments,
    per: PerFrame,
    unmatched: Arc<Route>,
    known: RwLock<HashMap<Box<str>, Arc<Route>>>,
}

impl Routes {
    pub(crate) fn new(instruments: Instruments, per: PerFrame) -> Self {
        Self {
            unmatched: Arc::new(Route::new(names::UNMATCHED.into(), &instruments, per, true)),
            instruments,
            per,
            known: RwLock::default(),
        }
    }

    pub(crate) fn per_frame(&self) -> PerFrame {
        self.per
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    pub(crate) fn get(&self, name: Option<&str>) -> Arc<Route> {
        let Some(name) = name else {
            return Arc::clone(&self.unmatched);
        };
        if let Some(route) = self.known.read().get(name) {
            return Arc::clone(route);
        }
        let mut known = self.known.write();
        if known.len() >= MAX_ROUTES && !known.contains_key(name) {
            return Arc::clone(&self.unmatched);
        }
        let indexed = known.len() < MAX_INDEXED_ROUTES;
        let route = known.entry(name.into()).or_insert_with(|| {
            let name = StringValue::from(Arc::<str>::from(name));
            Arc::new(Route::new(name, &self.instruments, self.per, indexed))
        });
        Arc::clone(route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::{MeterProvider, noop::NoopMeterProvider};

    #[test]
    fn indexes_fall_into_twelve_powers_of_two() {
        let of = |index: u64| 1_u64 << bucket(index);
        for (index, expected) in [
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 4),
            (7, 4),
            (8, 8),
            (2047, 1024),
            (2048, 2048),
            (4096, 2048),
            (u64::MAX, 2048),
        ] {
            assert_eq!(of(index), expected, "{index}");
        }
        let values: std::collections::BTreeSet<u64> = (1..100_000).map(of).collect();
        assert_eq!(values.len(), BUCKETS);
    }

    #[test]
    fn routes_are_bounded_whatever_names_them() {
        let meter = NoopMeterProvider::new().meter("test");
        let routes = Routes::new(Instruments::new(&meter), PerFrame::default());
        for n in 0..MAX_ROUTES {
            assert_eq!(
                routes.get(Some(&n.to_string())).route.value.as_str(),
                n.to_string()
            );
        }
        assert_eq!(
            routes.get(Some("one more")).route.value.as_str(),
            names::UNMATCHED
        );
        assert_eq!(routes.get(Some("7")).route.value.as_str(), "7");
        assert_eq!(routes.get(None).route.value.as_str(), names::UNMATCHED);
    }
}
