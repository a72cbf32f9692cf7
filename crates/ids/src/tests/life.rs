//! The scope of a request, from the call to the drop of its body.

use super::*;

/// Where code ran, and in the scope of which request.
type Places = Arc<Mutex<Vec<(&'static str, Option<String>)>>>;

/// A body that records the scope in which it runs.
struct Noting {
    places: Places,
    frames: usize,
}

impl Noting {
    fn note(&self, place: &'static str) {
        self.places.lock().push((place, current()));
    }
}

impl Body for Noting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.note("poll");
        self.frames += 1;
        Poll::Ready((self.frames < 3).then(|| Ok(Frame::data(Bytes::from("x")))))
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.note("drop");
    }
}

#[tokio::test]
async fn the_scope_is_entered_wherever_the_request_runs() {
    let places = Places::default();
    let note = |places: &Places, place| places.lock().push((place, current()));
    let inner = {
        let places = Arc::clone(&places);
        service_fn(move |_: Request<()>| {
            note(&places, "call");
            let places = Arc::clone(&places);
            async move {
                note(&places, "future");
                tokio::task::yield_now().await;
                note(&places, "future");
                let from_task = Arc::clone(&places);
                spawn(async move {
                    tokio::task::yield_now().await;
                    note(&from_task, "task");
                })
                .await
                .unwrap();
                let from_thread = Arc::clone(&places);
                tokio::task::spawn_blocking(in_request(move || note(&from_thread, "blocking")))
                    .await
                    .unwrap();
                Ok::<_, Infallible>(Response::new(Noting { places, frames: 0 }))
            }
        })
    };
    let response = RequestIdLayer::new()
        .layer(inner)
        .oneshot(request(&[b"one"]))
        .await
        .unwrap();
    assert_eq!(current(), None);
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(current(), None);
    drop(body);
    let one = || Some("one".to_owned());
    assert_eq!(
        *places.lock(),
        [
            "call", "future", "future", "task", "blocking", "poll", "drop"
        ]
        .map(|p| (p, one()))
    );
}

#[test]
fn a_request_that_is_given_up_is_dropped_in_its_scope() {
    struct OnDrop(Arc<Mutex<Option<String>>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            *self.0.lock() = current();
        }
    }
    let seen = Arc::new(Mutex::new(None));
    let guard = OnDrop(Arc::clone(&seen));
    let inner = service_fn(move |_: Request<()>| {
        let guard = OnDrop(Arc::clone(&guard.0));
        async move {
            let _guard = guard;
            pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    {
        let future = RequestIdLayer::new().layer(inner).call(request(&[b"one"]));
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(seen.lock().as_deref(), Some("one"));
}

#[tokio::test]
async fn the_body_is_forwarded_as_it_is() {
    let body = || {
        MockBody::new([mock::data("abc"), mock::trailer("x-end", "yes")])
            .with_size_hint(SizeHint::with_exact(3))
            .tells_end()
    };
    let inner =
        service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(Response::new(body())) });
    for layer in [RequestIdLayer::new(), RequestIdLayer::off()] {
        let response = layer.layer(inner).oneshot(request(&[])).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "abc"
        );
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(!body.is_end_stream());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.is_end_stream());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_interleaved_requests_share_no_sequence_and_skip_no_number() {
    let inner = service_fn(|request: Request<()>| async move {
        let sequence = Sequence::of(request.extensions()).unwrap();
        tokio::task::yield_now().await;
        let steps = (0..5).flat_map(|_| [mock::pending(), mock::data("x")]);
        let mut response = Response::new(MockBody::new(steps));
        response.extensions_mut().insert(sequence);
        Ok::<_, Infallible>(response)
    });
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(SequenceLayer::new())
        .service(inner);
    let tasks = (0..100).map(|_| {
        let service = service.clone();
        tokio::spawn(async move {
            join_all((0..100).map(|_| async {
                let response = service.clone().oneshot(request(&[])).await.unwrap();
                let id = response.headers()[NAME].to_str().unwrap().to_owned();
                let sequence = response.extensions().get::<Sequence>().unwrap().clone();
                let mut body = response.into_body();
                let mut numbers = Vec::new();
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                    numbers.push(sequence.last());
                    tokio::task::yield_now().await;
                }
                assert_eq!(numbers, [1, 2, 3, 4, 5]);
                id
            }))
            .await
        })
    });
    let mut ids = HashSet::new();
    for task in join_all(tasks).await {
        ids.extend(task.unwrap());
    }
    assert_eq!(ids.len(), 10_000);
}
