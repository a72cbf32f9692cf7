//! The layer's effect on one response.

use std::{fmt, pin::Pin, task::Poll};

use http::{Method, Request};
use http_body::SizeHint;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_stream_core::{
    BoxError, Exchange,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        longer_by,
    },
};

use crate::{
    CoalesceLayer,
    joined::{Joined, LARGE},
    layer::Config,
};

/// The state of [`CoalesceLayer`] for one request.
pub struct CoalesceStage(State);

enum State {
    Called {
        config: Config,
        method: Method,
    },
    /// Boxed: all stages of a request share one allocation, and most responses are not streams.
    Following(Box<Following>),
}

struct Following {
    config: Config,
    joined: Joined,
    /// What the body returned after the frames that were joined, and whether it is a heartbeat.
    next: Option<(Result<Piece, BoxError>, bool)>,
    /// Whether the body has ended after the joined frames. The next poll then returns the end, as without the layer. If
    /// the joined frame were marked as the last one, that poll would count as one after the end, and the stages would
    /// report the end before the body is dropped.
    ended: bool,
    /// Number of declared bytes that the body has not returned yet. At zero, the body is not polled again.
    undelivered: u64,
    /// Created at the first wait.
    linger: Option<Linger>,
}

/// The timer of the frames that are held.
struct Linger {
    sleep: Pin<Box<Sleep>>,
    is_set: bool,
}

impl Hook for CoalesceLayer {
    type Stage = CoalesceStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.config().is_none()
    }

    #[inline]
    fn on_request<B>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<CoalesceStage> {
        match self.config() {
            Some(config) => Begin::Follow(CoalesceStage(State::Called {
                config,
                method: request.method().clone(),
            })),
            None => Begin::Pass,
        }
    }
}

impl Stage for CoalesceStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let State::Called { config, method } = &self.0 else {
            return Poll::Ready(AfterHead::Leave);
        };
        let delivery = head.delivery(method, &up.size_hint());
        let declared = delivery.declared_length();
        // It may come as one frame.
        let short = declared.is_some_and(|length| length <= LARGE as u64);
        if delivery.is_bodiless() || short || up.is_end_stream() {
            return Poll::Ready(AfterHead::Leave);
        }
        self.0 = State::Following(Box::new(Following {
            config: *config,
            joined: Joined::new(),
            next: None,
            ended: false,
            undelivered: declared.unwrap_or(u64::MAX),
            linger: None,
        }));
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        match &mut self.0 {
            State::Following(following) if following.next.is_some() || following.ended => {
                following.go_on(up, cx)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        if let State::Following(following) = &mut self.0 {
            following.join(polled, up, cx);
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        match &self.0 {
            State::Following(following) => following.next.is_some() || !following.joined.is_empty(),
            State::Called { .. } => false,
        }
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        match &self.0 {
            State::Following(following) => longer_by(following.held(), &up.size_hint()),
            State::Called { .. } => up.size_hint(),
        }
    }
}

impl Following {
    /// Number of bytes that the body has returned and this stage has not.
    fn held(&self) -> u64 {
        let next = match &self.next {
            Some((Ok(Piece::Data { data, .. }), _)) => data.len(),
            _ => 0,
        };
        (next + self.joined.len()) as u64
    }

    /// Continues with what came after the last joined frame.
    #[inline(never)]
    fn go_on(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        let Some((next, heartbeat)) = self.next.take() else {
            return Some(Poll::Ready(None));
        };
        cx.set_heartbeat(heartbeat);
        let mut polled = Poll::Ready(Some(next));
        self.join(&mut polled, up, cx);
        Some(polled)
    }

    /// Joins the piece in `polled` with those that follow it and are ready.
    #[inline(never)]
    fn join(&mut self, polled: &mut Polled, up: &mut impl Source, cx: &mut StageContext<'_, '_>) {
        // By value: a piece that is edited in place would have to be dropped, although its bytes were taken.
        let mut next = std::mem::replace(polled, Poll::Pending);
        let mut is_idle = false;
        let last = loop {
            match next {
                Poll::Ready(Some(Ok(Piece::Data { data, last })))
                    if self.joined.takes(data.len(), self.config.max_bytes) =>
                {
                    self.undelivered = self.undelivered.saturating_sub(data.len() as u64);
                    self.joined
                        .push(data, cx.is_heartbeat(), self.config.max_bytes);
                    if last || self.undelivered == 0 || self.joined.frames >= self.config.max_frames
                    {
                        break last;
                    }
                    next = up.poll(cx);
                }
                next if self.joined.is_empty() => {
                    self.count(&next);
                    *polled = next;
                    return;
                }
                Poll::Pending if self.lingers(cx) => return,
                Poll::Pending => {
                    is_idle = true;
                    break false;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    break false;
                }
                Poll::Ready(Some(next)) => {
                    self.next = Some((next, cx.is_heartbeat()));
                    break false;
                }
            }
        };
        let (data, heartbeat) = self.joined.take();
        if is_idle {
            self.joined.shrink();
        }
        if let Some(linger) = &mut self.linger {
            linger.is_set = false;
        }
        cx.set_heartbeat(heartbeat);
        *polled = Poll::Ready(Some(Ok(Piece::Data { data, last })));
    }

    /// Counts the bytes of a frame that is returned unchanged. Called while no frame is held.
    #[inline(always)]
    fn count(&mut self, polled: &Polled) {
        if let Poll::Ready(Some(Ok(Piece::Data { data, .. }))) = polled {
            self.undelivered = self.undelivered.saturating_sub(data.len() as u64);
        }
    }

    /// Returns whether the held frames still wait for more.
    #[inline]
    fn lingers(&mut self, cx: &mut StageContext<'_, '_>) -> bool {
        !self.config.linger.is_zero() && self.waits(cx)
    }

    #[cold]
    fn waits(&mut self, cx: &mut StageContext<'_, '_>) -> bool {
        let longest = self.config.linger;
        let linger = self.linger.get_or_insert_with(|| Linger {
            sleep: Box::pin(sleep_until(Instant::now())),
            is_set: false,
        });
        if !linger.is_set {
            linger.is_set = true;
            linger.sleep.as_mut().reset(Instant::now() + longest);
        }
        linger.sleep.as_mut().poll(cx.task).is_pending()
    }
}

impl fmt::Debug for CoalesceStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Called { .. } => "called",
            State::Following(_) => "following",
        };
        f.debug_tuple("CoalesceStage").field(&state).finish()
    }
}
