//! On every path there is exactly one outcome, and no active stream afterwards.

use std::{
    future::{Future, pending},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Waker},
};

use futures_util::FutureExt;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tower_stream_core::{
    Cause, Exchange, FaultKind,
    mock::{PanicIn, data, error, hang, panic, pending as once_pending, trailer},
};

use super::*;
use crate::names;

const COMPLETE: &str = "http.route=_unmatched outcome=complete";

fn failed(outcome: &str, error_type: &str) -> String {
    format!("error.type={error_type} http.route=_unmatched outcome={outcome}")
}

#[tokio::test]
async fn a_body_that_ends_is_complete() {
    for steps in [
        vec![],
        vec![data("a")],
        vec![once_pending(), data("a"), once_pending(), data("b")],
        vec![data("a"), trailer("grpc-status", "0")],
        vec![trailer("grpc-status", "0")],
        vec![data("")],
    ] {
        let script = format!("{steps:?}");
        let recorded = Recorded::new();
        let mut body = body(&recorded.layer(), mock(steps)).await;
        play(&mut body).await.unwrap();
        drop(body);
        assert_eq!(recorded.the_end(), COMPLETE, "{script}");
    }
}

#[tokio::test]
async fn a_grpc_status_is_the_error_type() {
    for (code, name) in [("5", "NOT_FOUND"), ("13", "INTERNAL"), ("99", "UNKNOWN")] {
        let recorded = Recorded::new();
        let mut response = Response::new(mock([data("a"), trailer("grpc-status", code)]));
        let content_type = "application/grpc".parse().unwrap();
        response.headers_mut().insert("content-type", content_type);
        let mut body = answer(&recorded.layer(), Request::new(()), response).await;
        play(&mut body).await.unwrap();
        drop(body);
        let label = format!(" rpc.response.status_code={name}");
        assert_eq!(recorded.the_end(), failed("error", name) + &label);
    }
}

#[tokio::test]
async fn an_end_that_h1_never_polls_for_is_complete() {
    for script in [
        mock([data("a"), data("b")]).tells_end(),
        mock([data("a"), data("b"), hang()]).with_size_hint(http_body::SizeHint::with_exact(2)),
        mock([]).tells_end(),
    ] {
        let recorded = Recorded::new();
        let mut body = body(&recorded.layer(), script).await;
        for _ in 0..2 {
            if !body.is_end_stream() {
                body.frame().await.unwrap().unwrap();
            }
        }
        drop(body);
        assert_eq!(recorded.the_end(), COMPLETE);
    }
}

#[tokio::test]
async fn a_body_that_is_never_sent_is_complete_and_empty() {
    for (method, status) in [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NO_CONTENT),
        (Method::GET, StatusCode::NOT_MODIFIED),
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS),
        (Method::CONNECT, StatusCode::OK),
    ] {
        let recorded = Recorded::new();
        let mut request = Request::new(());
        *request.method_mut() = method;
        let mut response = Response::new(mock([hang()]));
        *response.status_mut() = status;
        drop(answer(&recorded.layer(), request, response).await);
        assert_eq!(recorded.the_end(), COMPLETE);
        assert_eq!(
            recorded.only(names::BODY_SIZE).1,
            Point { sum: 0.0, count: 1 }
        );
        assert!(recorded.series(names::TIME_TO_FIRST_CHUNK).is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_is_aborted() {
    let recorded = Recorded::new();
    drop(body(&recorded.layer(), mock([data("a")])).await);
    assert_eq!(
        recorded.the_end(),
        failed("aborted", "dropped"),
        "never polled"
    );

    let recorded = Recorded::new();
    let mut dropped = body(&recorded.layer(), mock([data("a"), hang()])).await;
    dropped.frame().await.unwrap().unwrap();
    drop(dropped);
    assert_eq!(
        recorded.the_end(),
        failed("aborted", "dropped"),
        "between chunks"
    );

    let recorded = Recorded::new();
    let mut dropped = body(&recorded.layer(), mock([hang()])).await;
    assert!(dropped.frame().now_or_never().is_none());
    drop(dropped);
    assert_eq!(
        recorded.the_end(),
        failed("aborted", "dropped"),
        "while pending"
    );
    assert_eq!(recorded.only(names::BODY_SIZE).1.sum, 0.0);
}

#[tokio::test]
async fn a_body_that_fails_is_an_error_of_its_kind() {
    for (step, error_type) in [
        (error("broken"), "_OTHER"),
        (
            error(io::Error::new(io::ErrorKind::TimedOut, "late")),
            "timeout",
        ),
        (
            error(Cause::new(FaultKind::DigestMismatch, "md5")),
            "digest_mismatch",
        ),
    ] {
        let recorded = Recorded::new();
        let mut body = body(&recorded.layer(), mock([data("a"), step])).await;
        play(&mut body).await.unwrap_err();
        drop(body);
        assert_eq!(recorded.the_end(), failed("error", error_type));
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_an_error() {
    let recorded = Recorded::new();
    let mut response = Response::new(mock([data("ab")]));
    response.headers_mut().insert("content-length", 3.into());
    let mut body = answer(&recorded.layer(), Request::new(()), response).await;
    let error = play(&mut body).await.unwrap_err();
    assert!(error.is::<tower_stream_core::Cause>(), "{error}");
    drop(body);
    assert_eq!(recorded.the_end(), failed("error", "short_body"));
}

#[tokio::test]
async fn a_drain_that_ends_a_stream_aborts_it() {
    let recorded = Recorded::new();
    let drain = error(Cause::new(FaultKind::Drain, "draining"));
    let mut body = body(&recorded.layer(), mock([data("a"), drain])).await;
    play(&mut body).await.unwrap_err();
    drop(body);
    assert_eq!(recorded.the_end(), failed("aborted", "drain"));
}

#[tokio::test]
async fn a_fault_that_another_layer_recorded_is_the_end() {
    let recorded = Recorded::new();
    let mut request = Request::new(());
    let fault = Exchange::of(request.extensions_mut());
    let response = Response::new(mock([data("a")]));
    let mut body = answer(&recorded.layer(), request, response).await;
    fault.record(Cause::new(FaultKind::Timeout, "idle"));
    // An error writer outside ended the stream cleanly.
    play(&mut body).await.unwrap();
    drop(body);
    assert_eq!(recorded.the_end(), failed("error", "timeout"));
}

#[tokio::test]
async fn a_panic_in_the_body_is_a_panic() {
    let recorded = Recorded::new();
    let mut panics = body(&recorded.layer(), mock([data("a"), panic("scripted")])).await;
    let unwound = AssertUnwindSafe(play(&mut panics)).catch_unwind().await;
    assert!(unwound.is_err());
    drop(panics);
    assert_eq!(recorded.the_end(), failed("panic", "panic"));

    // A panic while the body is dropped comes after the end of the stream. The outcome is still recorded.
    let recorded = Recorded::new();
    let script = mock([data("a")]).panics_in(PanicIn::Drop);
    let mut panics = body(&recorded.layer(), script).await;
    play(&mut panics).await.unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(panics))).is_err());
    assert_eq!(recorded.the_end(), COMPLETE);
}

#[tokio::test]
async fn a_panic_in_the_handler_is_a_panic() {
    // In the future.
    let recorded = Recorded::new();
    let service = service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        std::panic::panic_any("scripted");
        #[expect(unreachable_code, reason = "gives the future its type")]
        Ok::<_, Infallible>(Response::new(mock([])))
    });
    let call = recorded.layer().layer(service).oneshot(Request::new(()));
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert_eq!(recorded.the_end(), failed("panic", "panic"));
    assert!(
        recorded.series(names::BODY_SIZE).is_empty(),
        "there was no body"
    );

    // In `call`.
    let recorded = Recorded::new();
    let service = service_fn(|_: Request<()>| -> Answer { panic!("scripted") });
    let mut service = recorded.layer().layer(service);
    let unwound = catch_unwind(AssertUnwindSafe(|| service.call(Request::new(()))));
    assert!(unwound.is_err());
    assert_eq!(recorded.the_end(), failed("panic", "panic"));
}

#[tokio::test]
async fn a_handler_future_that_is_dropped_is_aborted() {
    for polled in [false, true] {
        let recorded = Recorded::new();
        let service =
            service_fn(|_: Request<()>| pending::<Result<Response<MockBody>, BoxError>>());
        let mut future = Box::pin(recorded.layer().layer(service).call(Request::new(())));
        let active = recorded.only(names::STREAM_ACTIVE);
        assert_eq!(active.1.sum, 1.0, "active from the call on");
        if polled {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        drop(future);
        assert_eq!(recorded.the_end(), failed("aborted", "dropped"));
        let (attributes, duration) = recorded.only(names::STREAM_DURATION);
        assert_eq!(duration.count, 1);
        assert!(!attributes.contains("status"), "{attributes}");
    }
}

#[tokio::test]
async fn a_service_that_fails_is_an_error_and_its_error_passes() {
    let recorded = Recorded::new();
    let service = service_fn(|_: Request<()>| async {
        let late = io::Error::new(io::ErrorKind::TimedOut, "late");
        Err::<Response<MockBody>, BoxError>(late.into())
    });
    let mut service = recorded.layer().layer(service);
    let error = call(&mut service, Request::new(())).await.unwrap_err();
    assert!(error.is::<io::Error>());
    assert_eq!(recorded.the_end(), failed("error", "timeout"));
    assert!(recorded.series(names::BODY_SIZE).is_empty());
}

#[tokio::test]
async fn a_body_polled_on_after_its_end_still_counts_once() {
    let recorded = Recorded::new();
    let mut body = body(&recorded.layer(), mock([data("a")])).await;
    play(&mut body).await.unwrap();
    assert!(body.frame().await.is_none());
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(recorded.the_end(), COMPLETE);
    assert_eq!(
        recorded.only(names::BODY_SIZE).1,
        Point { sum: 1.0, count: 1 }
    );
    assert_eq!(recorded.only(names::STREAM_DURATION).1.count, 1);
}

#[tokio::test]
async fn streams_at_once_are_counted_one_by_one() {
    let recorded = Recorded::new();
    let layer = recorded.layer();
    let active = || recorded.only(names::STREAM_ACTIVE).1.sum;
    let first = body(&layer, mock([data("a")])).await;
    let mut second = body(&layer.clone(), mock([data("a")])).await;
    assert_eq!(active(), 2.0);
    drop(first);
    assert_eq!(active(), 1.0);
    play(&mut second).await.unwrap();
    drop(second);
    assert_eq!(active(), 0.0);
    let ends = recorded.counts(names::STREAM_COUNT);
    assert_eq!(
        ends,
        [(failed("aborted", "dropped"), 1), (COMPLETE.to_owned(), 1)]
    );
}

#[tokio::test]
async fn a_request_that_passes_two_layers_is_measured_once() {
    let recorded = Recorded::new();
    let service = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(mock([data("a")])))
    });
    let twice = recorded.layer().layer(recorded.layer().layer(service));
    let response = twice.oneshot(Request::new(())).await.unwrap();
    assert_eq!(recorded.only(names::STREAM_ACTIVE).1.sum, 1.0);
    response.into_body().collect().await.unwrap();
    assert_eq!(recorded.the_end(), COMPLETE);
}

#[tokio::test]
async fn a_meter_that_is_shut_down_in_the_middle_breaks_nothing() {
    let recorded = Recorded::new();
    let mut body = body(&recorded.layer(), mock([data("a"), data("b")])).await;
    body.frame().await.unwrap().unwrap();
    recorded.provider.shutdown().unwrap();
    play(&mut body).await.unwrap();
}
