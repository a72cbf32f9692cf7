use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, Delivery};

use crate::{
    case::Case,
    panic::{catch, drop_caught},
    watch::Watch,
};

pin_project! {
    /// The body of [`ErrorWriter`](crate::ErrorWriter)'s responses.
    ///
    /// It gives the frames of the inner body, then, if that fails or panics, what the writer says. Whole records only
    /// are given of a stream whose records are known; a partial one is held until it ends. After its end, or after the
    /// failure, the inner body is not polled again; a failed one is dropped before the tail is given.
    ///
    /// `size_hint` counts what is held, and has no upper bound where a tail may follow.
    ///
    /// # Panics
    ///
    /// A body that is aborted waits a moment first, which needs tokio's timer to be enabled.
    pub struct ResponseBody<B> {
        #[pin]
        inner: Slot<B>,
        state: State,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if !matches!(this.state, State::Off) {
                this.inner.clear();
            }
        }
    }
}

// nearly every body is watched, and a box would be one more allocation a response
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum State {
    Off,
    Watched {
        watch: Watch,
    },
    /// The answer in place of a response that failed before its head.
    Written {
        data: Option<Bytes>,
    },
}

pin_project! {
    #[project = SlotProj]
    enum Slot<B> {
        Inline {
            #[pin]
            body: B
        },
        // polled before the head was released: it must not move any more
        Pinned { body: Pin<Box<B>> },
        Gone,
    }
}

impl<B> Slot<B> {
    #[inline]
    fn body(self: Pin<&mut Self>) -> Option<Pin<&mut B>> {
        match self.project() {
            SlotProj::Inline { body } => Some(body),
            SlotProj::Pinned { body } => Some(body.as_mut()),
            SlotProj::Gone => None,
        }
    }

    #[inline]
    fn body_ref(&self) -> Option<&B> {
        match self {
            Self::Inline { body } => Some(body),
            Self::Pinned { body } => Some(body),
            Self::Gone => None,
        }
    }

    fn clear(mut self: Pin<&mut Self>) {
        drop_caught("a response body", || self.set(Self::Gone));
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn off(body: B) -> Self {
        Self {
            inner: Slot::Inline { body },
            state: State::Off,
        }
    }

    pub(crate) fn written(data: Bytes) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self {
            inner: Slot::Gone,
            state: State::Written { data },
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
        mut case: Case,
        cx: &mut Context<'_>,
    ) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        case.join(&mut parts);
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
        let mut watch = Watch::new(case, &parts, delivery);
        if delivery.is_bodiless() || (ended && !watch.is_short()) || !first_poll {
            let inner = Slot::Inline { body };
            let state = State::Watched { watch };
            return Response::from_parts(parts, Self { inner, state });
        }
        let mut body = Box::pin(body);
        if watch.poll_first(body.as_mut(), cx) {
            let inner = Slot::Pinned { body };
            let state = State::Watched { watch };
            return Response::from_parts(parts, Self { inner, state });
        }
        drop_caught("a response body", || drop(body));
        watch.into_case().head(Some(parts)).map(Self::written)
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
        let mut this = self.project();
        let watch = match this.state {
            State::Watched { watch } => watch,
            State::Written { data } => {
                return Poll::Ready(data.take().map(|data| Ok(Frame::data(data))));
            }
            State::Off => {
                return match this.inner.body() {
                    Some(body) => body.poll_frame(cx).map_err(Into::into),
                    None => Poll::Ready(None),
                };
            }
        };
        if let Some(frame) = watch.take_stash() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if watch.is_open() {
            if let Some(body) = this.inner.as_mut().body() {
                let polled = watch.poll(body, cx);
                if !watch.has_failed() {
                    return polled;
                }
            }
            this.inner.clear();
            watch.fail();
        }
        watch.poll_terminal(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match (&self.state, self.inner.body_ref()) {
            (State::Watched { watch }, body) => watch.is_end_stream(body),
            (State::Written { data }, _) => data.is_none(),
            (State::Off, Some(body)) => body.is_end_stream(),
            (State::Off, None) => true,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match (&self.state, self.inner.body_ref()) {
            (State::Watched { watch }, body) => watch.size_hint(body),
            (State::Written { data }, _) => {
                SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64)
            }
            (State::Off, Some(body)) => body.size_hint(),
            (State::Off, None) => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
