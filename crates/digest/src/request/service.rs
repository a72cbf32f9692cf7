//! The service and its future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;
use tower_stream_core::{BoxError, Exchange, FaultKind, RequestId};

use super::{VerifyBody, VerifyRequestDigestLayer};
use crate::verify::{instead_of, problem};

/// The service of [`VerifyRequestDigestLayer`].
#[derive(Clone, Debug)]
pub struct VerifyRequestDigest<S> {
    pub(super) inner: S,
    pub(super) layer: VerifyRequestDigestLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for VerifyRequestDigest<S>
where
    S: Service<Request<VerifyBody<ReqBody>>, Response = Response<ResBody>>,
    ReqBody: Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
{
    type Response = Response<VerifyBody<ResBody>>;
    type Error = S::Error;
    type Future = VerifyRequestDigestFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let step = match self.layer.check(request) {
            Ok((request, upload)) => Step::Called {
                inner: self.inner.call(request),
                upload,
            },
            Err(answer) => Step::Refused {
                answer: Some(answer),
            },
        };
        VerifyRequestDigestFuture { step }
    }
}

/// A request body that is being read.
pub(super) struct Upload {
    /// The exchange of the request body. It is separate, because a failed upload is not a failed response.
    pub(super) exchange: Exchange,
    pub(super) id: Option<RequestId>,
}

impl Upload {
    /// The response to an upload that does not match its digest.
    pub(super) fn bad_digest(&self) -> Option<Response<Bytes>> {
        let cause = self
            .exchange
            .cause()
            .filter(|cause| cause.kind() == FaultKind::DigestMismatch)?;
        Some(problem(
            StatusCode::BAD_REQUEST,
            "BadDigest",
            cause.message(),
            self.id.as_ref(),
        ))
    }
}

pin_project! {
    /// The future of [`VerifyRequestDigest`].
    pub struct VerifyRequestDigestFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<F> {
        Called { #[pin] inner: F, upload: Option<Box<Upload>> },
        Refused { answer: Option<Box<Response<Bytes>>> },
    }
}

impl<F> fmt::Debug for VerifyRequestDigestFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyRequestDigestFuture")
            .finish_non_exhaustive()
    }
}

impl<F, B, E> Future for VerifyRequestDigestFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<VerifyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().step.project() {
            StepProjection::Refused { answer } => {
                let answer = answer.take().expect("not polled after it was ready");
                Ok(answer.map(VerifyBody::answer))
            }
            StepProjection::Called { inner, upload } => {
                let answered = ready!(inner.poll(cx));
                match upload.as_ref().and_then(|upload| upload.bad_digest()) {
                    None => answered.map(|response| response.map(VerifyBody::off)),
                    // Replaces an error of the handler too.
                    Some(answer) => Ok(match answered {
                        Err(_) => answer.map(VerifyBody::answer),
                        Ok(response) => {
                            let (mut head, _) = response.into_parts();
                            let document = instead_of(&mut head, answer);
                            Response::from_parts(head, VerifyBody::answer(document))
                        }
                    }),
                }
            }
        })
    }
}
