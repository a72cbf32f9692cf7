use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, Delivery, PlainProblem, relay};

use crate::{
    case::Case,
    panic::{catch, drop_caught},
    watch::Watch,
};

/// The body of [`ErrorWriter`](crate::ErrorWriter)'s responses.
///
/// It gives the frames of the inner body, then, if that fails or panics, what the writer says. Whole records only
/// are given of a stream whose records are known; a partial one is held until it ends. After its end, or after the
/// failure, the inner body is not polled again; a failed one is dropped before the tail is given.
///
/// `is_end_stream` is what the inner body said after its last frame. `size_hint` counts what is held, and has no upper
/// bound where a tail may follow.
///
/// The inner body is boxed, once a response: it is polled before the head is released, and must not move from then on.
///
/// # Panics
///
/// A body that is aborted waits a moment first, which needs tokio's timer to be enabled.
pub struct ResponseBody<B> {
    state: State<B>,
}

enum State<B> {
    // boxed too: a body that is moved through the layers outside is as small as the smallest that may be in its place
    Off(Pin<Box<B>>),
    Watched(Pin<Box<Watched<B>>>),
    /// The answer in place of a response that failed before its head.
    Written(Option<Bytes>),
}

pin_project! {
    /// One response that is watched. Boxed in the call: the body is to be polled before the head is released, and must
    /// not move from then on; and what is kept of the request need not move through every future outside.
    pub(crate) struct Watched<B> {
        pub(crate) watch: Watch,
        // `None` before the head, and once it has failed
        #[pin]
        body: Option<B>,
    }

    impl<B> PinnedDrop for Watched<B> {
        fn drop(this: Pin<&mut Self>) {
            drop_body(this.project().body);
        }
    }
}

impl<B> Watched<B> {
    pub(crate) fn new(case: Case) -> Pin<Box<Self>> {
        Box::pin(Self {
            watch: Watch::new(case),
            body: None,
        })
    }
}

fn drop_body<B>(mut body: Pin<&mut Option<B>>) {
    drop_caught("a response body", || body.set(None));
}

impl<B> ResponseBody<B> {
    pub(crate) fn off(body: B) -> Self {
        Self {
            state: State::Off(Box::pin(body)),
        }
    }

    pub(crate) fn written(data: Bytes) -> Self {
        Self {
            state: State::Written((!data.is_empty()).then_some(data)),
        }
    }
}

impl<B> ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Wraps the body of a response, or answers in its place if it fails in its first poll.
    pub(crate) fn begin(
        response: Response<B>,
        mut watched: Pin<Box<Watched<B>>>,
        cx: &mut Context<'_>,
    ) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        let mut this = watched.as_mut().project();
        let case = &mut this.watch.case;
        case.join(&mut parts);
        if parts.extensions.remove::<PlainProblem>().is_some() && case.fault.cause().is_some() {
            drop_caught("a response body", || drop(body));
            return case.head(Some(parts)).map(Self::written);
        }
        let opened = catch(|| {
            let delivery = Delivery::new(&case.request.method, parts.status, &parts.headers, &body);
            (delivery, body.is_end_stream())
        });
        let (delivery, ended) = match opened {
            Ok(opened) => opened,
            Err(payload) => {
                case.panicked(payload);
                drop_caught("a response body", || drop(body));
                return case.head(Some(parts)).map(Self::written);
            }
        };
        let first_poll = case.config.first_poll;
        this.watch.begin(&parts, delivery, ended);
        this.body.set(Some(body));
        let first_poll = first_poll && !delivery.is_bodiless() && !this.watch.inner_is_over();
        if let Some(body) = this.body.as_mut().as_pin_mut()
            && first_poll
            && !this.watch.poll_first(body, cx)
        {
            drop_body(this.body);
            if !this.watch.resets() {
                return this.watch.case.head(Some(parts)).map(Self::written);
            }
            this.watch.fail();
        }
        let state = State::Watched(watched);
        Response::from_parts(parts, Self { state })
    }
}

impl<B> Body for ResponseBody<B>
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
        let watched = match &mut self.get_mut().state {
            State::Watched(watched) => watched.as_mut().project(),
            State::Written(data) => {
                return Poll::Ready(data.take().map(|data| Ok(Frame::data(data))));
            }
            State::Off(body) => return relay(body.as_mut().poll_frame(cx)),
        };
        let (watch, mut body) = (watched.watch, watched.body);
        if let Some(frame) = watch.take_stash() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if watch.is_open() {
            if let Some(body) = body.as_mut().as_pin_mut() {
                let polled = watch.poll(body, cx);
                if !watch.has_failed() {
                    return polled;
                }
            }
            drop_body(body);
            watch.fail();
        }
        watch.poll_terminal(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Watched(watched) => watched.watch.is_end_stream(),
            State::Written(data) => data.is_none(),
            State::Off(body) => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Watched(watched) => watched.watch.size_hint(watched.body.as_ref()),
            State::Written(data) => {
                SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64)
            }
            State::Off(body) => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state: &dyn fmt::Debug = match &self.state {
            State::Off(_) => &"off",
            State::Watched(watched) => &watched.watch,
            State::Written(data) => data,
        };
        f.debug_struct("ResponseBody")
            .field("state", state)
            .finish_non_exhaustive()
    }
}
