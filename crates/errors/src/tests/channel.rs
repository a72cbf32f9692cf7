//! Bodies fed by a task.

use tower_stream_core::{Cause, FaultKind};

use super::*;
use crate::{Closed, ErrorWriterLayer, Sender, channel};

async fn fed<F: Future<Output = ()> + Send + 'static>(
    feed: impl FnOnce(Sender) -> F,
) -> (String, Option<FaultKind>) {
    let (sender, mut body) = channel::<Bytes>(1);
    tokio::spawn(feed(sender));
    let mut text = String::new();
    loop {
        match body.frame().await {
            None => return (text, None),
            Some(Err(error)) => {
                assert!(body.is_end_stream());
                assert!(body.frame().await.is_none());
                return (text, Some(Cause::of(&*error).kind()));
            }
            Some(Ok(frame)) => {
                text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn every_way_a_producer_can_leave() {
    let finished = fed(|mut sender| async move {
        sender.send("a").await.unwrap();
        sender.send("b").await.unwrap();
        sender.finish();
    });
    assert_eq!(finished.await, ("ab".to_owned(), None));
    let returned = fed(|mut sender| async move {
        sender.send("a").await.unwrap();
    });
    assert_eq!(
        returned.await,
        ("a".to_owned(), Some(FaultKind::Unfinished))
    );
    let panicked = fed(|mut sender| async move {
        sender.send("a").await.unwrap();
        panic!("in the producer");
    });
    assert_eq!(panicked.await, ("a".to_owned(), Some(FaultKind::Panic)));
    let failed = fed(|mut sender| async move {
        sender.send("a").await.unwrap();
        sender.fail(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
    });
    assert_eq!(failed.await, ("a".to_owned(), Some(FaultKind::Io)));
    let aborted = fed(|mut sender| async move {
        sender.send("a").await.unwrap();
        let task = tokio::spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        task.abort();
    });
    assert_eq!(aborted.await, ("a".to_owned(), Some(FaultKind::Unfinished)));
}

#[tokio::test]
async fn trailers_pass() {
    let (mut sender, body) = channel::<Bytes>(0);
    tokio::spawn(async move {
        sender.send("a").await?;
        let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())];
        sender.send_trailers(trailers.into_iter().collect()).await?;
        sender.finish();
        Ok::<_, Closed>(())
    });
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
}

#[tokio::test]
async fn the_producer_learns_that_the_client_left() {
    let (mut sender, body) = channel::<Bytes>(1);
    drop(body);
    sender.closed().await;
    assert!(sender.is_closed());
    assert!(sender.send("a").await.is_err());
    sender.finish();
}

#[tokio::test]
async fn a_producer_that_panics_is_no_silent_truncation() {
    let service = service_fn(|_: Request<()>| async {
        let (mut sender, body) = channel::<Bytes>(4);
        tokio::spawn(async move {
            sender.send("data: 1\n\ndata: ha").await.unwrap();
            panic!("in the producer");
        });
        let response = Response::builder().header("content-type", SSE);
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let response = ErrorWriterLayer::new().layer(service).oneshot(get()).await;
    let seen = read(response.unwrap()).await;
    let tail = format!("event: error\ndata: {}\n\n", told("panic", 500));
    assert_eq!(seen.text(), format!("data: 1\n\n{tail}"));
}
