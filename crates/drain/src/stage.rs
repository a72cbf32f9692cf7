//! What [`DrainLayer`] does with one request.

use std::{sync::Arc, task::Poll};

use http::Request;
use tower_stream_core::{
    Cause, Exchange, FaultKind, Refused, StreamEnd, with_head,
    wrapper::{AfterHead, Begin, Hook, Polled, ResponseHead, Source, Stage, StageContext},
};

use crate::{
    DrainLayer,
    admission::Word,
    close::{Closing, is_connect},
    farewell::message,
    refusal::{self, UnreadUpload},
    shared::Shared,
    token,
};

impl Hook for DrainLayer {
    type Stage = DrainStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    #[inline]
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<DrainStage> {
        let Some(shared) = &self.shared else {
            return Begin::Pass;
        };
        if !token::leave(shared, exchange, request.extensions_mut()) {
            return Begin::Pass;
        }
        let guard = match Guard::enter(shared) {
            Ok(guard) => guard,
            Err(word) => {
                // Under `serve`, a connection that was told to close cannot send another request, so this client has
                // not seen `Connection: close` or GOAWAY yet.
                let unknowing = shared.has_server() && shared.is_lenient();
                if !is_exempt(shared, request) && !unknowing {
                    shared.refuse(word);
                    return refused(shared, request, exchange);
                }
                let guard = Guard::hold(shared);
                if let Some(word) = word {
                    shared.left(word);
                }
                guard
            }
        };
        Begin::Follow(DrainStage {
            closing: Closing::of(request.version()),
            connect: is_connect(request.method()),
            reset: false,
            guard: Some(guard),
        })
    }
}

#[cold]
fn is_exempt<B>(shared: &Shared, request: &mut Request<B>) -> bool {
    let settings = &shared.settings;
    let path = request.uri().path();
    if settings.paths.iter().any(|exempt| exempt == path) {
        return true;
    }
    let Some(rule) = &settings.exempt else {
        return false;
    };
    with_head(request, |head| rule(head))
}

#[cold]
fn refused<B>(shared: &Shared, request: &Request<B>, exchange: &Exchange) -> Begin<DrainStage> {
    let (mut response, reset) = refusal::answer(
        &shared.settings,
        request.method(),
        request.version(),
        exchange.request_id(),
    );
    response.extensions_mut().insert(Refused);
    if refusal::announces_upload(request) {
        response.extensions_mut().insert(UnreadUpload);
    }
    if reset {
        // Otherwise the layers outside would report a failed body.
        exchange.record(Cause::new(FaultKind::Drain, message::MESSAGE));
    }
    let stage = DrainStage {
        closing: Closing::Never,
        connect: false,
        reset,
        guard: None,
    };
    Begin::Refuse(stage, Box::new(response))
}

/// The state of [`DrainLayer`] for one request.
#[derive(Debug)]
pub struct DrainStage {
    closing: Closing,
    connect: bool,
    /// Whether the body must fail, so that the stream is reset with REFUSED_STREAM.
    reset: bool,
    /// `None` if the request was refused. Dropped after the inner body, so that the count falls only when that is gone.
    guard: Option<Guard>,
}

impl Stage for DrainStage {
    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        // Checked now instead of at the call, because the drain may have started in between.
        if self.guard.as_ref().is_some_and(Guard::is_draining) {
            self.closing.close(self.connect, head);
        }
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.reset.then(|| self.fail())
    }

    fn on_end(&mut self, end: &StreamEnd) {
        if let Some(guard) = &mut self.guard {
            guard.ended_early =
                matches!(end, StreamEnd::Failed(cause) if cause.kind() == FaultKind::Drain);
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.reset
    }
}

impl DrainStage {
    #[cold]
    fn fail(&mut self) -> Polled {
        self.reset = false;
        let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
        Poll::Ready(Some(Err(refused.into())))
    }
}

/// One request in flight. Only dropping it counts the request down, so this happens exactly once.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    /// Whether the drain has ended the request.
    ended_early: bool,
}

impl Guard {
    #[inline]
    fn enter(shared: &Arc<Shared>) -> Result<Self, Option<Word>> {
        shared.enter()?;
        Ok(Self::of(shared))
    }

    /// Counts a request although the drain refuses requests.
    fn hold(shared: &Arc<Shared>) -> Self {
        shared.admission.hold();
        Self::of(shared)
    }

    #[inline]
    fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            ended_early: false,
        }
    }

    #[inline]
    fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        self.shared.leave_request(self.ended_early);
    }
}
