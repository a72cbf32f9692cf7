//! The id of a request and of its response.

use super::*;

async fn assert_taken(layer: &RequestIdLayer, inbound: &[&[u8]], id: &str) {
    let (seen, sent) = serve(layer, request(inbound)).await;
    let id = id.to_owned();
    assert_eq!(sent, std::slice::from_ref(&id));
    assert_eq!(
        seen,
        Seen {
            headers: vec![id.clone()],
            extension: Some(id.clone()),
            scope: Some(id),
        }
    );
}

/// Asserts that the request gets a new id, and returns it.
async fn assert_new(layer: &RequestIdLayer, inbound: &[&[u8]]) -> String {
    let (seen, sent) = serve(layer, request(inbound)).await;
    let id = sent.first().cloned().unwrap();
    assert!(!inbound.contains(&id.as_bytes()), "{id}");
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
    assert_eq!(sent, std::slice::from_ref(&id));
    assert_eq!(seen.headers, std::slice::from_ref(&id));
    assert_eq!(
        (seen.extension.as_ref(), seen.scope.as_ref()),
        (Some(&id), Some(&id))
    );
    id
}

#[tokio::test]
async fn a_valid_inbound_id_is_the_id_everywhere() {
    let layer = RequestIdLayer::new();
    for id in ["order-17", "a", &"x".repeat(128), "A.b_c+d/e=f@g-0"] {
        assert_taken(&layer, &[id.as_bytes()], id).await;
    }
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn without_an_inbound_id_one_is_made() {
    let layer = RequestIdLayer::new();
    assert_ne!(assert_new(&layer, &[]).await, assert_new(&layer, &[]).await);
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn a_bad_inbound_id_is_replaced_and_counted() {
    let layer = RequestIdLayer::new();
    let long = [b'x'; 129];
    let bad: [&[u8]; 8] = [
        b"",
        &long,
        b"a\tb",
        b"\xff",
        "é".as_bytes(),
        b"a b",
        b"a,b",
        b"<script>",
    ];
    for id in bad {
        assert_new(&layer, &[id]).await;
    }
    assert_eq!(layer.replaced(), 8);
    assert_new(&layer.clone(), &[b" ", b""]).await;
    assert_eq!(
        layer.replaced(),
        9,
        "one request counts once, whichever clone it meets"
    );
}

#[tokio::test]
async fn of_several_inbound_ids_the_first_valid_one_goes_on_alone() {
    let layer = RequestIdLayer::new();
    assert_taken(&layer, &[b"one", b"two"], "one").await;
    assert_taken(&layer, &[b"bad one", b"two", b"three"], "two").await;
    assert_taken(&layer, &[b"one", b"bad two"], "one").await;
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn trust_decides_whose_ids_are_taken() {
    let never = RequestIdLayer::new().trust(Trust::Never);
    assert_new(&never, &[b"one"]).await;
    assert_eq!(never.replaced(), 0);

    let when = Trust::when(|head| head.extensions.get::<u8>() == Some(&1));
    let layer = RequestIdLayer::new().trust(when);
    assert_new(&layer, &[b"one"]).await;
    let mut trusted = request(&[b"one"]);
    trusted.extensions_mut().insert(1_u8);
    assert_eq!(serve(&layer, trusted).await.1, ["one"]);
}

#[tokio::test]
async fn header_and_maker_can_be_chosen() {
    let layer = RequestIdLayer::new()
        .header(HeaderName::from_static("x-trace"))
        .make(|head: &http::request::Parts| head.uri.path().replace('/', "p").parse().unwrap());
    let inner = service_fn(|request: Request<()>| async move {
        assert_eq!(request.headers()["x-trace"], "pa");
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut request = request(&[b"one"]);
    *request.uri_mut() = "/a".parse().unwrap();
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["x-trace"], "pa");
    assert!(!response.headers().contains_key(NAME));
}

#[tokio::test]
async fn what_the_handler_set_is_replaced() {
    let inner = service_fn(|_: Request<()>| async {
        let response = Response::builder().header(NAME, "x").header(NAME, "y");
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    });
    let service = RequestIdLayer::new().layer(inner);
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    let lines: Vec<_> = response.headers().get_all(NAME).iter().collect();
    assert_eq!(lines, ["one"]);
}

#[tokio::test]
async fn an_error_passes_and_a_response_made_of_it_inside_has_the_id() {
    let failing = service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("down"))
    });
    let bare = RequestIdLayer::new().layer(failing);
    assert_eq!(
        bare.oneshot(request(&[])).await.unwrap_err().to_string(),
        "down"
    );

    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .service(service_fn(move |request| async move {
            let answer = failing.oneshot(request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|_| {
                let response = Response::builder().status(StatusCode::BAD_GATEWAY);
                response.body(Empty::new()).unwrap()
            }))
        }));
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()[NAME], "one");
}

#[tokio::test]
async fn a_second_layer_inside_keeps_the_ids_of_the_first() {
    let sequences = Arc::new(Mutex::new(Vec::<Sequence>::new()));
    let outer = Arc::clone(&sequences);
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .map_request(move |mut request: Request<()>| {
            outer.lock().extend(Sequence::of(request.extensions()));
            request.headers_mut().remove(NAME);
            request
        })
        .layer(RequestIdLayer::new().trust(Trust::Never))
        .service(service_fn(|request: Request<()>| async move {
            assert_eq!(request.headers()[NAME], "one");
            Sequence::of(request.extensions()).unwrap().next();
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    assert_eq!(response.headers().get_all(NAME).iter().count(), 1);
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(sequences.lock()[0].last(), 1);
}

#[tokio::test]
async fn off_it_does_nothing() {
    let (seen, sent) = serve(&RequestIdLayer::off(), request(&[b"bad one", b"two"])).await;
    assert!(sent.is_empty());
    assert_eq!(seen.headers, ["bad one", "two"]);
    assert_eq!((seen.extension, seen.scope), (None, None));
}

#[tokio::test]
async fn an_upgrade_keeps_what_it_needs() {
    let inner = service_fn(|mut request: Request<()>| async move {
        assert_eq!(request.extensions_mut().remove::<u8>(), Some(7));
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade");
        Ok::<_, Infallible>(
            response
                .extension(9_u8)
                .body(Empty::<Bytes>::new())
                .unwrap(),
        )
    });
    let mut request = request(&[b"one"]);
    request.extensions_mut().insert(7_u8);
    let response = RequestIdLayer::new()
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["connection"], "upgrade");
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(response.extensions().get::<u8>(), Some(&9));
}
