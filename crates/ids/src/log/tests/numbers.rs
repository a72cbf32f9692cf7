//! The number of a line.

use super::*;

#[test]
fn every_layer_prints_the_same_number_in_any_order_of_layers() {
    let (a, b) = (Lines::default(), Lines::default());
    let run = |subscriber: &dyn Fn() -> tracing::Dispatch| {
        for lines in [&a, &b] {
            lines.0.lock().clear();
        }
        tracing::dispatcher::with_default(&subscriber(), || {
            scope("r1").run(|| {
                for _ in 0..3 {
                    info!("line");
                }
            });
        });
        assert_eq!(a.ids(), ids("r1", &[1, 2, 3]));
        assert_eq!(b.ids(), ids("r1", &[1, 2, 3]));
    };
    run(&|| {
        let registry = Registry::default().with(RequestLog::new());
        registry.with(json_layer(&a)).with(json_layer(&b)).into()
    });
    run(&|| {
        let registry = Registry::default().with(json_layer(&a));
        registry.with(RequestLog::new()).with(json_layer(&b)).into()
    });
    run(&|| {
        let registry = Registry::default()
            .with(json_layer(&a))
            .with(json_layer(&b));
        registry.with(RequestLog::new()).into()
    });
    run(&|| {
        let info = || tracing_subscriber::filter::LevelFilter::INFO;
        let registry = Registry::default().with(json_layer(&a).with_filter(info()));
        let registry = registry.with(json_layer(&b).with_filter(info()));
        registry.with(RequestLog::new().with_filter(info())).into()
    });
}

#[test]
fn an_event_that_nobody_prints_draws_no_number() {
    struct Veto;
    impl<S: Subscriber> Layer<S> for Veto {
        fn event_enabled(&self, event: &tracing::Event<'_>, _: Context<'_, S>) -> bool {
            event.metadata().target() != "vetoed"
        }
    }
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(json_layer(&lines))
        .with(Veto)
        .with(RequestLog::new());
    with_default(subscriber, || {
        scope("r1").run(|| {
            info!("one");
            info!(target: "vetoed", "none");
            tracing::trace!("enabled, and printed");
            info!("two");
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1, 2, 3]));
}

/// Logs while it is printed.
struct Chatty;

impl Debug for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        info!("from inside");
        f.write_str("chatty")
    }
}

/// Only a process-wide subscriber sees an event inside of an event, so this runs in a process of its own.
#[test]
fn a_value_that_logs_while_it_is_printed_does_not_confuse_the_numbers() {
    const CHILD: &str = "TOWER_STREAM_IDS_NESTED";
    if std::env::var_os(CHILD).is_none() {
        let test = "log::tests::numbers::a_value_that_logs_while_it_is_printed_does_not_confuse_the_numbers";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{out}");
        return;
    }
    let (a, b) = (Lines::default(), Lines::default());
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&a))
        .with(json_layer(&b));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    scope("r1").run(|| {
        info!(value = ?Chatty, "outer");
        info!("last");
    });
    // Each layer prints the value, so each one causes an inner event.
    let numbers = |lines: &Lines, message: &str| {
        let lines = lines.json();
        let of = lines.iter().filter(|line| line["message"] == message);
        of.map(|line| line["sequence_id"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&a, "outer"), [1]);
    assert_eq!(numbers(&b, "outer"), [1]);
    assert_eq!(numbers(&a, "from inside"), numbers(&b, "from inside"));
    assert_eq!(numbers(&a, "last"), [4]);
    assert_eq!(numbers(&b, "last"), [4]);
}

#[test]
fn without_a_request_log_a_single_format_still_numbers() {
    let lines = Lines::default();
    with_default(Registry::default().with(json_layer(&lines)), || {
        scope("r1").run(|| {
            for _ in 0..3 {
                info!("line");
            }
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1, 2, 3]));
}

#[test]
fn records_of_the_log_crate_are_numbered_and_show_their_own_target() {
    use tracing_log::log::{Level, Record};
    let lines = logged(|| {
        scope("r1").run(|| {
            let record = Record::builder()
                .level(Level::Warn)
                .target("old::crate")
                .args(format_args!("from log"))
                .build();
            tracing_log::format_trace(&record).unwrap();
        });
    });
    let line = &lines.json()[0];
    assert_eq!(lines.ids(), ids("r1", &[1]));
    assert_eq!(
        (&line["target"], &line["level"]),
        (&"old::crate".into(), &"WARN".into())
    );
    assert_eq!(line["message"], "from log");
}
