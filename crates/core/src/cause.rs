//! The cause of a failed stream, and how it is found in an error.

use std::{
    any::Any,
    error::Error,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{BoxError, Outcome, grpc, upload::ClientLeft};

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// A panic in the handler or in the body.
    Panic,
    /// A deadline or an idle timeout expired.
    Timeout,
    /// The server is draining and ended the stream.
    Drain,
    /// The body does not match its declared digest.
    DigestMismatch,
    /// The body ended before its declared length.
    ShortBody,
    /// The body ended without the last record of its [`Dialect`](crate::Dialect).
    Incomplete,
    /// The producer of the body was dropped without finishing it.
    Unfinished,
    /// An HTTP/2 stream that the body reads from was reset.
    Reset,
    /// An I/O error.
    Io,
    /// The client disconnected while it was sending the request body from which the response is made, see
    /// [`UploadBody`](crate::UploadBody). It has the name of a response that was dropped.
    ClientLeft,
    /// A client cancelled the stream for all its readers.
    Cancelled,
    /// The server that produced the stream died, and the stream ends after the records that it had stored.
    ProducerLost,
    /// The client stopped reading the response, or read it too slowly, and the server ended the request. The response
    /// cannot be sent, so the client does not learn why.
    SlowReader,
    /// The client sent the request body from which the response is made too slowly, and the server ended it.
    SlowUpload,
    /// The response was sent completely and has this gRPC status, which is not 0: in its trailers, in its head
    /// (Trailers-Only) or in a gRPC-Web trailer frame. The name is that of the status, for example `NOT_FOUND`.
    Grpc(u8),
    /// Any other failure.
    Other,
}

impl FaultKind {
    /// The value of OpenTelemetry's `error.type`; `_OTHER` is that convention's fallback.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Drain => "drain",
            Self::DigestMismatch => "digest_mismatch",
            Self::ShortBody => "short_body",
            Self::Incomplete => "incomplete",
            Self::Unfinished => "unfinished",
            Self::Reset => "reset",
            Self::Io => "io",
            Self::ClientLeft => "dropped",
            Self::Cancelled => "cancelled",
            Self::ProducerLost => "producer_lost",
            Self::SlowReader => "slow_reader",
            Self::SlowUpload => "slow_upload",
            Self::Grpc(code) => grpc::status_name(code),
            Self::Other => "_OTHER",
        }
    }

    /// The name that clients read in an error record. It is [`as_str`](Self::as_str), except for [`Other`](Self::Other):
    /// `internal`, because `_OTHER` has a meaning only in telemetry.
    #[must_use]
    pub const fn public_name(self) -> &'static str {
        match self {
            Self::Other => "internal",
            kind => kind.as_str(),
        }
    }

    /// The kind with this [name](Self::as_str). `None` if there is none, and for the names of gRPC statuses.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let kinds = [
            Self::Panic,
            Self::Timeout,
            Self::Drain,
            Self::DigestMismatch,
            Self::ShortBody,
            Self::Incomplete,
            Self::Unfinished,
            Self::Reset,
            Self::Io,
            Self::ClientLeft,
            Self::Cancelled,
            Self::ProducerLost,
            Self::SlowReader,
            Self::SlowUpload,
            Self::Other,
        ];
        kinds.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns whether the failure is an error of the server, as OpenTelemetry decides the status of a server span.
    ///
    /// A disconnected client, one that is too slow, and a drain are not. Of the gRPC statuses, those of
    /// [`grpc::is_server_error`] are; NOT_FOUND, for example, is not.
    #[must_use]
    pub const fn is_server_error(self) -> bool {
        match self {
            Self::Grpc(code) => grpc::is_server_error(code),
            kind => !matches!(kind.outcome(), Outcome::Aborted),
        }
    }

    /// The outcome of a stream with this failure.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Panic => Outcome::Panic,
            // Not a failure: the client was asked to reconnect, it disconnected, cancelled, or was too slow.
            Self::Drain
            | Self::ClientLeft
            | Self::Cancelled
            | Self::SlowReader
            | Self::SlowUpload => Outcome::Aborted,
            _ => Outcome::Error,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a stream failed: a kind for metrics and a message for the operator.
///
/// It is the error with which the layers fail a body, so that every other layer can read it. A handler's body may also
/// fail with it, to choose the kind that is reported:
///
/// ```
/// use tower_stream_core::{Cause, FaultKind};
///
/// let error = std::io::Error::other(Cause::new(FaultKind::Timeout, "the model gave no token for 30 s"));
/// assert_eq!(Cause::of(&error).kind(), FaultKind::Timeout);
/// ```
///
/// The message, which is also what `Display` writes, may contain the text of an error or a panic. It is for logs and
/// spans, not for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    kind: FaultKind,
    message: Arc<str>,
    retry_after: Option<Duration>,
}

impl Cause {
    /// Creates a cause of this kind.
    pub fn new(kind: FaultKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Adds the time after which the client should retry. A response for this cause has it as `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The time after which the client should retry, if the layer that failed the stream knows it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The cause of a body that ended before its declared length (both in bytes): [`FaultKind::ShortBody`].
    #[must_use]
    pub fn short_body(given: u64, declared: u64) -> Self {
        let message = format!("the body ended after {given} of {declared} bytes");
        Self::new(FaultKind::ShortBody, message)
    }

    /// Finds the kind and message of an error and its sources.
    ///
    /// A [`Cause`] anywhere in the chain takes precedence. Otherwise the timeouts of tower, tower-http (0.6 and
    /// 0.7) and tokio, `h2::Error` and `std::io::Error` are recognized (those of tokio and h2 with the features of
    /// these names, which are on by default).
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut kind = FaultKind::Other;
        let mut message = String::new();
        let mut retry_after = None;
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(known) = error.downcast_ref::<Self>() {
                retry_after = retry_after.or(known.retry_after);
            }
            let text = text(error);
            if let Some(known) = kind_of(error).or_else(|| kind_of_text(&text)) {
                // The outermost known kind wins, but a `Cause` overrides a kind that was only guessed.
                if kind == FaultKind::Other || error.is::<Self>() {
                    kind = known;
                }
            }
            if !message.contains(&text) {
                if !message.is_empty() {
                    message.push_str(": ");
                }
                message.push_str(&text);
            }
            next = source(error);
        }
        Self {
            retry_after,
            ..Self::new(kind, message)
        }
    }

    /// Finds the kind and message of a service's error, boxed or not.
    ///
    /// A [`BoxError`] does not implement `Error`, so a layer that required `Error` could not wrap tower's own layers.
    /// Boxed errors are read as by [`Cause::of`]; of other types, only known ones.
    #[must_use]
    pub fn of_service<E: fmt::Display + 'static>(error: &E) -> Self {
        let any: &dyn Any = error;
        if let Some(error) = any.downcast_ref::<BoxError>() {
            return Self::of(&**error);
        }
        if let Some(error) = any.downcast_ref::<Self>() {
            return error.clone();
        }
        if let Some(error) = any.downcast_ref::<io::Error>() {
            return Self::of(error);
        }
        #[cfg(feature = "tokio")]
        if let Some(error) = any.downcast_ref::<tokio::time::error::Elapsed>() {
            return Self::of(error);
        }
        Self::new(FaultKind::Other, text(error))
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The message for the operator.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Cause {}

/// The text of an error. A panic in its `Display` must not pass through layers that only report it.
fn text<E: fmt::Display + ?Sized>(error: &E) -> String {
    catch_unwind(AssertUnwindSafe(|| error.to_string())).unwrap_or_else(|panic| {
        // A panic payload may panic when it is dropped.
        std::mem::forget(panic);
        "an error whose Display panicked".to_owned()
    })
}

/// The reason with which a layer of this process wants the HTTP/2 stream to be reset: that of an `h2::Error` made from
/// a [`Reason`](https://docs.rs/h2/latest/h2/struct.Reason.html), anywhere in the source chain.
///
/// hyper resets a stream with the reason that it finds in the error of a body, so such an error (REFUSED_STREAM from a
/// drain, for example) must reach hyper. The reset or GOAWAY of *another* connection, of an upstream that a handler
/// reads from, is not such a reason: the client would take it for a statement about its own request. Without the
/// feature `h2`, returns `None`.
#[must_use]
pub fn chosen_reset(error: &(dyn Error + 'static)) -> Option<u32> {
    #[cfg(feature = "h2")]
    {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                let chosen = !error.is_reset() && !error.is_go_away();
                return error.reason().filter(|_| chosen).map(u32::from);
            }
            next = source(error);
        }
    }
    let _ = error;
    None
}

/// `io::Error::source` skips the wrapped error and returns the source of that one.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<FaultKind> {
    if let Some(error) = error.downcast_ref::<Cause>() {
        return Some(error.kind);
    }
    if error.is::<ClientLeft>() {
        return Some(FaultKind::ClientLeft);
    }
    #[cfg(feature = "tokio")]
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(FaultKind::Timeout);
    }
    #[cfg(feature = "h2")]
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return match (error.reason(), error.is_io()) {
            (Some(_), _) => Some(FaultKind::Reset),
            (None, true) => Some(FaultKind::Io),
            (None, false) => None,
        };
    }
    let error = error.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::TimedOut => Some(FaultKind::Timeout),
        // Only a wrapper: the wrapped error is more specific.
        io::ErrorKind::Other => None,
        _ => Some(FaultKind::Io),
    }
}

/// Timeouts whose type would require a dependency are recognized by their text: that of tower, and that of tower-http,
/// which is a different type in each version.
fn kind_of_text(text: &str) -> Option<FaultKind> {
    let timeouts = [
        // `tower::timeout::error::Elapsed`
        "request timed out",
        // `tower_http::timeout::TimeoutError`
        "data was not received within the designated timeout",
    ];
    timeouts.contains(&text).then_some(FaultKind::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_deep_in_the_chain_decides() {
        let inner = io::Error::other(Cause::new(FaultKind::Drain, "draining"));
        let outer = io::Error::new(io::ErrorKind::BrokenPipe, inner);
        let cause = Cause::of(&outer);
        assert_eq!(cause.kind(), FaultKind::Drain);
        assert_eq!(cause.message(), "draining");
    }

    #[test]
    fn a_kind_is_found_by_its_name() {
        for kind in [
            FaultKind::Timeout,
            FaultKind::Cancelled,
            FaultKind::ProducerLost,
        ] {
            assert_eq!(FaultKind::from_name(kind.as_str()), Some(kind));
        }
        assert_eq!(FaultKind::from_name("NOT_FOUND"), None);
    }

    #[test]
    fn io_errors_are_told_apart() {
        let kind = |kind: io::ErrorKind| Cause::of(&io::Error::new(kind, "x")).kind();
        assert_eq!(kind(io::ErrorKind::TimedOut), FaultKind::Timeout);
        assert_eq!(kind(io::ErrorKind::BrokenPipe), FaultKind::Io);
        assert_eq!(kind(io::ErrorKind::Other), FaultKind::Other);
    }

    #[test]
    fn an_error_that_cannot_be_shown_is_read_all_the_same() {
        #[derive(Debug)]
        struct Bad(Cause);
        impl fmt::Display for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("in Display")
            }
        }
        impl Error for Bad {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let cause = Cause::of(&Bad(Cause::new(FaultKind::Timeout, "late")));
        assert_eq!(cause.kind(), FaultKind::Timeout);
        assert_eq!(cause.message(), "an error whose Display panicked: late");
        let bad = Bad(Cause::new(FaultKind::Timeout, "late"));
        assert_eq!(Cause::of_service(&bad).kind(), FaultKind::Other);
    }

    #[cfg(feature = "h2")]
    #[test]
    fn a_reset_is_chosen_where_it_was_made_from_a_reason() {
        let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert_eq!(chosen_reset(&io::Error::other(refused)), Some(7));
        assert_eq!(chosen_reset(&io::Error::other("x")), None);
    }

    #[cfg(feature = "h2")]
    #[test]
    fn an_h2_reset_is_found_behind_a_wrapper() {
        let error = io::Error::other(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM));
        assert_eq!(Cause::of(&error).kind(), FaultKind::Reset);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeouts_of_tower_and_of_both_tower_https_are_timeouts() {
        use http_body_util::BodyExt;
        use tower::ServiceExt;
        let limit = std::time::Duration::from_secs(1);
        let hang = || crate::mock::MockBody::new([crate::mock::hang()]);

        let late = tower_http::timeout::DeadlineBody::new(limit, hang());
        let error = Box::pin(late).frame().await.unwrap().unwrap_err();
        assert_eq!(Cause::of(&*error).kind(), FaultKind::Timeout);

        let late = tower_http_06::timeout::TimeoutBody::new(limit, hang());
        let error = Box::pin(late).frame().await.unwrap().unwrap_err();
        assert_eq!(Cause::of(&*error).kind(), FaultKind::Timeout);

        let never = tower::service_fn(|()| std::future::pending::<Result<(), io::Error>>());
        let late = tower::timeout::Timeout::new(never, limit);
        let error: BoxError = late.oneshot(()).await.unwrap_err();
        assert_eq!(Cause::of_service(&error).kind(), FaultKind::Timeout);
    }

    #[test]
    fn a_stream_error_that_says_the_same_as_a_timeout_keeps_its_kind() {
        let ours = Cause::new(FaultKind::Drain, "request timed out");
        assert_eq!(Cause::of(&ours).kind(), FaultKind::Drain);
        assert_eq!(Cause::of(&io::Error::other(ours)).kind(), FaultKind::Drain);
    }

    #[test]
    fn what_a_service_failed_with_is_read_boxed_or_not() {
        let timeout = || io::Error::new(io::ErrorKind::TimedOut, "late");
        let boxed: BoxError = timeout().into();
        assert_eq!(Cause::of_service(&boxed).kind(), FaultKind::Timeout);
        assert_eq!(Cause::of_service(&timeout()).kind(), FaultKind::Timeout);
        let ours = Cause::new(FaultKind::Drain, "draining");
        assert_eq!(Cause::of_service(&ours), ours);
        let other = Cause::of_service(&"unwell");
        assert_eq!(
            (other.kind(), other.message()),
            (FaultKind::Other, "unwell")
        );
    }

    #[test]
    fn the_message_names_every_source_once() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("reading the export")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let cause = Cause::of(&Outer(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "early eof",
        )));
        assert_eq!(cause.message(), "reading the export: early eof");
        assert_eq!(cause.kind(), FaultKind::Io);
    }
}
