use tower_stream_core::{ObservedBody, Switched};

use crate::stream::Stream;

/// The body of [`StreamMetrics`](crate::StreamMetrics): the inner body, unchanged.
pub type ResponseBody<B> = Switched<B, ObservedBody<B, Box<Stream>>>;
