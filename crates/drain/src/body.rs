//! The body that is counted until it is dropped.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Extensions;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, Fault, relay};

use crate::{admission::Word, shared::Shared};

/// One request in flight. Dropping it is the only way out, so nothing is counted down twice or not at all.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    /// Says at the end whether a drain ended the request.
    fault: Option<Fault>,
}

impl Guard {
    #[inline]
    pub(crate) fn enter(shared: &Arc<Shared>) -> Result<Self, Option<Word>> {
        shared.enter()?;
        Ok(Self::of(shared))
    }

    /// Counted although the drain refuses.
    pub(crate) fn hold(shared: &Arc<Shared>) -> Self {
        shared.admission.hold();
        Self::of(shared)
    }

    #[inline]
    fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            fault: None,
        }
    }

    /// Follows the fault of the request, which a layer outside has made, or of the response, which a layer inside has.
    #[inline]
    pub(crate) fn follow(&mut self, extensions: &Extensions) {
        if let Some(fault) = extensions.get::<Fault>() {
            self.fault = Some(fault.clone());
        }
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        self.shared.leave_request(self.fault.as_ref());
    }
}

pin_project! {
    /// The body inside, unchanged, or the document of a refusal. Counted until it is dropped.
    pub struct DrainBody<B> {
        #[pin]
        kind: Kind<B>,
        // after the body inside: the count falls when that is gone
        guard: Option<Guard>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Refusal { text: Option<Bytes> },
        Reset { done: bool },
    }
}

impl<B> DrainBody<B> {
    pub(crate) fn new(body: B, guard: Option<Guard>) -> Self {
        Self {
            kind: Kind::Inner { body },
            guard,
        }
    }

    pub(crate) fn refusal(text: Bytes, reset: bool) -> Self {
        let kind = match reset {
            true => Kind::Reset { done: false },
            false => Kind::Refusal {
                text: (!text.is_empty()).then_some(text),
            },
        };
        Self { kind, guard: None }
    }
}

impl<B> Body for DrainBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => relay(body.poll_frame(cx)),
            KindProj::Refusal { text } => Poll::Ready(text.take().map(Frame::data).map(Ok)),
            KindProj::Reset { done } => {
                let first = !std::mem::replace(done, true);
                let refused = || h2::Error::from(h2::Reason::REFUSED_STREAM).into();
                Poll::Ready(first.then(|| Err(refused())))
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Refusal { text } => text.is_none(),
            Kind::Reset { done } => *done,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Refusal { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Kind::Reset { .. } => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for DrainBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainBody")
            .field("counted", &self.guard.is_some())
            .finish_non_exhaustive()
    }
}
