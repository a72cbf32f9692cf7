//! Frames that go on as they are.

use std::task::Poll;

use bytes::Bytes;
use http_body::Frame;

use crate::BoxError;

/// What a body inside gave, given on: the frame as it is, an error boxed. For a wrapper that has nothing to do with it.
///
/// It is `map_err(Into::into)` at a third of the price. A [`Frame`] is over 100 bytes, and that copies all of them;
/// copied by 16 bytes at a time, right after they were written by 8, they wait for the stores. Here the data is looked
/// at, which has the compiler take it apart into registers, and framed again.
#[inline]
pub(crate) fn relay<E: Into<BoxError>>(
    polled: Poll<Option<Result<Frame<Bytes>, E>>>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    match polled {
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            // without this look: 4 ns instead of 0.6
            Ok(data) if data.is_empty() => Poll::Ready(Some(Ok(apart(Frame::data(data))))),
            Ok(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Err(other) => Poll::Ready(Some(Ok(apart(other)))),
        },
        Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
        Poll::Ready(None) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}

/// What is rare. Not inlined, or the compiler makes one copy of a whole frame of all the ways again.
#[cold]
#[inline(never)]
fn apart(frame: Frame<Bytes>) -> Frame<Bytes> {
    frame
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn given(polled: Result<Frame<Bytes>, std::io::Error>) -> Result<Frame<Bytes>, BoxError> {
        match relay(Poll::Ready(Some(polled))) {
            Poll::Ready(Some(given)) => given,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_goes_on() {
        for data in ["", "some"] {
            let frame = given(Ok(Frame::data(data.into()))).unwrap();
            assert_eq!(frame.into_data().unwrap(), data);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("a", "b".parse().unwrap());
        let frame = given(Ok(Frame::trailers(trailers.clone()))).unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers);
        let error = given(Err(std::io::Error::other("why"))).unwrap_err();
        assert_eq!(error.to_string(), "why");
        assert!(relay::<BoxError>(Poll::Pending).is_pending());
        assert!(matches!(
            relay::<BoxError>(Poll::Ready(None)),
            Poll::Ready(None)
        ));
    }
}
