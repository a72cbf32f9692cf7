//! A body that plays a script, for testing layers without a server.
//!
//! ```
//! use http_body_util::BodyExt;
//! use tower_stream_core::mock::{self, MockBody};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let body = MockBody::new([mock::data("a"), mock::pending(), mock::data("b"), mock::error("broken")]);
//! let probe = body.probe();
//! assert_eq!(body.collect().await.unwrap_err().to_string(), "broken");
//! assert!(probe.is_dropped());
//! # }
//! ```

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;

/// What a [`MockBody`] does in one poll.
pub enum Step {
    /// Returns a data frame.
    Data(Bytes),
    /// Returns a trailers frame.
    Trailers(HeaderMap),
    /// Returns `Pending` once and wakes the task at once.
    Pending,
    /// Returns `Pending` until this much time has passed (tokio's clock, so it can be paused).
    Sleep(Duration),
    /// Returns `Pending` forever.
    Hang,
    /// Fails.
    Error(BoxError),
    /// Panics with this message.
    Panic(&'static str),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "Data({data:?})"),
            Self::Trailers(trailers) => write!(f, "Trailers({trailers:?})"),
            Self::Pending => f.write_str("Pending"),
            Self::Sleep(duration) => write!(f, "Sleep({duration:?})"),
            Self::Hang => f.write_str("Hang"),
            Self::Error(error) => write!(f, "Error({error})"),
            Self::Panic(message) => write!(f, "Panic({message})"),
        }
    }
}

/// A data frame.
pub fn data(data: impl Into<Bytes>) -> Step {
    Step::Data(data.into())
}

/// A trailers frame with one trailer.
///
/// # Panics
///
/// Panics if `value` is not a valid header value.
#[must_use]
pub fn trailer(name: &'static str, value: &str) -> Step {
    let value = value.parse().expect("a header value");
    Step::Trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static(name),
        value,
    )]))
}

/// One `Pending` that wakes the task at once.
#[must_use]
pub fn pending() -> Step {
    Step::Pending
}

/// `Pending` for this long.
#[must_use]
pub fn sleep(duration: Duration) -> Step {
    Step::Sleep(duration)
}

/// `Pending` forever.
#[must_use]
pub fn hang() -> Step {
    Step::Hang
}

/// A failure: any error, or a message.
pub fn error(error: impl Into<BoxError>) -> Step {
    Step::Error(error.into())
}

/// A panic.
#[must_use]
pub fn panic(message: &'static str) -> Step {
    Step::Panic(message)
}

/// Where a [`MockBody`] panics in addition to its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicIn {
    /// In `size_hint`.
    SizeHint,
    /// In `is_end_stream`.
    IsEndStream,
    /// In its drop.
    Drop,
}

/// A body that plays a script and then returns `None`.
///
/// Like a stream, it has no size hint and `is_end_stream` is always false; [`MockBody::tells_end`] and
/// [`MockBody::with_size_hint`] change that.
#[derive(Debug)]
pub struct MockBody {
    steps: VecDeque<Step>,
    tells_end: bool,
    size: SizeHint,
    panic_in: Option<PanicIn>,
    sleeping: Option<Pin<Box<tokio::time::Sleep>>>,
    over: bool,
    probe: Probe,
}

impl MockBody {
    /// Creates a body that plays these steps, one per poll.
    #[must_use]
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            tells_end: false,
            size: SizeHint::default(),
            panic_in: None,
            sleeping: None,
            over: false,
            probe: Probe::default(),
        }
    }

    /// Makes `is_end_stream` true as soon as no step is left. An h1 server then does not poll for the `None`.
    #[must_use]
    pub fn tells_end(mut self) -> Self {
        self.tells_end = true;
        self
    }

    /// Sets the first `size_hint`, which may be wrong. Data frames are subtracted from both bounds.
    #[must_use]
    pub fn with_size_hint(mut self, size: SizeHint) -> Self {
        self.size = size;
        self
    }

    /// Makes `size_hint` exact and correct.
    #[must_use]
    pub fn with_true_size(self) -> Self {
        let length = |step: &Step| {
            if let Step::Data(data) = step {
                data.len() as u64
            } else {
                0
            }
        };
        let size = self.steps.iter().map(length).sum();
        self.with_size_hint(SizeHint::with_exact(size))
    }

    /// Makes the body panic there.
    #[must_use]
    pub fn panics_in(mut self, place: PanicIn) -> Self {
        self.panic_in = Some(place);
        self
    }

    /// Returns a probe, which shows afterwards what was done with the body.
    #[must_use]
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    fn panic_if(&self, place: PanicIn) {
        assert!(self.panic_in != Some(place), "scripted panic in {place:?}");
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.probe.0.polls.fetch_add(1, Ordering::Relaxed);
        if self.over {
            self.probe.0.polled_after_end.store(true, Ordering::Relaxed);
        }
        if let Some(sleep) = &mut self.sleeping {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleeping = None;
        }
        loop {
            return match self.steps.pop_front() {
                None => {
                    self.over = true;
                    Poll::Ready(None)
                }
                Some(Step::Data(data)) => {
                    let left = |bound: u64| bound.saturating_sub(data.len() as u64);
                    let mut size = SizeHint::new();
                    if let Some(upper) = self.size.upper() {
                        size.set_upper(left(upper));
                    }
                    size.set_lower(left(self.size.lower()));
                    self.size = size;
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(Step::Pending) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(Step::Sleep(duration)) => {
                    let mut sleep = Box::pin(tokio::time::sleep(duration));
                    if sleep.as_mut().poll(cx).is_ready() {
                        continue;
                    }
                    self.sleeping = Some(sleep);
                    Poll::Pending
                }
                Some(Step::Hang) => {
                    self.steps.push_front(Step::Hang);
                    Poll::Pending
                }
                Some(Step::Error(error)) => {
                    self.over = true;
                    Poll::Ready(Some(Err(error)))
                }
                Some(Step::Panic(message)) => {
                    self.over = true;
                    panic!("{message}")
                }
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.panic_if(PanicIn::IsEndStream);
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.panic_if(PanicIn::SizeHint);
        self.size
    }
}

impl Drop for MockBody {
    fn drop(&mut self) {
        self.probe.0.dropped.store(true, Ordering::Relaxed);
        if !std::thread::panicking() {
            self.panic_if(PanicIn::Drop);
        }
    }
}

/// What was done with a [`MockBody`].
#[derive(Clone, Debug, Default)]
pub struct Probe(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    polls: AtomicUsize,
    dropped: AtomicBool,
    polled_after_end: AtomicBool,
}

impl Probe {
    /// Number of polls.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.0.polls.load(Ordering::Relaxed)
    }

    /// Whether the body has been dropped.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Whether the body was polled after `None`, an error or a panic.
    #[must_use]
    pub fn polled_after_end(&self) -> bool {
        self.0.polled_after_end.load(Ordering::Relaxed)
    }
}
