//! The panic hook that logs: a process of its own, for it has one hook and one subscriber.
#![allow(missing_docs)]

mod logged;

use std::sync::atomic::{AtomicUsize, Ordering};

use tower_stream_core::mock;
use tower_stream_errors::PanicHook;

use logged::{Lines, send};

#[tokio::test]
async fn each_panic_is_one_line_and_the_hook_before_is_silent() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        RAN.fetch_add(1, Ordering::Relaxed);
        standard(info);
    }));
    PanicHook::new().log(true).install();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();

    // of a response, which the error writer does not log again
    let steps = [mock::data("{}\n"), mock::panic("in a body")];
    let sent = send("application/x-ndjson", steps).await;
    assert!(sent.starts_with("{}\n{\"error\""), "{sent:?}");
    // and any other
    let thread = std::thread::Builder::new().name("elsewhere".to_owned());
    let joined = thread.spawn(|| std::panic::panic_any(7)).unwrap().join();
    assert!(joined.is_err());

    let events = lines.events();
    assert_eq!(events.len(), 2, "{events:?}");
    let expected = [
        ("in a body", "mock.rs:", "each_panic"),
        (
            "a panic whose payload is not a string",
            "hook.rs:",
            "elsewhere",
        ),
    ];
    for (event, (error, location, thread)) in events.iter().zip(expected) {
        let fields = &event["fields"];
        let holds = |name: &str, text: &str| fields[name].as_str().unwrap().contains(text);
        assert_eq!(
            (event["level"].as_str(), fields["message"].as_str()),
            (Some("ERROR"), Some("panicked"))
        );
        assert_eq!(fields["error"], error);
        assert!(
            holds("location", location) && holds("thread", thread),
            "{event}"
        );
    }
    assert_eq!(RAN.load(Ordering::Relaxed), 0, "the hook before ours");
}
