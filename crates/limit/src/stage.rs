//! What [`StreamLimitLayer`] does with one request.

use std::{
    fmt,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use tower_stream_core::{
    Exchange, with_head,
    wrapper::{AfterHead, Begin, Hook, ResponseHead, Source, Stage, StageContext},
};

use crate::{
    StreamLimitLayer,
    limit::{Decision, Limit, WaitFuture},
    permit::{self, Permit},
    rate,
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
        let (entry, fields) = match limit.is_keyed() {
            false => (None, None),
            true => {
                let entry = limit.entry(limit.config.key.key(request));
                let left = limit.check_rate(entry.as_deref());
                let rate = limit.config.rate.zip(left);
                let fields = rate.map(|(rate, left)| Box::new(rate.fields(left)));
                if let Some(wait) = left.and_then(|left| left.wait) {
                    let asked = Asked::of(request, exchange.request_id());
                    let response = refuse(limit, &asked, Reason::Rate, Some(wait));
                    return Begin::Refuse(StreamLimitStage::refused(fields), response);
                }
                (entry, fields)
            }
        };
        let mut stage = StreamLimitStage {
            permit: None,
            waiting: None,
            fields,
        };
        match limit.admit(entry) {
            Decision::Admitted(permit) => {
                permit::leave(&permit, exchange, request.extensions_mut());
                stage.permit = Some(permit);
            }
            Decision::Waiting(permit, future) => {
                permit::leave(&permit, exchange, request.extensions_mut());
                stage.permit = Some(permit);
                stage.waiting = Some(Box::new(Waiting {
                    future,
                    asked: Asked::of(request, exchange.request_id()),
                }));
            }
            Decision::Refused(reason) => {
                let asked = Asked::of(request, exchange.request_id());
                let response = refuse(limit, &asked, reason, None);
                return Begin::Refuse(stage, response);
            }
        }
        Begin::Follow(stage)
    }
}

#[cold]
fn refuse(
    limit: &Limit,
    asked: &Asked,
    reason: Reason,
    wait: Option<std::time::Duration>,
) -> Box<Response<Bytes>> {
    limit.count_refusal(reason);
    let wait = wait.unwrap_or(limit.config.retry_after);
    Box::new(asked.refuse(reason, wait))
}

/// The state of [`StreamLimitLayer`] for one request.
pub struct StreamLimitStage {
    waiting: Option<Box<Waiting>>,
    /// The fields of the rate.
    fields: Option<Box<[(HeaderName, String); 2]>>,
    /// `None` if the request was refused. Dropped after the inner body, so that the next request is admitted only when
    /// that is gone.
    permit: Option<Arc<Permit>>,
}

struct Waiting {
    future: WaitFuture,
    asked: Asked,
}

impl StreamLimitStage {
    fn refused(fields: Option<Box<[(HeaderName, String); 2]>>) -> Self {
        Self {
            waiting: None,
            fields,
            permit: None,
        }
    }
}

impl Stage for StreamLimitStage {
    #[inline]
    fn poll_admission(
        &mut self,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(None);
        };
        let outcome = ready!(waiting.future.as_mut().poll(cx.task));
        let waiting = self.waiting.take();
        let refusal = match (outcome, waiting, self.permit.take()) {
            (Err(reason), Some(waiting), Some(permit)) => {
                Some(refuse(permit.limit(), &waiting.asked, reason, None))
            }
            (_, _, permit) => {
                self.permit = permit;
                None
            }
        };
        Poll::Ready(refusal)
    }

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        if let Some(fields) = self.fields.take() {
            rate::append(*fields, &mut head.headers);
        }
        let until_head = |permit: &Arc<Permit>| permit.limit().config.until_head;
        Poll::Ready(match self.permit.as_ref().is_none_or(until_head) {
            true => AfterHead::Leave,
            false => AfterHead::Stay,
        })
    }
}

impl fmt::Debug for StreamLimitStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamLimitStage")
            .field("waiting", &self.waiting.is_some())
            .field("permit", &self.permit.is_some())
            .finish_non_exhaustive()
    }
}
