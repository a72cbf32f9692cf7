//! A paced body with one record per frame.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep};

/// Passes the first record at once and each later one an interval after the previous one.
///
/// "At once" is the first poll: an error in it occurs before the head is sent.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// A zero interval never waits.
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, wait: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.every.is_zero() {
            return Poll::Ready(());
        }
        match &mut self.wait {
            None => self.wait = Some(Box::pin(sleep(self.every))),
            Some(wait) => {
                ready!(wait.as_mut().poll(cx));
                // Counted from now: after a slow reader, records are delayed and do not come in a burst.
                wait.as_mut().reset(Instant::now() + self.every);
            }
        }
        Poll::Ready(())
    }
}

/// A body of `count` records (endless for `None`), each created by `make` from its number.
///
/// It ends right after the last record and declares no length.
pub(crate) struct Records<F> {
    make: F,
    pace: Pace,
    next: u64,
    count: Option<u64>,
}

impl<F> Records<F>
where
    F: FnMut(u64) -> Bytes + Unpin,
{
    pub(crate) fn new(count: Option<u64>, every: Duration, make: F) -> Self {
        Self {
            make,
            pace: Pace::new(every),
            next: 0,
            count,
        }
    }
}

impl<F> Drop for Records<F> {
    fn drop(&mut self) {
        tracing::debug!(made = self.next, "a stream of records is gone");
    }
}

impl<F> fmt::Debug for Records<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("next", &self.next)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl<F> Body for Records<F>
where
    F: FnMut(u64) -> Bytes + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.count.is_some_and(|count| this.next >= count) {
            return Poll::Ready(None);
        }
        ready!(this.pace.poll(cx));
        let record = (this.make)(this.next);
        tracing::debug!(n = this.next, bytes = record.len(), "made a record");
        this.next += 1;
        Poll::Ready(Some(Ok(Frame::data(record))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    fn letter(n: u64) -> Bytes {
        Bytes::from(vec![b'a' + u8::try_from(n % 26).unwrap()])
    }

    #[tokio::test(start_paused = true)]
    async fn records_come_an_interval_apart_and_the_end_at_once() {
        let start = Instant::now();
        let mut body = Records::new(Some(3), Duration::from_millis(500), letter);
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let bytes = frame.unwrap().into_data().unwrap();
            seen.push((bytes, start.elapsed().as_millis()));
        }
        seen.push((Bytes::new(), start.elapsed().as_millis()));
        assert_eq!(
            seen,
            [("a", 0), ("b", 500), ("c", 1000), ("", 1000)].map(|(b, t)| (Bytes::from(b), t))
        );
    }

    #[tokio::test]
    async fn the_first_record_is_there_at_the_first_poll() {
        let mut body = Records::new(None, Duration::from_millis(500), letter);
        assert!(body.frame().now_or_never().is_some());
        assert!(body.frame().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reader_gets_no_burst() {
        let mut body = Records::new(None, Duration::from_millis(100), letter);
        body.frame().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let late = Instant::now();
        for _ in 0..3 {
            body.frame().await;
        }
        assert_eq!(late.elapsed().as_millis(), 200);
    }

    #[tokio::test]
    async fn no_length_is_promised() {
        let body = Records::new(Some(3), Duration::ZERO, letter);
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
