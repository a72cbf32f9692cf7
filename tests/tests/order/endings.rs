//! The ways in which a response can end, as the handler's script, and what is to be told of each.

use std::time::Duration;

use axum::{Router, body::Body, response::IntoResponse, routing::any};
use http::{HeaderMap, HeaderValue, Response};
use md5::{Digest as _, Md5};
use tower_stream::core::mock::{self, MockBody, Step};

use crate::layers::{Piece, Stack};

/// What kind of bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Sse,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Text, Self::Sse];

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Sse => "sse",
        }
    }

    /// All of a body that ends as it should, in two frames; of events, the second begins in the middle of one.
    pub(crate) fn frames(self) -> [&'static str; 2] {
        match self {
            Self::Text => ["alpha, ", "beta"],
            Self::Sse => ["data: 1\n\nda", "ta: 2\n\n"],
        }
    }

    /// What a body gives before it fails or hangs.
    pub(crate) fn beginning(self) -> &'static str {
        match self {
            Self::Text => "alpha, ",
            Self::Sse => "data: 1\n\n",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Frames, then `None`.
    Chunked,
    /// With a `Content-Length`.
    Length,
    /// With an exact `size_hint`, of which the server makes a `Content-Length`.
    Sized,
    /// `is_end_stream` is true after the last frame: an HTTP/1.1 server asks for no `None`.
    TellsEnd,
    Empty,
    Trailers,
    Head,
    HeadLength,
    /// The handler declares the digest of its body.
    Promise,
    /// The handler declares a digest that its body does not match.
    BrokenPromise,
    Error,
    ErrorFirst,
    PanicBody,
    PanicHandler,
    /// Shorter than its `Content-Length`.
    Short,
    /// Goes on until the client leaves.
    Hang,
}

impl Ending {
    pub(crate) const ALL: [Self; 16] = [
        Self::Chunked,
        Self::Length,
        Self::Sized,
        Self::TellsEnd,
        Self::Empty,
        Self::Trailers,
        Self::Head,
        Self::HeadLength,
        Self::Promise,
        Self::BrokenPromise,
        Self::Error,
        Self::ErrorFirst,
        Self::PanicBody,
        Self::PanicHandler,
        Self::Short,
        Self::Hang,
    ];

    pub(crate) fn path(self, kind: Kind) -> String {
        format!("/{}/{self:?}", kind.name())
    }

    pub(crate) fn is_head(self) -> bool {
        matches!(self, Self::Head | Self::HeadLength)
    }

    /// Whether all is well, as far as the handler is concerned.
    pub(crate) fn is_fine(self) -> bool {
        use Ending::*;
        matches!(
            self,
            Chunked | Length | Sized | TellsEnd | Empty | Trailers | Head | HeadLength | Promise
        )
    }

    /// The outcome and the error type that every layer must report for it.
    pub(crate) fn told(self, kind: Kind, stack: &Stack) -> &'static str {
        match self {
            Self::BrokenPromise if !stack.verifies(kind) => "complete",
            Self::BrokenPromise => "error digest_mismatch",
            Self::Error | Self::ErrorFirst => "error _OTHER",
            Self::PanicBody | Self::PanicHandler => "panic panic",
            Self::Short => "error short_body",
            Self::Hang => "aborted dropped",
            fine => {
                assert!(fine.is_fine());
                "complete"
            }
        }
    }

    /// Whether a client must receive a last record for this failure, and a complete response.
    pub(crate) fn has_last_record(self, kind: Kind, stack: &Stack) -> bool {
        let fails_in_the_open = matches!(self, Self::Error | Self::PanicBody)
            || self == Self::BrokenPromise && stack.verifies(kind);
        // The error writer does not see an error that arises outside of it. Of these layers, only the digest check
        // makes such an error.
        let writes = match self {
            Self::BrokenPromise => stack.is_inside(Piece::Verify, Piece::Errors),
            _ => stack.has(Piece::Errors),
        };
        // The error writer cannot write a record into a body that a layer inside of it has compressed.
        kind == Kind::Sse
            && fails_in_the_open
            && writes
            && !stack.is_inside(Piece::Gzip, Piece::Errors)
    }

    pub(crate) fn response(self, kind: Kind) -> Response<Body> {
        let [first, second] = kind.frames();
        let whole = || vec![mock::data(first), mock::pending(), mock::data(second)];
        let begun = |end: Step| vec![mock::data(kind.beginning()), flushed(), end];
        let steps = match self {
            Self::Empty => vec![],
            Self::Trailers => {
                let mut steps = whole();
                steps.push(mock::trailer("x-sum", "7"));
                steps
            }
            Self::Error => begun(mock::error("disk gone")),
            Self::ErrorFirst => vec![mock::error("disk gone")],
            Self::PanicBody => begun(mock::panic("scripted")),
            Self::PanicHandler => panic!("scripted"),
            Self::Short => vec![mock::data(kind.beginning())],
            Self::Hang => vec![mock::data(kind.beginning()), mock::hang()],
            _ => whole(),
        };
        let mut body = MockBody::new(steps);
        if self == Self::Sized {
            body = body.with_true_size();
        }
        if self == Self::TellsEnd {
            body = body.tells_end();
        }
        let sent = kind.frames().concat();
        let mut headers = HeaderMap::new();
        let mut set = |name, value: &str| {
            let value: HeaderValue = value.parse().expect("a header value");
            headers.insert(name, value);
        };
        set(
            "content-type",
            match kind {
                Kind::Text => "text/plain",
                Kind::Sse => "text/event-stream",
            },
        );
        match self {
            Self::Length | Self::HeadLength => set("content-length", &sent.len().to_string()),
            Self::Short => set("content-length", "99"),
            Self::Trailers => set("trailer", "x-sum"),
            Self::Promise => set("x-content-md5", &hex::encode(Md5::digest(&sent))),
            Self::BrokenPromise => set("x-content-md5", &hex::encode(Md5::digest("another"))),
            _ => {}
        }
        (headers, Body::new(body)).into_response()
    }
}

/// A pause in which what is ready is flushed, so that a client has the head before the end.
fn flushed() -> Step {
    mock::sleep(Duration::from_millis(2))
}

/// One route for each kind and ending, so that the metrics tell them apart.
pub(crate) fn routes() -> Router {
    let mut routes = Router::new();
    for kind in Kind::ALL {
        for ending in Ending::ALL {
            let handler = move || async move { ending.response(kind) };
            routes = routes.route(&ending.path(kind), any(handler));
        }
    }
    routes
}
