//! Several layers in one wrapper.

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;

use super::{
    At, Begin, Hook, Wrapped,
    chain::{Chain, Pair, Slot},
};
use crate::Exchange;

/// The layers of a [`Wrapped`]: a [`Hook`], an `Option` of one, or a [`Fused`] of several.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made into a layer by `Wrapped`",
    note = "`Fused` takes layers that are hooks: implement `Hook` for the configuration of the layer"
)]
pub trait Layers: Clone + Send + Sync + 'static {
    /// Their state for one request.
    #[doc(hidden)]
    type Chain: Chain;

    /// Returns whether none of them follows any request.
    #[doc(hidden)]
    fn are_off(&self) -> bool;

    /// Calls `on_request` of each layer, from the outside inwards, and then `next`. The stages are put into `chain` one
    /// by one, so that those already there learn of a panic further inside.
    #[doc(hidden)]
    fn call<R: 'static>(
        &self,
        chain: &mut Self::Chain,
        request: &mut Option<Request<R>>,
        exchange: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called;
}

/// The result of calling the inner service.
#[doc(hidden)]
#[derive(Debug)]
pub enum Called {
    /// It returned its future, which the innermost closure has stored.
    Future,
    /// It panicked, and a stage caught the panic.
    Caught,
    /// A stage refused the request with this response.
    Refused(Box<Response<Bytes>>),
}

impl<H: Hook> Layers for H {
    type Chain = Slot<H::Stage>;

    #[inline]
    fn are_off(&self) -> bool {
        self.is_off()
    }

    #[inline]
    fn call<R: 'static>(
        &self,
        chain: &mut Self::Chain,
        request: &mut Option<Request<R>>,
        exchange: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called {
        let Some(shown) = request else {
            return next(request);
        };
        match self.on_request(shown, exchange) {
            Begin::Pass => next(request),
            Begin::Follow(stage) => {
                *chain = Slot::new(stage);
                let called = chain.around(At::Call, || next(request));
                called.unwrap_or(Called::Caught)
            }
            Begin::Refuse(stage, response) => {
                *chain = Slot::new(stage);
                Called::Refused(response)
            }
        }
    }
}

impl<L: Layers> Layers for Option<L> {
    type Chain = L::Chain;

    #[inline]
    fn are_off(&self) -> bool {
        self.as_ref().is_none_or(L::are_off)
    }

    #[inline]
    fn call<R: 'static>(
        &self,
        chain: &mut Self::Chain,
        request: &mut Option<Request<R>>,
        exchange: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called {
        match self {
            Some(layers) => layers.call(chain, request, exchange, next),
            None => next(request),
        }
    }
}

impl Layers for () {
    type Chain = ();

    #[inline]
    fn are_off(&self) -> bool {
        true
    }

    #[inline]
    fn call<R: 'static>(
        &self,
        (): &mut (),
        request: &mut Option<Request<R>>,
        _: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called {
        next(request)
    }
}

impl<A: Layers, B: Layers> Layers for (A, B) {
    type Chain = Pair<A::Chain, B::Chain>;

    #[inline]
    fn are_off(&self) -> bool {
        self.0.are_off() && self.1.are_off()
    }

    #[inline]
    fn call<R: 'static>(
        &self,
        chain: &mut Self::Chain,
        request: &mut Option<Request<R>>,
        exchange: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called {
        let Pair { outer, inner } = chain;
        self.0.call(outer, request, exchange, |request| {
            self.1.call(inner, request, exchange, next)
        })
    }
}

/// Layers that share one service, one future, one body and one allocation per request.
///
/// A `Fused` is a layer itself. The layer added first is the outermost, as in `tower::ServiceBuilder`. `None` is a
/// layer that is off.
///
/// ```
/// use http::Request;
/// use tower_stream_core::{Exchange, wrapper::{Begin, Fused, Hook, Stage}};
///
/// #[derive(Clone)]
/// struct MyLayer;
/// # struct MyStage;
/// # impl Stage for MyStage {}
/// # impl Hook for MyLayer {
/// #     type Stage = MyStage;
/// #     fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<MyStage> { Begin::Pass }
/// # }
///
/// let layers = Fused::new().layer(MyLayer).layer(None::<MyLayer>);
/// # fn is_layer<L: tower_layer::Layer<()>>(_: L) {}
/// # is_layer(layers);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct Fused<L = ()> {
    layers: L,
}

impl Fused {
    /// Creates an empty stack.
    pub const fn new() -> Self {
        Self { layers: () }
    }
}

impl<L: Layers> Fused<L> {
    /// Adds a layer inside of the existing ones.
    pub fn layer<I: Layers>(self, inner: I) -> Fused<(L, I)> {
        Fused {
            layers: (self.layers, inner),
        }
    }
}

impl<S, L: Layers> Layer<S> for Fused<L> {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl<L: Layers> Layers for Fused<L> {
    type Chain = L::Chain;

    #[inline]
    fn are_off(&self) -> bool {
        self.layers.are_off()
    }

    #[inline]
    fn call<R: 'static>(
        &self,
        chain: &mut Self::Chain,
        request: &mut Option<Request<R>>,
        exchange: &Exchange,
        next: impl FnOnce(&mut Option<Request<R>>) -> Called,
    ) -> Called {
        self.layers.call(chain, request, exchange, next)
    }
}
