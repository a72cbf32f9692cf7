//! What flows from one stage to the next.

use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::BoxError;

/// One frame of a body, as stages pass it on: 40 bytes, where a [`Frame`] has over 100.
///
/// Whether it is the last one travels with it. Nobody has to ask the body inside `is_end_stream()` after each frame,
/// which through n layers would be n(n+1)/2 calls.
#[derive(Debug)]
pub enum Piece {
    /// A data frame.
    Data {
        /// The bytes.
        data: Bytes,
        /// Whether the body ends with them. A stage that adds something behind them passes `false`.
        last: bool,
    },
    /// Trailers, or a frame of a kind that is not known here. Boxed: it is rare and large.
    Other(Box<Frame<Bytes>>),
}

/// What a poll of a stage gives.
pub type Polled = Poll<Option<Result<Piece, BoxError>>>;

impl Piece {
    /// Data behind which more may come.
    #[must_use]
    pub fn open(data: Bytes) -> Self {
        Self::Data { data, last: false }
    }

    /// Trailers. They end the body.
    #[must_use]
    pub fn trailers(trailers: HeaderMap) -> Self {
        Self::Other(Box::new(Frame::trailers(trailers)))
    }

    /// The data of a data frame.
    #[must_use]
    pub fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Data { data, .. } => Some(data),
            Self::Other(_) => None,
        }
    }

    /// Whether the body ends with this piece: trailers, or data that say so.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Data { last, .. } => *last,
            Self::Other(frame) => frame.is_trailers(),
        }
    }

    /// The frame that a server takes.
    #[must_use]
    pub fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data { data, .. } => Frame::data(data),
            Self::Other(frame) => *frame,
        }
    }
}
