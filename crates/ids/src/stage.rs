//! One request under a [`RequestIdLayer`].

use std::{sync::atomic::Ordering, task::Poll};

use http::{HeaderName, Request};
use tower_stream_core::{
    Exchange, InvalidRequestId, RequestId, Scope, with_head,
    wrapper::{AfterHead, At, Begin, Hook, ResponseHead, Source, Stage, StageContext},
};

use crate::{
    MakeUuidV4, RequestIdLayer, RequestScope,
    layer::{Config, Trust},
};

/// The state of [`RequestIdLayer`] for one request.
#[derive(Debug)]
pub struct RequestIdStage {
    scope: RequestScope,
    /// `None` once the response has the id.
    header: Option<HeaderName>,
}

impl Hook for RequestIdLayer {
    type Stage = RequestIdStage;

    #[inline]
    fn is_off(&self) -> bool {
        !self.config.enabled
    }

    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<RequestIdStage> {
        if !self.config.enabled {
            return Begin::Pass;
        }
        let refused = self.config.assign(request, exchange);
        let scope = RequestScope::of(exchange);
        if let Some(refused) = refused {
            scope.run(|| log_replaced(refused));
        }
        Begin::Follow(RequestIdStage {
            scope,
            header: Some(self.config.header.clone()),
        })
    }
}

#[cold]
fn log_replaced(refused: InvalidRequestId) {
    tracing::debug!(
        target: "tower_stream_ids",
        reason = %refused,
        "replaced the request id that a client sent"
    );
}

impl Stage for RequestIdStage {
    #[inline(always)]
    fn around<T>(stage: Option<&mut Self>, _: At, run: impl FnOnce() -> T) -> Option<T> {
        let _entered = stage.map(|stage| stage.scope.enter());
        Some(run())
    }

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        if let (Some(name), Some(id)) = (self.header.take(), self.scope.request_id()) {
            head.insert_field(name, id.as_header_value().clone());
        }
        Poll::Ready(AfterHead::Stay)
    }
}

impl Config {
    /// Assigns the id and makes it the only value of the header. Also returns why an inbound id was replaced.
    fn assign<B>(&self, request: &mut Request<B>, exchange: &Exchange) -> Option<InvalidRequestId> {
        if let Some(known) = exchange.request_id() {
            let known = known.as_header_value().clone();
            request.headers_mut().insert(&self.header, known);
            return None;
        }
        let mut refused = None;
        let mut taken = None;
        if self.trusts(request) {
            let mut inbound = request.headers().get_all(&self.header).iter();
            for value in inbound.by_ref() {
                match RequestId::try_from(value.clone()) {
                    Ok(id) => {
                        let alone = refused.is_none() && inbound.next().is_none();
                        taken = Some((id, alone));
                        break;
                    }
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        let (id, alone) = match taken {
            Some(taken) => {
                refused = None;
                taken
            }
            None => (self.make(request), false),
        };
        if refused.is_some() {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        if !alone {
            let id = id.as_header_value().clone();
            request.headers_mut().insert(&self.header, id);
        }
        exchange.set_request_id(id);
        refused
    }

    fn trusts<B>(&self, request: &mut Request<B>) -> bool {
        match &self.trust {
            Trust::Always => true,
            Trust::Never => false,
            Trust::When(trusted) => with_head(request, |head| trusted(head)),
        }
    }

    fn make<B>(&self, request: &mut Request<B>) -> RequestId {
        match &self.make {
            None => MakeUuidV4::make(),
            Some(make) => with_head(request, |head| make.make_request_id(head)),
        }
    }
}
