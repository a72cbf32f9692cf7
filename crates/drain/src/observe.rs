//! OpenTelemetry instruments for the figures of a drain.

use opentelemetry::{KeyValue, metrics::Meter};

use crate::{Drain, Phase, State};

const STATES: [State; 4] = [
    State::Active,
    State::Draining(Phase::Advertise),
    State::Draining(Phase::Close),
    State::Dead,
];

impl Drain {
    /// Registers the drain's state and figures on `meter`. Call it once per drain.
    ///
    /// | instrument | kind | attributes |
    /// |---|---|---|
    /// | `http.server.drain.state` | gauge: 1 for the current state of the drain, 0 for the three others | `drain.state` |
    /// | `http.server.drain.in_flight` | up-down counter `{request}` | |
    /// | `http.server.drain.refused` | counter `{request}` | |
    ///
    /// They are observable instruments, which cost nothing between collections.
    ///
    /// ```
    /// use tower_stream_drain::Drain;
    ///
    /// let drain = Drain::builder().build();
    /// drain.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let drain = self.clone();
        meter
            .u64_observable_gauge("http.server.drain.state")
            .with_description("1 for the state that the server is in, 0 for the others.")
            .with_callback(move |instrument| {
                let now = drain.state();
                for state in STATES {
                    let attribute = KeyValue::new("drain.state", state.as_str());
                    instrument.observe(u64::from(state == now), &[attribute]);
                }
            })
            .build();
        let drain = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.drain.in_flight")
            .with_unit("{request}")
            .with_description("Requests that a drain would wait for.")
            .with_callback(move |instrument| {
                instrument.observe(drain.in_flight().try_into().unwrap_or(i64::MAX), &[]);
            })
            .build();
        let drain = self.clone();
        meter
            .u64_observable_counter("http.server.drain.refused")
            .with_unit("{request}")
            .with_description("Requests refused because the server was draining.")
            .with_callback(move |instrument| instrument.observe(drain.stats().refused, &[]))
            .build();
    }
}
