//! What [`StreamLimitLayer`] does with one request.

use std::{
    fmt,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tower_stream_core::{
    Exchange, StreamEnd, with_head,
    wrapper::{AfterHead, Begin, Hook, Polled, ResponseHead, Source, Stage, StageContext},
};

use crate::{
    StreamLimitLayer,
    adaptive::Awaited,
    limit::{Decision, Limit, WaitFuture},
    permit::{self, Permit},
    rate::Remaining,
    refusal::{Asked, Reason},
};

impl Hook for StreamLimitLayer {
    type Stage = StreamLimitStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.limit.is_none()
    }

    #[inline]
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<StreamLimitStage> {
        let Some(limit) = &self.limit else {
            return Begin::Pass;
        };
        let exempt = limit.config.exempt.as_deref();
        if exempt.is_some_and(|rule| with_head(request, rule))
            || permit::is_admitted(limit, exchange, request.extensions())
        {
            return Begin::Pass;
        }
        let mut stage = StreamLimitStage {
            extra: None,
            remaining: None,
            permit: None,
        };
        let mut entry = None;
        if limit.is_keyed() {
            entry = limit.entry(limit.config.key.key(request));
            if let Some((remaining, wait)) = limit.check_rate(entry.as_deref()) {
                stage.remaining = Some(remaining);
                if let Some(wait) = wait {
                    let asked = Asked::of(request, exchange.request_id());
                    let response = stage.refuse(limit, &asked, Reason::Rate, wait);
                    return Begin::Refuse(stage, response);
                }
            }
        }
        let permit = match limit.admit(entry) {
            Decision::Admitted(permit) => permit,
            Decision::Waiting(permit, future) => {
                let asked = Asked::of(request, exchange.request_id());
                stage.extra().waiting = Some(Waiting { future, asked });
                permit
            }
            Decision::Refused(reason) => {
                let asked = Asked::of(request, exchange.request_id());
                let response = stage.refuse(limit, &asked, reason, limit.config.retry_after);
                return Begin::Refuse(stage, response);
            }
        };
        permit::leave(&permit, exchange, request.extensions_mut());
        stage.permit = Some(permit);
        let is_waiting = stage
            .extra
            .as_ref()
            .is_some_and(|extra| extra.waiting.is_some());
        if !is_waiting {
            stage.admitted();
        }
        Begin::Follow(stage)
    }
}

/// The state of [`StreamLimitLayer`] for one request.
pub struct StreamLimitStage {
    /// Boxed: all stages of a stack share one allocation, and a request that neither waits nor is measured needs none of it.
    extra: Option<Box<Extra>>,
    /// What the response head says of the rate.
    remaining: Option<Remaining>,
    /// `None` if the request was refused. Dropped after the inner body, so that the next request is admitted only when
    /// that is gone.
    permit: Option<Arc<Permit>>,
}

#[derive(Default)]
struct Extra {
    waiting: Option<Waiting>,
    /// Only for an adaptive limit, until the first chunk.
    awaited: Option<Awaited>,
}

struct Waiting {
    future: WaitFuture,
    asked: Asked,
}

impl StreamLimitStage {
    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    #[cold]
    fn refuse(
        &mut self,
        limit: &Limit,
        asked: &Asked,
        reason: Reason,
        wait: Duration,
    ) -> Box<Response<Bytes>> {
        limit.count_refusal(reason);
        let mut response = Box::new(asked.refuse(reason, wait));
        if let Some(remaining) = self.remaining.take() {
            remaining.tell(limit.policy.as_ref(), response.headers_mut());
        }
        response
    }

    #[inline]
    fn admitted(&mut self) {
        let limit = self.permit.as_ref().map(|permit| permit.limit());
        if let Some(limit) = limit
            && let Some(gradient) = &limit.gradient
        {
            let awaited = gradient.begin();
            self.extra().awaited = Some(awaited);
        }
    }

    /// The stream is not awaited any more: its first chunk is there (`Some(true)`), will not come, or (`None`) is not measured.
    #[cold]
    fn first_chunk(&mut self, begun: Option<bool>) {
        let awaited = self.extra.take().and_then(|extra| extra.awaited);
        if let (Some(awaited), Some(permit)) = (awaited, &self.permit)
            && let Some(gradient) = &permit.limit().gradient
        {
            if let Some(begun) = begun {
                let waiting = permit.limit().slots.waiting();
                gradient.first_chunk(&awaited, begun, waiting);
            }
            permit.begun();
        }
    }

    #[cold]
    fn poll_waiting(
        &mut self,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        let Some(extra) = self.extra.as_mut() else {
            return Poll::Ready(None);
        };
        let Some(waiting) = &mut extra.waiting else {
            return Poll::Ready(None);
        };
        let outcome = ready!(waiting.future.as_mut().poll(cx.task));
        let waiting = extra.waiting.take();
        let (Err(reason), Some(waiting)) = (outcome, waiting) else {
            self.admitted();
            return Poll::Ready(None);
        };
        let permit = self.permit.take();
        Poll::Ready(permit.map(|permit| {
            let limit = permit.limit();
            self.refuse(limit, &waiting.asked, reason, limit.config.retry_after)
        }))
    }

    #[cold]
    fn edit_head(&mut self, head: &mut ResponseHead) {
        let is_error = head.status.is_client_error() || head.status.is_server_error();
        // Without a time to measure, a frame has nothing to do.
        if is_error
            || self
                .extra
                .as_ref()
                .is_some_and(|extra| extra.awaited.is_none())
        {
            self.first_chunk(None);
        }
    }
}

impl Stage for StreamLimitStage {
    const RARE: bool = true;

    #[inline]
    fn ignores_frames(&self) -> bool {
        self.extra.is_none()
    }

    #[inline]
    fn poll_admission(
        &mut self,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        match self.extra {
            None => Poll::Ready(None),
            Some(_) => self.poll_waiting(cx),
        }
    }

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        if let Some(permit) = &self.permit
            && let Some(remaining) = self.remaining.take()
        {
            remaining.tell(permit.limit().policy.as_ref(), &mut head.headers);
        }
        if self.extra.is_some() {
            self.edit_head(head);
        }
        let until_head = |permit: &Arc<Permit>| permit.limit().config.until_head;
        if self.permit.as_ref().is_none_or(until_head) {
            if self.extra.is_some() {
                self.first_chunk(Some(true));
            }
            return Poll::Ready(AfterHead::Leave);
        }
        Poll::Ready(AfterHead::Stay)
    }

    /// Not `on_piece`: without a chunk to await, a frame costs one comparison.
    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        // `polled` is not passed to a function that is not inlined, because it would then have to be in memory.
        if self.extra.is_some() && !cx.is_heartbeat() && matches!(polled, Poll::Ready(Some(Ok(_))))
        {
            self.first_chunk(Some(true));
        }
    }

    /// Called when the response ends. If it had no data frame, its end counts as the first chunk.
    #[inline]
    fn on_latched(&mut self) {
        if self.extra.is_some() {
            self.first_chunk(Some(true));
        }
    }

    fn on_end(&mut self, _: &StreamEnd) {
        if self.extra.is_some() {
            self.first_chunk(Some(false));
        }
    }
}

impl Drop for StreamLimitStage {
    /// A stage that is dropped without an end, because a panic went through the call.
    #[inline]
    fn drop(&mut self) {
        if self.extra.is_some() {
            self.first_chunk(None);
        }
    }
}

impl fmt::Debug for StreamLimitStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLimitStage")
            .field("permit", &self.permit.is_some())
            .finish_non_exhaustive()
    }
}
