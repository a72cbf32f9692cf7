//! The frames that stages pass on.

use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::{BoxError, bytes_changed};

/// One frame of a body, as stages pass it on. It has 40 bytes; a [`Frame`] has over 100.
///
/// A data frame carries whether it is the last one. Otherwise each layer would call `is_end_stream()` on its inner body
/// after each frame, which are n(n+1)/2 calls for n layers.
#[derive(Debug)]
pub enum Piece {
    /// A data frame.
    Data {
        /// The bytes.
        data: Bytes,
        /// Whether the body ends with this frame. A stage that adds something after it passes `false`.
        last: bool,
    },
    /// Trailers, or an unknown kind of frame. Boxed because it is rare and large.
    Other(Box<Frame<Bytes>>),
}

/// The result of polling a stage.
pub type Polled = Poll<Option<Result<Piece, BoxError>>>;

impl Piece {
    /// Data after which more may follow.
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

    /// Returns whether the body ends with this piece: trailers, or data marked as last.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Data { last, .. } => *last,
            Self::Other(frame) => frame.is_trailers(),
        }
    }

    /// Removes from trailers what they say about the bytes of the body, because a layer has changed them (see
    /// [`bytes_changed`]). Returns false if these trailers are empty now, so that the body ends without any.
    #[must_use]
    pub fn bytes_changed(&mut self) -> bool {
        let trailers = match self {
            Self::Data { .. } => None,
            Self::Other(frame) => frame.trailers_mut(),
        };
        trailers.is_none_or(|trailers| {
            bytes_changed(trailers);
            !trailers.is_empty()
        })
    }

    /// Converts the piece into a frame for the server.
    #[must_use]
    pub fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data { data, .. } => Frame::data(data),
            Self::Other(frame) => *frame,
        }
    }
}
