use opentelemetry::metrics::Meter;

use crate::{Resume, Stats};

/// The name, the unit and the description of an instrument, and what it reads.
type Figure = (&'static str, &'static str, &'static str, fn(&Stats) -> u64);

impl Resume {
    /// Creates instruments for the streams of this log (feature `metrics`).
    ///
    /// | instrument | kind |
    /// |---|---|
    /// | `http.server.resume.producers` | up-down counter `{stream}`: producers that run in this process |
    /// | `http.server.resume.records` | up-down counter `{record}`: records of these that are in memory, beside the log |
    /// | `http.server.resume.created` | counter `{stream}` |
    /// | `http.server.resume.resumed` | counter `{response}`: responses that went on from a cursor, or joined a stream by a key |
    /// | `http.server.resume.gaps` | counter `{gap}`: gaps that a client was told |
    /// | `http.server.resume.orphans` | counter `{stream}`: streams of lost producers that this process ended |
    /// | `http.server.resume.restarted` | counter `{stream}`: streams of lost producers that this process continued |
    /// | `http.server.resume.broken` | counter `{stream}`: streams that cannot be resumed any more |
    /// | `http.server.resume.refused` | counter `{request}`: cursors and ids that were refused |
    /// | `http.server.resume.append.duration` | histogram `s`: how long the log takes to store an entry |
    ///
    /// All but the histogram are observable instruments, which cost nothing between collections. Their values are those of
    /// [`Resume::stats`]. The histogram belongs to the meter of the first call.
    ///
    /// ```
    /// use tower_stream_resume::{Memory, Resume};
    ///
    /// let resume = Resume::builder(Memory::new()).build();
    /// resume.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let levels: [Figure; 2] = [
            ("producers", "{stream}", "Producers that run.", |stats| {
                stats.producers
            }),
            ("records", "{record}", "Records in memory.", |stats| {
                stats.held
            }),
        ];
        for (name, unit, description, read) in levels {
            let resume = self.clone();
            meter
                .i64_observable_up_down_counter(format!("http.server.resume.{name}"))
                .with_unit(unit)
                .with_description(description)
                .with_callback(move |instrument| {
                    let value = i64::try_from(read(&resume.stats()));
                    instrument.observe(value.unwrap_or(i64::MAX), &[]);
                })
                .build();
        }
        let counters: [Figure; 7] = [
            ("created", "{stream}", "Streams created.", |stats| {
                stats.created
            }),
            (
                "resumed",
                "{response}",
                "Responses from a cursor on.",
                |stats| stats.resumed,
            ),
            ("gaps", "{gap}", "Gaps that clients were told.", |stats| {
                stats.gaps
            }),
            (
                "orphans",
                "{stream}",
                "Streams of lost producers.",
                |stats| stats.orphans,
            ),
            ("restarted", "{stream}", "Streams continued.", |stats| {
                stats.restarted
            }),
            ("broken", "{stream}", "Streams no longer stored.", |stats| {
                stats.broken
            }),
            (
                "refused",
                "{request}",
                "Cursors and ids refused.",
                |stats| stats.refused,
            ),
        ];
        for (name, unit, description, read) in counters {
            let resume = self.clone();
            meter
                .u64_observable_counter(format!("http.server.resume.{name}"))
                .with_unit(unit)
                .with_description(description)
                .with_callback(move |instrument| instrument.observe(read(&resume.stats()), &[]))
                .build();
        }
        self.shared.appends().get_or_init(|| {
            meter
                .f64_histogram("http.server.resume.append.duration")
                .with_unit("s")
                .with_description("How long the log takes to store an entry.")
                .with_boundaries(vec![
                    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
                    5.0,
                ])
                .build()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    };

    use crate::{
        Memory, NewStream, StreamId, StreamLog,
        head::Head,
        tests::support::{Client, SSE, app, request, resume, send, status_of, with_cursor},
    };

    /// The value of each counter, and the number of values of each histogram.
    fn read(provider: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> Vec<(String, u64)> {
        exporter.reset();
        provider.force_flush().unwrap();
        let finished = exporter.get_finished_metrics().unwrap();
        let scopes = finished.iter().flat_map(|metrics| metrics.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        let mut found: Vec<_> = metrics
            .map(|metric| {
                let value = match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        sum.data_points().map(|point| point.value()).sum()
                    }
                    AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                        sum.data_points().map(|point| point.value() as u64).sum()
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                        histogram.data_points().map(|point| point.count()).sum()
                    }
                    other => panic!("{other:?}"),
                };
                let name = metric.name().rsplit("resume.").next().unwrap();
                (name.to_owned(), value)
            })
            .collect();
        found.sort();
        found
    }

    #[tokio::test(start_paused = true)]
    async fn the_instruments_tell_what_happened_to_the_streams() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.clone())
            .build();
        let log = Memory::new();
        let resume = resume(log.clone());
        resume.observe(&provider.meter("test"));
        let (app, feed) = app(&resume, resume.layer(), SSE);
        let mut first = Client::open(&app, request("/")).await;
        feed.send("data: 1\n\n");
        first.until("data: 1").await;
        let mut second = Client::open(&app, with_cursor("/", &first.cursor())).await;
        feed.send("data: 2\n\n");
        second.until("data: 2").await;
        status_of(&app, with_cursor("/", "wrong")).await;
        // What a server leaves that was killed.
        let id = StreamId::random();
        let response = http::Response::builder().header("content-type", SSE);
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let head = Head::of(&parts, None).unwrap().encode();
        let new = NewStream::new(head, Duration::from_secs(1));
        log.create(&id, new).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let public = resume.shared.issuer.issue(&id, Some("alice"));
        drop(send(&app, with_cursor("/", &format!("{public}.1.0"))).await);

        let found = read(&provider, &exporter);
        let found: Vec<_> = found
            .iter()
            .map(|(name, value)| (&name[..], *value))
            .collect();
        assert_eq!(
            found,
            [
                ("append.duration", 2),
                ("broken", 0),
                ("created", 1),
                ("gaps", 0),
                ("orphans", 1),
                ("producers", 1),
                ("records", 2),
                ("refused", 1),
                ("restarted", 0),
                ("resumed", 2),
            ]
        );
    }
}
