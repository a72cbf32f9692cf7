//! What the operator is told. A process of its own: it has a panic hook and a subscriber.
#![allow(missing_docs)]

mod logged;

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_core::{
    Cause, Exchange, FaultKind,
    mock::{self, MockBody, Step},
};
use tower_stream_errors::{ErrorWriterLayer, PanicHook};

use logged::{Lines, send};

const LINES: &str = "application/x-ndjson";

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_event_a_failure_with_its_place_and_the_users_hook_runs() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        RAN.fetch_add(1, Ordering::Relaxed);
        standard(info);
    }));
    PanicHook::new().backtrace(true).install();
    PanicHook::new().install();

    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();

    let ran = RAN.load(Ordering::Relaxed);
    let steps = [mock::data("{}\n"), mock::panic("the secret")];
    let text = send(LINES, steps).await;
    assert!(text.contains("error") && !text.contains("secret"));
    let events = lines.events();
    assert_eq!(events.len(), 1, "{events:?}");
    let fields = &events[0]["fields"];
    assert_eq!(events[0]["level"], "ERROR");
    assert_eq!(fields["outcome"], "panic");
    assert_eq!(fields["kind"], "panic");
    assert_eq!(fields["error"], "the secret");
    let location = fields["location"].as_str().unwrap();
    assert!(location.contains("mock.rs:"), "{location}");
    assert!(fields.get("backtrace").is_none());
    assert!(RAN.load(Ordering::Relaxed) > ran, "the hook before ours");

    PanicHook::new().backtrace(true).install();
    send(LINES, [mock::panic("x")]).await;
    let events = lines.events();
    let backtrace = events[0]["fields"]["backtrace"].as_str().unwrap();
    assert!(backtrace.contains("log::one_event"), "{backtrace}");
    assert!(!backtrace.contains(" tokio::"), "{backtrace}");
    assert!(backtrace.contains("frames are left out"), "{backtrace}");
    PanicHook::new().install();

    send("text/csv", [mock::data("a"), mock::error("disk gone")]).await;
    let events = lines.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["fields"]["error"], "disk gone");
    assert_eq!(events[0]["fields"]["kind"], "_OTHER");

    send("text/event-stream", [mock::data("data: 1\n\n")]).await;
    assert!(lines.events().is_empty());
}

/// Level, kind if it tells an outcome, and message of each line since the last call.
fn told(lines: &Lines) -> Vec<String> {
    let told = lines.events().into_iter().map(|event| {
        let fields = &event["fields"];
        let words = [&event["level"], &fields["outcome"], &fields["kind"]].map(Value::as_str);
        let words: Vec<_> = words.into_iter().flatten().collect();
        format!("{}: {}", words.join(" "), fields["error"].as_str().unwrap())
    });
    told.collect()
}

fn request() -> (Request<()>, Exchange) {
    let mut request = Request::new(());
    let fault = Exchange::of(request.extensions_mut());
    (request, fault)
}

#[tokio::test(start_paused = true)]
async fn one_line_whoever_ended_it() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone());
    let _default = tracing::subscriber::set_default(subscriber.finish());
    let handler = |steps: &'static [fn() -> Step]| {
        service_fn(move |_: Request<()>| async move {
            let body = MockBody::new(steps.iter().map(|step| step()));
            Ok::<_, Infallible>(Response::new(body))
        })
    };
    let writer = ErrorWriterLayer::new();

    // Of two error writers, the inner one aborts the body. The failure is logged once.
    let (asked, _) = request();
    let service =
        writer.layer(writer.layer(handler(&[|| mock::data("a"), || mock::error("gone")])));
    let body = service.oneshot(asked).await.unwrap().into_body();
    assert!(body.collect().await.is_err());
    assert_eq!(told(&lines), ["ERROR error _OTHER: gone"]);

    // A layer inside ended the body cleanly and recorded the cause.
    let (asked, fault) = request();
    let body = writer.layer(handler(&[|| mock::data("a")]));
    let mut body = body.oneshot(asked).await.unwrap().into_body();
    fault.record(Cause::new(FaultKind::Drain, "going"));
    // The line is written with the last frame, in the span of the request, and not when the body is dropped.
    while let Some(frame) = body.frame().await {
        assert!(frame.is_ok());
    }
    assert_eq!(told(&lines), ["INFO aborted drain: going"]);
    drop(body);

    // A layer outside recorded a cause and dropped the response.
    let (asked, fault) = request();
    let response = writer.layer(handler(&[mock::hang])).oneshot(asked).await;
    fault.record(Cause::new(FaultKind::Timeout, "too late"));
    assert_eq!(told(&lines), [""; 0]);
    drop(response);
    assert_eq!(told(&lines), ["ERROR error timeout: too late"]);

    // A cause was recorded, and the future was dropped before there was a head.
    let (asked, fault) = request();
    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<MockBody>, Infallible>>()
    });
    let mut waiting = Box::pin(writer.layer(never).oneshot(asked));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    fault.record(Cause::new(FaultKind::Timeout, "too late"));
    drop(waiting);
    assert_eq!(told(&lines), ["ERROR error timeout: too late"]);

    // The first cause is the outcome. A later failure is logged too.
    let (asked, fault) = request();
    let body = writer.layer(handler(&[|| mock::data("a"), || mock::panic("sick")]));
    let body = body.oneshot(asked).await.unwrap().into_body();
    fault.record(Cause::new(FaultKind::Drain, "going"));
    assert!(body.collect().await.is_err());
    assert_eq!(told(&lines), ["INFO aborted drain: going", "ERROR: sick"]);

    // The client disconnected and no cause was recorded, so nothing is logged.
    let (asked, _) = request();
    drop(writer.layer(handler(&[mock::hang])).oneshot(asked).await);
    assert_eq!(told(&lines), [""; 0]);
}

/// A task's panic, handed on by the handler that joined it, has its place in another thread.
#[tokio::test]
async fn a_panic_that_is_resumed_has_no_place_of_another() {
    PanicHook::new().install();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone());
    let _default = tracing::subscriber::set_default(subscriber.finish());
    assert!(std::panic::catch_unwind(|| panic!("of another request")).is_err());

    let service = ErrorWriterLayer::new().layer(service_fn(|_: Request<()>| async {
        let task = std::thread::spawn(|| assert_eq!(1, 2, "of the task"));
        if let Err(payload) = task.join() {
            std::panic::resume_unwind(payload);
        }
        Ok::<_, Infallible>(Response::new(MockBody::new([])))
    }));
    assert_eq!(service.oneshot(request().0).await.unwrap().status(), 500);
    let events = lines.events();
    let error = events[0]["fields"]["error"].as_str().unwrap();
    assert!(error.contains("of the task"), "{error}");
    assert_eq!(events[0]["fields"].get("location"), None, "{events:?}");
}
