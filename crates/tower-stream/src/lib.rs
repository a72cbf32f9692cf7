#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod prelude;
mod slot;
mod stack;

pub use slot::{
    AfterEncoding, AfterEncodingFuture, BeforeEncoding, BeforeEncodingFuture, CompressionSlot,
    EncodedBody, PlainBody,
};
pub use stack::{InnerStack, OuterStack, Stacked, StreamStack};
#[cfg(feature = "resume")]
pub use stack::{ProducerStack, ReaderStack};
#[cfg(feature = "coalesce")]
pub use tower_stream_coalesce as coalesce;
#[cfg(feature = "compress")]
pub use tower_stream_compress as compress;
pub use tower_stream_core as core;
#[cfg(feature = "digest")]
pub use tower_stream_digest as digest;
#[cfg(feature = "drain")]
pub use tower_stream_drain as drain;
#[cfg(feature = "errors")]
pub use tower_stream_errors as errors;
#[cfg(feature = "headers")]
pub use tower_stream_headers as headers;
#[cfg(feature = "heartbeat")]
pub use tower_stream_heartbeat as heartbeat;
#[cfg(feature = "ids")]
pub use tower_stream_ids as ids;
#[cfg(feature = "limit")]
pub use tower_stream_limit as limit;
#[cfg(feature = "metrics")]
pub use tower_stream_metrics as metrics;
#[cfg(feature = "resume")]
pub use tower_stream_resume as resume;
#[cfg(feature = "serve")]
#[doc(inline)]
pub use tower_stream_serve::{self as serve, serve};
#[cfg(feature = "trace")]
pub use tower_stream_trace as trace;
