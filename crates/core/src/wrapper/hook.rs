//! What a layer is.

use bytes::Bytes;
use http::{Request, Response};

use super::Stage;
use crate::Exchange;

/// A layer: its configuration, cloned with each service, and what it does to a request.
///
/// A layer that is off answers [`Begin::Pass`], or is an `Option` that is `None`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made into a layer by `Wrapped`",
    note = "implement `Hook` for the configuration of the layer; `Fused` takes only layers that are hooks"
)]
pub trait Hook: Clone + Send + Sync + 'static {
    /// What the layer keeps of one request.
    type Stage: Stage;

    /// Whether the layer follows no request at all. When no layer of a wrapper follows any, a request costs one branch.
    #[inline]
    fn is_off(&self) -> bool {
        false
    }

    /// A request has come. Runs in `Service::call`, inside of the [`Stage::around`] of every stage further out.
    ///
    /// The [`Exchange`] is that of the request, shared with all other layers that see it. The body of the request is there to
    /// look at, and to replace by one of the same type.
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<Self::Stage>;
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Begin<T> {
    /// The layer has nothing to do with it.
    Pass,
    /// The stage follows it.
    Follow(T),
    /// It is answered here and the service inside is not called. The stage and those further out see this response as
    /// if it came from inside.
    Refuse(T, Box<Response<Bytes>>),
}
