//! How much a disabled layer adds to the types of a stack. Every request moves the future, and every stream keeps the
//! body.

use std::{convert::Infallible, future::Future, pin::Pin};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tower_stream_core::wrapper::{ResponseBody, ResponseFuture};
use tower_stream_digest::{DigestLayer, VerifyBody, VerifyDigestLayer, VerifyRequestDigestFuture};

const POINTER: usize = size_of::<usize>();

#[test]
fn a_body_grows_by_a_pointer_at_most() {
    fn check<B>() {
        assert!(size_of::<ResponseBody<B, DigestLayer>>() <= size_of::<B>() + POINTER);
        assert!(size_of::<ResponseBody<B, VerifyDigestLayer>>() <= size_of::<B>() + POINTER);
        assert!(size_of::<VerifyBody<B>>() <= size_of::<B>() + POINTER);
    }
    check::<Body>();
    check::<Full<Bytes>>();
    check::<VerifyBody<Body>>();
}

#[test]
fn a_future_grows_by_a_pointer() {
    fn check<F>() {
        // The wrapper records whether the inner future is done.
        let wrapped = size_of::<Option<F>>() + POINTER;
        assert_eq!(size_of::<ResponseFuture<F, Body, DigestLayer>>(), wrapped);
        assert_eq!(
            size_of::<ResponseFuture<F, Body, VerifyDigestLayer>>(),
            wrapped
        );
        assert_eq!(
            size_of::<VerifyRequestDigestFuture<F>>(),
            size_of::<F>() + POINTER
        );
    }
    check::<std::future::Ready<Result<Response<Body>, Infallible>>>();
    check::<Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>>();
}
