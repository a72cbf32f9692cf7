//! One well-formed ending for every way a streaming response can fail, panics included.
//!
//! After `200 OK` a response can still fail: its body gives an error, a deadline passes, a handler's task panics. What
//! the client then sees is left to the server: a connection that dies, a stream that is reset as if the client had
//! asked for it, or, worst, a clean end. [`ErrorWriterLayer`] gives each failed response **one ending in the format
//! that the client is reading**, or an abort that it can see. Never a silent success, and no other stream of the
//! connection is harmed.
//!
//! * Nothing sent yet: a response of its own. `application/problem+json` (RFC 9457), a page for browsers, a status for
//!   gRPC. To know that nothing was sent the body is polled once before its head is released; a body that is not ready
//!   delays nothing.
//! * Head sent: a last event, a last line, gRPC trailers, or an abort: see [`DefaultWriter`], and [`WriteError`] for
//!   your own format. [`OpenAiWriter`] is a preset.
//! * Half an event is never sent, so that the error is never glued to one: a partial record is held (64 KiB at most)
//!   until it ends, and dropped on failure. A chunk that ends with a record passes as it is.
//! * A body with a declared `Content-Length` never gains a byte, nor does a range or an encoded body.
//! * The cause is recorded in the [`Exchange`](tower_stream_core::Exchange) of the request first, so that observers outside *and* inside report
//!   the same outcome.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, StreamBody};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_stream_errors::ErrorWriterLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! async fn events(_: Request<()>) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
//!     let mut n = 0;
//!     let stream = futures_util::stream::repeat_with(move || {
//!         n += 1;
//!         assert!(n < 3, "the secret of event 3");
//!         Ok(http_body::Frame::data(Bytes::from(format!("data: {n}\n\n"))))
//!     });
//!     Ok(Response::builder()
//!         .header("content-type", "text/event-stream")
//!         .body(StreamBody::new(stream))
//!         .unwrap())
//! }
//!
//! let service = ServiceBuilder::new()
//!     .layer(ErrorWriterLayer::new())
//!     .service(service_fn(events));
//! let response = service.oneshot(Request::new(())).await.unwrap();
//! let body = response.into_body().collect().await.unwrap().to_bytes();
//! assert_eq!(
//!     body,
//!     "data: 1\n\ndata: 2\n\nevent: error\n\
//!      data: {\"error\":{\"kind\":\"panic\",\"message\":\"the response failed on the server\",\"status\":500}}\n\n"
//! );
//! # }
//! ```
//!
//! # What is caught
//!
//! A panic in the call, in a poll of the handler's future, in the body's `poll_frame`, `is_end_stream` or `size_hint`,
//! in the drop of a future or body, and in the drop of the panic's own payload. Nothing that panicked is polled again.
//! An `Err` of the body, whose [kind](tower_stream_core::FaultKind) is read from its source chain: tower-http's and
//! tokio's timeouts, a drain, a digest mismatch, an HTTP/2 reset, I/O. A body that ends before its declared length.
//!
//! Not caught: a panic while another panic unwinds, and anything in a program built with `panic = "abort"`; both end
//! the process. A panic in `poll_ready`, which has no request to answer. A task that panics behind an ordinary channel:
//! use [`channel`].
//!
//! The cause that is known first wins, and a response has one ending. A panic in the drop of a body that has given
//! everything changes nothing for its client: it is logged.
//!
//! # What is told
//!
//! The client gets kind, status and request id, never what the panic or the error said
//! ([`expose_messages`](ErrorWriterLayer::expose_messages) for development). The log gets one event
//! a failed response, whichever layer of the request recorded the failure: at `error`, or at `info` if it was a drain.
//! Its `outcome` and `kind` are the words of spans and metrics, `error` is the message; with [`PanicHook`] it names the
//! place in the source. A client that left is no failure, also if it left in the middle of an upload that the handler
//! sends back or on: that is an event at `debug`. (With the feature `axum`, the default, and axum's request bodies; for
//! others see [`UploadBody`](tower_stream_core::UploadBody).)
//!
//! # Where it stands
//!
//! Outside of whatever may fail (timeouts, drains, digests, the handler), inside of compression, since nothing can be
//! written into a stream that is already compressed.
#![doc = include_str!("matrix.md")]

mod channel;
mod context;
mod default_writer;
mod hook;
mod idle;
mod layer;
mod openai;
mod panic;
mod request;
mod stage;
mod write;

pub use self::{
    channel::{ChannelBody, Closed, Sender, channel},
    default_writer::DefaultWriter,
    hook::PanicHook,
    idle::{IdleTimeoutLayer, IdleTimeoutStage},
    layer::{AfterTail, ErrorWriterLayer},
    openai::OpenAiWriter,
    stage::ErrorWriterStage,
    write::{Failure, Tail, WriteError},
};

#[cfg(test)]
mod tests;
