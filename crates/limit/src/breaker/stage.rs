//! What [`BreakerLayer`] does with one request.

use std::task::Poll;

use http::Request;
use tower_stream_core::{
    Exchange, Outcome, Refused, StreamEnd,
    wrapper::{AfterHead, Begin, Hook, ResponseHead, Source, Stage, StageContext},
};

use super::{BreakerLayer, circuit::Call};
use crate::refusal::{Asked, Reason};

impl Hook for BreakerLayer {
    type Stage = BreakerStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.breaker.is_none()
    }

    #[inline]
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<BreakerStage> {
        let Some(breaker) = &self.breaker else {
            return Begin::Pass;
        };
        match breaker.circuit(request).begin() {
            Ok(call) => Begin::Follow(BreakerStage {
                call: Some(call),
                is_server_error: false,
            }),
            Err(wait) => {
                breaker.count_refusal();
                let asked = Asked::of(request, exchange.request_id());
                let response = asked.refuse(Reason::Breaker, wait);
                let stage = BreakerStage {
                    call: None,
                    is_server_error: false,
                };
                Begin::Refuse(stage, Box::new(response))
            }
        }
    }
}

/// The state of [`BreakerLayer`] for one request.
#[derive(Debug)]
pub struct BreakerStage {
    /// `None` if the request was refused.
    call: Option<Call>,
    /// Whether the status is 500 or above.
    is_server_error: bool,
}

impl Stage for BreakerStage {
    const RARE: bool = true;

    #[inline]
    fn ignores_frames(&self) -> bool {
        true
    }

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let refused = !head.extensions.is_empty() && head.extensions.get::<Refused>().is_some();
        let Some(call) = self.call.as_ref().filter(|_| !refused) else {
            return Poll::Ready(AfterHead::Leave);
        };
        self.is_server_error = head.status.is_server_error();
        if !self.is_server_error {
            call.answered();
        }
        Poll::Ready(AfterHead::Stay)
    }

    fn on_end(&mut self, end: &StreamEnd) {
        let Some(call) = &mut self.call else {
            return;
        };
        call.failed = match end.outcome() {
            _ if self.is_server_error => Some(true),
            Outcome::Aborted => None,
            _ => Some(end.is_server_error()),
        };
    }
}
