//! Heartbeats and the layers outside of them: as separate services, and as stages of one.
#![cfg(feature = "full")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_stream::{
    core::{
        BoxError, Cause, FaultKind,
        mock::{self, MockBody, Step},
        wrapper::Fused,
    },
    drain::Drain,
    errors::{ErrorWriterLayer, IdleTimeoutLayer},
    prelude::*,
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A service that responds with an event stream that plays these steps.
fn stream(
    steps: fn() -> Vec<Step>,
) -> impl Service<Request<()>, Response = Response<MockBody>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |_: Request<()>| async move {
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(MockBody::new(steps())).unwrap())
    })
}

/// The frames of the first minute, and the error at their end, with its second.
async fn read<S, B>(service: S) -> (Vec<String>, Option<(u64, FaultKind)>)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = BoxError>,
{
    let start = Instant::now();
    let response = service.oneshot(Request::new(())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    let (mut frames, mut error) = (Vec::new(), None);
    let reads = async {
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let data = frame.into_data().unwrap_or_default();
                    frames.push(String::from_utf8(data.to_vec()).unwrap());
                }
                Err(failed) => {
                    error = Some((start.elapsed().as_secs(), Cause::of(&*failed).kind()));
                }
            }
        }
    };
    let _ = tokio::time::timeout(seconds(60), reads).await;
    (frames, error)
}

/// Both ways to combine `outer` and `inner`.
macro_rules! both {
    ($outer:expr, $inner:expr, $steps:expr) => {
        [
            read(
                ServiceBuilder::new()
                    .layer($outer)
                    .layer($inner)
                    .service(stream($steps)),
            )
            .await,
            read(Layer::layer(
                &Fused::new().layer($outer).layer($inner),
                stream($steps),
            ))
            .await,
        ]
    };
}

fn heartbeats() -> HeartbeatLayer {
    HeartbeatLayer::new().interval(seconds(8))
}

fn one_event() -> Vec<Step> {
    vec![mock::data("data: 1\n\n"), mock::hang()]
}

fn two_events() -> Vec<Step> {
    let wait = mock::sleep(seconds(9));
    vec![mock::data("data: 1\n\n"), wait, mock::data("data: 2\n\n")]
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_is_dead_behind_live_heartbeats_times_out() {
    let idle = || IdleTimeoutLayer::new(seconds(30));
    for (frames, error) in both!(idle(), heartbeats(), one_event) {
        assert_eq!(error, Some((30, FaultKind::Timeout)), "outside");
        assert_eq!(frames.len(), 4, "{frames:?}");
    }
    for (frames, error) in both!(heartbeats(), idle(), one_event) {
        assert_eq!(error, Some((30, FaultKind::Timeout)), "inside");
        assert_eq!(frames.len(), 4, "{frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_an_event_gets_no_number() {
    let pings = || heartbeats().events(Heartbeat::ping());
    for (frames, _) in both!(SequenceLayer::new(), pings(), two_events) {
        let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
        assert_eq!(frames, ["data: 1\nid: 1\n\n", ping, "data: 2\nid: 2\n\n"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_comment_alone_is_not_held_back_as_the_beginning_of_an_event() {
    let alone = || heartbeats().events(Heartbeat::comment_alone());
    let drain = Drain::builder().build();
    let expected = ["data: 1\n\n", ": heartbeat\n", "data: 2\n\n"];
    for (frames, _) in both!(ErrorWriterLayer::new(), alone(), two_events) {
        assert_eq!(frames, expected, "the error writer");
    }
    for (frames, _) in both!(drain.farewell(), alone(), two_events) {
        assert_eq!(frames, expected, "the farewell");
    }
}
