//! The panic hook that logs: a process of its own, for it has one hook and one subscriber.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_core::mock::{self, MockBody};
use tower_stream_errors::{ErrorWriterLayer, PanicHook};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();

    // of a response, which the error writer does not log again
    let response = Response::builder().header("content-type", "application/x-ndjson");
    let body = MockBody::new([mock::data("{}\n"), mock::panic("in a body")]);
    let mut response = Some(response.body(body).unwrap());
    let service = service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
    });
    let service = ErrorWriterLayer::new().layer(service);
    let response = service.oneshot(Request::new(())).await.unwrap();
    let sent = response.into_body().collect().await.unwrap().to_bytes();
    assert!(sent.starts_with(b"{}\n{\"error\""), "{sent:?}");
    // and any other
    let thread = std::thread::Builder::new().name("elsewhere".to_owned());
    let joined = thread.spawn(|| std::panic::panic_any(7)).unwrap().join();
    assert!(joined.is_err());

    let text = String::from_utf8(std::mem::take(&mut *lines.0.lock())).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
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
