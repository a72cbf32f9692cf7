//! Checks one response.

use std::{fmt, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{Response, StatusCode, Version};
use http_body::SizeHint;
use tower_stream_core::{
    ExpectedDigest, StreamEnd,
    wrapper::{AfterHead, Hints, Piece, Polled, ResponseHead, Source, Stage, StageContext},
};

use super::{
    Checker, Checking, Request, Unverifiable, bad_promise, instead_of, layer::Config, problem,
};
use crate::{fields, replay::Ahead};

/// The state of [`VerifyDigestLayer`](super::VerifyDigestLayer) for one request.
pub struct VerifyDigestStage(Box<Verified>);

/// Boxed: all stages of a stack share one allocation, which should stay small.
struct Verified {
    config: Arc<Config>,
    request: Option<Request>,
    version: Version,
    /// Whether only the end of the connection tells the client where the body ends (HTTP/1.0 without a length).
    unframed: bool,
    state: State,
}

enum State {
    /// No response head yet.
    Waiting,
    /// The body is being checked.
    Checking(Box<Checking>),
    /// The response was replaced by one of this layer, with this content.
    Replaced(Option<Bytes>),
}

impl VerifyDigestStage {
    pub(super) fn new<B>(config: &Arc<Config>, request: &http::Request<B>) -> Self {
        Self(Box::new(Verified {
            config: Arc::clone(config),
            request: Some(Request::of(request)),
            version: request.version(),
            unframed: false,
            state: State::Waiting,
        }))
    }
}

impl Stage for VerifyDigestStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let this = &mut *self.0;
        if let State::Waiting = this.state
            && let AfterHead::Leave = this.begin(head, up, cx)
        {
            return Poll::Ready(AfterHead::Leave);
        }
        this.look_ahead(head, up, cx).map(|()| AfterHead::Stay)
    }

    #[inline]
    fn on_poll(&mut self, _: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        match &mut self.0.state {
            State::Checking(checking) => checking.on_poll(cx),
            State::Replaced(content) => {
                let content = content.take();
                Some(Poll::Ready(
                    content.map(|data| Ok(Piece::Data { data, last: true })),
                ))
            }
            State::Waiting => None,
        }
    }

    #[inline]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        if let State::Checking(checking) = &mut self.0.state {
            checking.on_polled(polled, cx);
        }
    }

    fn on_end(&mut self, _: &StreamEnd) {
        if let State::Checking(checking) = &mut self.0.state {
            checking.report();
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        match &self.0.state {
            State::Checking(checking) => checking.has_more(),
            State::Replaced(content) => content.is_some(),
            State::Waiting => false,
        }
    }

    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        match &self.0.state {
            State::Checking(checking) => checking.size_hint(up),
            State::Replaced(content) => {
                SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64)
            }
            State::Waiting => up.size_hint(),
        }
    }
}

impl Verified {
    /// Reads the digests that the head declares. A response without one is not followed.
    fn begin(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> AfterHead {
        let Some(request) = self.request.take() else {
            return AfterHead::Leave;
        };
        let size = up.size_hint();
        let delivery = head.delivery(&request.method, &size);
        let whole = fields::is_whole(head.status, &head.headers);
        let promised = match delivery.is_bodiless() {
            true => None,
            false => self.config.promised(&head.headers, whole),
        };
        let Some(promised) = promised else {
            return AfterHead::Leave;
        };

        let declared = delivery.declared_length();
        let config = &self.config;
        let refused = config.refused(&promised, "response head", &request.uri);
        let mut checker = Checker::new(&promised, whole, declared, request, config);
        head.extensions.insert(checker.handle());
        if let Some(bad) = refused {
            checker.report();
            let id = cx.exchange.request_id();
            let answer = bad_promise(StatusCode::BAD_GATEWAY, bad, id);
            self.replace(head, answer, up, cx);
            return AfterHead::Stay;
        }
        if let Some(digest) = promised.iter().find_map(|promised| promised.digest) {
            let expected =
                ExpectedDigest::new(digest.algorithm(), digest.as_bytes(), &head.headers);
            head.extensions.insert(expected);
        }
        self.unframed = declared.is_none() && self.version <= Version::HTTP_10;
        self.state = State::Checking(Box::new(Checking::new(checker)));
        AfterHead::Stay
    }

    /// Decides what can be decided before the head is sent. Returns `Pending` only for a body whose end the client
    /// could not detect.
    fn look_ahead(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<()> {
        let State::Checking(checking) = &mut self.state else {
            return Poll::Ready(());
        };
        let buffer = self.config.buffer;
        let ahead = checking.look_ahead(up, cx, buffer);
        let unverifiable = self.unframed && !checking.is_judged();
        match ahead {
            Ahead::Pending if unverifiable && buffer > 0 => return Poll::Pending,
            Ahead::Open | Ahead::Pending if unverifiable => {
                let checker = checking.checker_mut();
                checker.give_up(Unverifiable::Http10WithoutLength);
            }
            Ahead::Failed if !checking.is_short_ahead() => {}
            Ahead::Open | Ahead::Pending => {}
            Ahead::Whole | Ahead::Failed => {
                if let Err(error) = checking.judge_ahead() {
                    cx.exchange.record(error.cause().clone());
                    checking.report();
                    let answer = problem(
                        StatusCode::BAD_GATEWAY,
                        "BadDigest",
                        "The response body does not match what was promised for it.",
                        cx.exchange.request_id(),
                    );
                    self.replace(head, answer, up, cx);
                }
            }
        }
        Poll::Ready(())
    }

    /// Replaces the response with `answer`.
    #[cold]
    fn replace(
        &mut self,
        head: &mut ResponseHead,
        answer: Response<Bytes>,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        let document = instead_of(head, answer);
        self.state = State::Replaced(Some(document));
        up.discard(cx);
    }
}

impl fmt::Debug for VerifyDigestStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyDigestStage").finish_non_exhaustive()
    }
}
