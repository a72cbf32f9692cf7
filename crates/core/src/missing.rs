//! The rejection of the layers' extractors.

use std::fmt;

use axum_core::response::{IntoResponse, Response};
use http::StatusCode;

/// The rejection of an extractor for a request that did not pass the layer that it needs.
///
/// The handler is reached without the layer, so this is a mistake of the server: the response is a 500, and names the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingLayer {
    value: &'static str,
    layer: &'static str,
}

impl MissingLayer {
    /// The rejection for a value, such as `request id`, that is there only inside of this layer.
    #[must_use]
    pub const fn new(value: &'static str, layer: &'static str) -> Self {
        Self { value, layer }
    }
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, layer } = self;
        write!(
            f,
            "this request has no {value}: add {layer} outside of this handler"
        )
    }
}

impl std::error::Error for MissingLayer {}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
