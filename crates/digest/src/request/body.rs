//! The request body that is checked while the handler reads it, and the response body.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{
    BoxError, Cause, Exchange,
    wrapper::{Hints, Piece, Polled, Source, StageContext},
};

use crate::verify::{Checker, Checking};

pin_project! {
    /// Body of requests and responses that pass [`VerifyRequestDigestLayer`](crate::VerifyRequestDigestLayer).
    ///
    /// The frame that completes a request body is checked in the same poll in which it arrives. If the digest does not
    /// match, that frame is replaced by a [`DigestError`](crate::DigestError). All other frames pass at once. A body
    /// without a declared digest passes unchanged.
    pub struct VerifyBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Off { #[pin] body: B },
        Checked { upload: Box<Checked<B>> },
        Answer { document: Option<Box<Bytes>> },
    }
}

struct Checked<B> {
    checking: Checking,
    exchange: Exchange,
    body: Pin<Box<B>>,
}

impl<B> VerifyBody<B> {
    pub(super) fn off(body: B) -> Self {
        Self {
            kind: Kind::Off { body },
        }
    }

    pub(super) fn checked(body: B, checker: Checker, exchange: Exchange) -> Self {
        let upload = Box::new(Checked {
            checking: Checking::new(checker),
            exchange,
            body: Box::pin(body),
        });
        Self {
            kind: Kind::Checked { upload },
        }
    }

    pub(super) fn answer(document: Bytes) -> Self {
        let document = Some(Box::new(document));
        Self {
            kind: Kind::Answer { document },
        }
    }
}

impl<B> Body for VerifyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::Off { body } => body.poll_frame(task).map_err(Into::into),
            KindProjection::Answer { document } => {
                Poll::Ready(document.take().map(|json| Ok(Frame::data(*json))))
            }
            KindProjection::Checked { upload } => {
                let Checked {
                    checking,
                    exchange,
                    body,
                } = &mut **upload;
                let mut cx = StageContext::new(task, exchange);
                let polled = checking.poll(&mut Root(body), &mut cx);
                polled.map_ok(Piece::into_frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Off { body } => body.is_end_stream(),
            Kind::Answer { document } => document.is_none(),
            Kind::Checked { upload } => {
                let checking = &upload.checking;
                let ended = || upload.body.is_end_stream() && checking.is_judged();
                !checking.has_more() && (checking.has_failed() || ended())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Off { body } => body.size_hint(),
            Kind::Answer { document } => {
                SizeHint::with_exact(document.as_ref().map_or(0, |json| json.len() as u64))
            }
            Kind::Checked { upload } => upload.checking.size_hint(&RootHints(&*upload.body)),
        }
    }
}

impl<B> Drop for Checked<B> {
    /// Reports the outcome before the inner body is dropped. A panic of the callback is caught and ignored.
    fn drop(&mut self) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.checking.report()));
    }
}

/// The request body that the client sends.
struct Root<'a, B>(&'a mut Pin<Box<B>>);

impl<B> Source for Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        self.0.as_mut().poll_frame(cx.task).map(|polled| {
            polled.map(|frame| match frame.map(Frame::into_data) {
                Ok(Ok(data)) => Ok(Piece::Data {
                    data,
                    last: self.0.is_end_stream(),
                }),
                Ok(Err(other)) => Ok(Piece::Other(Box::new(other))),
                Err(error) => {
                    let error = error.into();
                    cx.exchange.record(Cause::of(&*error));
                    Err(error)
                }
            })
        })
    }

    fn discard(&mut self, _: &mut StageContext<'_, '_>) {}
}

impl<B: Body> Hints for Root<'_, B> {
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// The request body as in [`Root`], borrowed only to read its hints.
struct RootHints<'a, B>(&'a B);

impl<B: Body> Hints for RootHints<'_, B> {
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl<B> fmt::Debug for VerifyBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyBody")
            .field("checked", &matches!(self.kind, Kind::Checked { .. }))
            .finish_non_exhaustive()
    }
}
