//! How a streaming HTTP body ends: the one place that knows, for every layer that must.
//!
//! Most streaming bugs in middleware are one bug: the end of the body is missed, reported twice, or misnamed.
//! So it is written once, here, and the layers of `tower-stream` share it:
//!
//! * [`ObservedBody`] watches a body and tells an [`Observe`]r its frames and, **exactly once**, its [`StreamEnd`];
//! * [`Exchange`] carries the reason of a failure between the layers of one request, whatever their order;
//! * [`Delivery`] says what of a body will really be sent: all of it, a declared length, or nothing;
//! * [`StreamKind`] and [`boundary::Scanner`] know where the records of a stream end, and [`RecordHold`] releases
//!   only whole ones; [`grpc`] has the framing of gRPC and gRPC-Web, and [`Records`] says for every kind of stream
//!   whether a last record may follow what was sent;
//! * [`RequestId`], [`Sequence`] and [`ExpectedDigest`] are extension types that one layer writes and another reads;
//! * [`method_name`], [`matched_route`] and [`peer_address`] read of a request what several layers name;
//! * [`bytes_changed`], [`bytes_encoded`], [`digests_changed`] and [`head_replaced`] know what of a head stops being true
//!   when a layer changes the body, and [`allows_insertion`] where a layer may write at all;
//! * [`Problem`] is the error document (RFC 9457) that a layer answers instead of a head it had to replace;
//! * [`UploadBody`] tells a client that leaves in the middle of its upload from a failure;
//! * [`Scoped`] keeps a context entered for every poll and for the drop of a future or body;
//! * [`Switched`] gives a layer that may be off one body type;
//! * [`mock`] (feature `mock`) is a body that plays a script, for tests.
//!
//! This crate holds no layer. A layer needs nothing but it.
//!
//! # Example
//!
//! Count what is sent of each response, and learn how each ended:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Method, Response};
//! use http_body::Frame;
//! use http_body_util::{BodyExt, Full};
//! use tower_stream_core::{Exchange, Observation, Observe, StreamEnd};
//!
//! #[derive(Debug, Default)]
//! struct Count {
//!     bytes: usize,
//! }
//!
//! impl Observe for Count {
//!     fn frame(&mut self, frame: &Frame<Bytes>) {
//!         self.bytes += frame.data_ref().map_or(0, Bytes::len);
//!     }
//!
//!     fn end(&mut self, end: &StreamEnd) {
//!         assert_eq!(*end, StreamEnd::Complete);
//!         assert_eq!(self.bytes, 5);
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut request = http::Request::new(());
//! let observation = Observation::new(Count::default(), Exchange::of(request.extensions_mut()));
//! // .. the inner service answers ..
//! let response = Response::new(Full::new(Bytes::from("hello")));
//! let response = observation.into_response(&Method::GET, response);
//! response.into_body().collect().await.unwrap();
//! # }
//! ```

pub mod boundary;
mod cause;
mod delivery;
mod end;
mod exchange;
mod expected_digest;
pub mod grpc;
mod head;
mod hold;
mod ids;
mod kind;
#[cfg(feature = "mock")]
pub mod mock;
mod observe;
mod problem;
mod records;
mod relay;
mod request;
mod scope;
mod switched;
mod upload;
pub mod wrapper;

pub use self::{
    cause::{Cause, FaultKind, StreamError, chosen_reset},
    delivery::{Delivery, declared_length},
    end::{Outcome, StreamEnd},
    exchange::{Claim, Exchange},
    expected_digest::ExpectedDigest,
    head::{
        allows_insertion, bytes_changed, bytes_encoded, digests_changed, head_replaced, is_encoded,
        list_members,
    },
    hold::RecordHold,
    ids::{InvalidRequestId, RequestId, Sequence},
    kind::{RecordFormat, StreamKind},
    observe::{Observation, Observe, ObservedBody},
    problem::{PlainProblem, Problem, answer_method, retry_after},
    records::Records,
    relay::relay,
    request::{
        OTHER_METHOD, PeerAddr, matched_route, method_name, peer_address, protocol_version,
        url_scheme,
    },
    scope::{Scope, Scoped},
    switched::Switched,
    upload::UploadBody,
};

#[cfg(feature = "axum")]
pub use self::{
    ids::{MissingRequestId, MissingSequence},
    upload::mark_upload,
};

/// Any error that a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
