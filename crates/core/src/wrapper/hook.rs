//! The trait that a layer implements.

use bytes::Bytes;
use http::{Request, Response};

use super::Stage;
use crate::Exchange;

/// A layer: its configuration, cloned with each service, and its reaction to a request.
///
/// A layer that is off returns [`Begin::Pass`], or is an `Option` that is `None`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made into a layer by `Wrapped`",
    note = "implement `Hook` for the configuration of the layer; `Fused` takes only layers that are hooks"
)]
pub trait Hook: Clone + Send + Sync + 'static {
    /// The state of the layer for one request.
    type Stage: Stage;

    /// Returns whether the layer follows no request at all. If this is true for all layers of a wrapper, a request only
    /// costs one branch.
    #[inline]
    fn is_off(&self) -> bool {
        false
    }

    /// Called for each request, in `Service::call`, inside of the [`Stage::around`] of every stage further outside.
    ///
    /// The [`Exchange`] is that of the request, shared with all other layers. The request body may be read, or replaced
    /// by one of the same type.
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<Self::Stage>;
}

/// What a layer does with a request.
#[derive(Debug)]
pub enum Begin<T> {
    /// The layer does not follow the request.
    Pass,
    /// The stage follows the request.
    Follow(T),
    /// The layer responds, and the inner service is not called. The stage and those further outside see this response
    /// as if it came from inside.
    Refuse(T, Box<Response<Bytes>>),
}
