//! The request that a line belongs to.

use super::*;

#[test]
fn ids_survive_a_filtered_out_span() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(EnvFilter::new("info,off=off"))
        .with(RequestLog::new())
        .with(json_layer(&lines));
    with_default(subscriber, || {
        scope("r1").run(|| {
            let _in = info_span!(target: "off", "request").entered();
            info!("line");
        });
    });
    assert_eq!(lines.ids(), ids("r1", &[1]));
    assert!(!lines.json()[0].contains_key("spans"));
}

#[test]
fn a_span_takes_the_ids_to_a_thread_and_its_children_inherit_them() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let dispatch = tracing::Dispatch::new(subscriber);
    let span =
        tracing::dispatcher::with_default(&dispatch, || scope("r1").run(|| info_span!("request")));
    std::thread::spawn(move || {
        tracing::dispatcher::with_default(&dispatch, || {
            info!("no request");
            let _child = info_span!(parent: &span, "child").entered();
            info!("from the child");
            info!(parent: &span, "from the span");
            // The scope on this thread takes precedence over the span.
            scope("r2").run(|| info!("of another"));
        });
    })
    .join()
    .unwrap();
    let mut expected = vec![(Value::Null, Value::Null)];
    expected.extend(ids("r1", &[1, 2]));
    expected.extend(ids("r2", &[1]));
    assert_eq!(lines.ids(), expected);
}

#[tokio::test]
async fn a_replaced_id_is_logged_once_under_the_new_one_and_not_repeated() {
    use tower::ServiceExt;
    let inner = tower::service_fn(|_: http::Request<()>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let service = tower::Layer::layer(&crate::RequestIdLayer::new(), inner);
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(EnvFilter::new("tower_stream_ids=debug"))
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let _default = tracing::subscriber::set_default(subscriber);
    let request = |id: &'static str| {
        let request = http::Request::get("/").header("x-request-id", id);
        request.header("x-request-id", "").body(()).unwrap()
    };
    service.clone().oneshot(request("good")).await.unwrap();
    let response = service.oneshot(request("bad one")).await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap();
    assert_eq!(lines.ids(), ids(id, &[1]));
    let line = &lines.json()[0];
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["reason"], "a request id must not have the byte 0x20");
    assert!(!lines.text()[0].contains("bad one"));
}

#[test]
fn a_bare_thread_keeps_the_request() {
    let lines = Lines::default();
    let subscriber = Registry::default()
        .with(RequestLog::new())
        .with(json_layer(&lines));
    let dispatch = tracing::Dispatch::new(subscriber);
    let work = scope("r1").run(|| in_request(|| info!("from a thread")));
    std::thread::spawn(move || tracing::dispatcher::with_default(&dispatch, work))
        .join()
        .unwrap();
    assert_eq!(lines.ids(), ids("r1", &[1]));
}
