//! The panic hook that logs: a process of its own, for it has one hook and one subscriber.
#![allow(missing_docs)]

mod logged;

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_core::mock::{self, MockBody};
use tower_stream_errors::{ErrorWriterLayer, PanicHook};

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

    // The panic of a response is in the event of that response.
    let steps = [mock::data("{}\n"), mock::panic("in a body")];
    let sent = send("application/x-ndjson", steps).await;
    assert!(sent.starts_with("{}\n{\"error\""), "{sent:?}");
    // A panic that the handler catches itself fails no response.
    let handler = service_fn(|_: Request<()>| async {
        assert!(std::panic::catch_unwind(|| panic!("caught by the handler")).is_err());
        Ok::<_, Infallible>(Response::new(MockBody::new([])))
    });
    let service = ErrorWriterLayer::new().layer(handler);
    assert_eq!(
        service.oneshot(Request::new(())).await.unwrap().status(),
        200
    );
    // A panic elsewhere.
    let thread = std::thread::Builder::new().name("elsewhere".to_owned());
    let joined = thread.spawn(|| std::panic::panic_any(7)).unwrap().join();
    assert!(joined.is_err());

    let events = lines.events();
    let read = |event: &Value| {
        assert_eq!(event["level"], "ERROR");
        let names = ["message", "outcome", "error", "location", "thread"];
        names.map(|name| {
            event["fields"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
    };
    let [failed, caught, elsewhere] = &events[..] else {
        panic!("{events:?}")
    };
    let [message, outcome, error, location, _] = read(failed);
    assert_eq!(
        [&*message, &outcome, &error],
        ["response failed", "panic", "in a body"]
    );
    assert!(location.contains("mock.rs:"), "{location}");
    let [message, outcome, error, location, _] = read(caught);
    assert_eq!(
        [&*message, &outcome, &error],
        ["panicked", "", "caught by the handler"]
    );
    assert!(location.contains("hook.rs:"), "{location}");
    let [message, outcome, error, _, thread] = read(elsewhere);
    assert_eq!(
        [&*message, &outcome, &thread],
        ["panicked", "", "elsewhere"]
    );
    assert!(error.contains("not a string"), "{error}");
    assert_eq!(RAN.load(Ordering::Relaxed), 0, "the hook before ours");
}
