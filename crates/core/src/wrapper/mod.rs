//! The wrapper that all layers share.
//!
//! Layers that follow a response to the end of its body have a lot in common: a service, a future, a body, a disabled
//! state, the order of drops, the declared length, the detection of panics. [`Wrapped`] does all of that once. A layer
//! provides a [`Hook`], its configuration, which creates one [`Stage`] per request. The stage handles the head and each
//! [`Piece`] of the body, and is told how the response ended.
//!
//! Several hooks can share one service, one future, one body and one allocation per request: [`Fused`] combines them in
//! the order of `tower::ServiceBuilder`.
//!
//! # The order of events
//!
//! | when | what runs, for stages `outer` and `inner` |
//! |---|---|
//! | `Service::call` | `outer`'s [`Hook::on_request`]; inside of its [`Stage::around`] that of `inner`; inside of both the inner service's `call` |
//! | a poll of the future | `outer`'s [`Stage::poll_admission`]; inside of its `around`: (`inner`'s `poll_admission`; inside of its `around`: the inner future; then `inner`'s [`Stage::on_head`]); then `outer`'s `on_head` |
//! | a poll of the body | `outer`'s [`Stage::on_poll`]; inside of its `around`: (`inner`'s `on_poll`; inside of its `around`: the inner body; then `inner`'s [`Stage::on_polled`]); then `outer`'s `on_polled` |
//! | the last piece has left the outermost stage | [`Stage::on_latched`], `outer` first |
//! | the body is dropped, or polled again after its end | [`Stage::on_end`], `outer` first; then the inner body is dropped inside of every `around`; then the stages are dropped, `outer` first |
//!
//! # Example
//!
//! A layer that counts the bytes of each response and logs how it ended:
//!
//! ```
//! use http::Request;
//! use tower_layer::Layer;
//! use tower_stream_core::{Exchange, StreamEnd, wrapper::{Begin, Hook, Piece, Stage, Wrapped}};
//!
//! /// Logs the size of each response.
//! #[derive(Clone, Debug, Default)]
//! struct CountLayer;
//!
//! impl<S> Layer<S> for CountLayer {
//!     type Service = Wrapped<S, Self>;
//!
//!     fn layer(&self, inner: S) -> Self::Service {
//!         Wrapped::new(inner, self.clone())
//!     }
//! }
//!
//! impl Hook for CountLayer {
//!     type Stage = Count;
//!
//!     fn on_request<B>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<Count> {
//!         Begin::Follow(Count { path: request.uri().path().to_owned(), bytes: 0 })
//!     }
//! }
//!
//! struct Count {
//!     path: String,
//!     bytes: usize,
//! }
//!
//! impl Stage for Count {
//!     fn on_piece(&mut self, piece: &Piece) {
//!         self.bytes += piece.data().map_or(0, |data| data.len());
//!     }
//!
//!     fn on_end(&mut self, end: &StreamEnd) {
//!         println!("{} {} bytes, {end}", self.path, self.bytes);
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # use std::convert::Infallible;
//! # use bytes::Bytes;
//! # use http::Response;
//! # use http_body_util::{BodyExt, Full};
//! # use tower_service::Service;
//! # let handler = tower::service_fn(async |_: Request<()>| {
//! #     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
//! # });
//! let mut service = CountLayer.layer(handler);
//! let response = service.call(Request::new(())).await.unwrap();
//! assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello"); // prints "/ 5 bytes, complete"
//! # }
//! ```

mod body;
mod chain;
mod driver;
mod fused;
mod future;
mod head;
mod hook;
mod piece;
mod service;
mod stage;

pub use self::{
    body::ResponseBody,
    fused::{Fused, Layers},
    future::ResponseFuture,
    head::ResponseHead,
    hook::{Begin, Hook},
    piece::{Piece, Polled},
    service::Wrapped,
    stage::{AfterHead, At, Hints, Source, Stage, StageContext, at_least, longer_by},
};
