use tower_stream_core::{ObservedBody, Scoped, Switched};

use super::{observer::RequestObserver, span::InSpan};

/// The response body of [`RequestSpan`](super::RequestSpan): passes every frame as it is, inside of the span.
pub type ResponseBody<B> = Switched<B, Scoped<ObservedBody<B, Box<RequestObserver>>, InSpan>>;
