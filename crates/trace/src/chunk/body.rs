use tower_stream_body::{ObservedBody, Switched};

use super::observer::ChunkObserver;

/// The response body of [`ChunkSpan`](super::ChunkSpan): passes every frame as it is.
pub type ResponseBody<B> = Switched<B, ObservedBody<B, Box<ChunkObserver>>>;
