//! The id on outgoing calls.

use tower_stream_core::Exchange;

use super::*;

/// Sends a request through the client layer. Returns the values of its id header.
async fn forwarded(layer: ForwardRequestIdLayer, request: Request<()>) -> Vec<String> {
    let client = layer.layer(service_fn(|request: Request<()>| async move {
        Ok::<_, Infallible>(Seen::of(&request).headers)
    }));
    client.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn an_outgoing_call_has_the_id_of_the_request_that_makes_it() {
    let scope = RequestScope::new("one".parse().unwrap(), Sequence::new());
    let within =
        |layer, request| tower_stream_core::Scoped::new(forwarded(layer, request), scope.clone());
    let layer = ForwardRequestIdLayer::new;
    assert_eq!(within(layer(), request(&[])).await, ["one"]);
    assert_eq!(within(layer(), request(&[b"set"])).await, ["set"]);
    assert!(
        within(ForwardRequestIdLayer::off(), request(&[]))
            .await
            .is_empty()
    );
    let other = layer().header(HeaderName::from_static("x-trace"));
    assert!(within(other, request(&[])).await.is_empty());

    assert!(forwarded(layer(), request(&[])).await.is_empty());
    let mut with_extension = request(&[]);
    Exchange::of(with_extension.extensions_mut()).set_request_id("two".parse().unwrap());
    assert_eq!(forwarded(layer(), with_extension).await, ["two"]);
}

#[tokio::test]
async fn a_real_client_sends_the_id_to_a_real_server() {
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let app = axum::Router::new()
        .route(
            "/",
            axum::routing::get(|id: RequestId| async move { id.to_string() }),
        )
        .layer(RequestIdLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = ServiceBuilder::new()
        .layer(ForwardRequestIdLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let call = async move {
        let request = Request::get(format!("http://{address}/")).body(Full::default());
        client.oneshot(request.unwrap()).await.unwrap()
    };
    let scope = RequestScope::new("one".parse().unwrap(), Sequence::new());
    let response = tower_stream_core::Scoped::new(call, scope).await;
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "one"
    );
    server.abort();
}
