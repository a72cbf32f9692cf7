use std::pin::Pin;

use tower_stream_core::{ObservedBody, Switched};

use super::observer::ChunkObserver;

/// The response body of [`ChunkSpan`](super::ChunkSpan): passes every frame as it is.
///
/// Boxed when it is sampled, so that one that is not, as most are, is no larger than the body inside.
pub type ResponseBody<B> = Switched<B, Pin<Box<ObservedBody<B, ChunkObserver>>>>;
