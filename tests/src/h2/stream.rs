use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use tokio::time::{Instant, timeout};

use super::tap::Seen;
use crate::{Chunk, End, Head, Headers, Response};

/// A request that was sent and has no response yet. Dropping it cancels the stream.
#[derive(Debug)]
pub struct Stream {
    response: ResponseFuture,
    upload: SendStream<Bytes>,
    seen: Arc<Seen>,
    patience: Duration,
    sent_at: Instant,
}

impl Stream {
    pub(super) fn new(
        response: ResponseFuture,
        upload: SendStream<Bytes>,
        seen: Arc<Seen>,
        patience: Duration,
    ) -> Self {
        Self {
            response,
            upload,
            seen,
            patience,
            sent_at: Instant::now(),
        }
    }

    /// The stream id.
    pub fn id(&self) -> u32 {
        self.response.stream_id().as_u32()
    }

    /// Sends a piece of the request body. It is buffered until the flow control window allows sending it.
    ///
    /// # Errors
    /// How the stream ended, if it accepts no more data.
    pub fn send_data(&mut self, data: impl Into<Bytes>, ends: bool) -> Result<(), End> {
        self.upload
            .send_data(data.into(), ends)
            .map_err(|e| end_of(&e))
    }

    /// Resets the stream from the client's side.
    pub fn reset(mut self, reason: Reason) {
        self.upload.send_reset(reason);
    }

    /// Waits for the response head; the body is read through the [`Reply`].
    ///
    /// # Errors
    /// How the stream ended before a head.
    pub async fn reply(self) -> Result<Reply, End> {
        let id = self.id();
        let Self {
            response,
            upload,
            seen,
            patience,
            sent_at,
        } = self;
        let response = timeout(patience, response)
            .await
            .map_err(|_| End::Stalled)?
            .map_err(|e| end_of(&e))?;
        let (parts, body) = response.into_parts();
        let head = Head {
            version: parts.version,
            status: parts.status.as_u16(),
            reason: String::new(),
            headers: Headers::from(&parts.headers),
        };
        Ok(Reply {
            head,
            body,
            upload,
            seen,
            patience,
            sent_at,
            id,
            frames_passed: 0,
            chunks: Vec::new(),
            trailers: Headers::default(),
            end: None,
        })
    }
}

/// A response that is being read: its head is complete, its body is read frame by frame. Dropping it before the end
/// cancels the stream.
#[derive(Debug)]
pub struct Reply {
    head: Head,
    body: RecvStream,
    /// Held so that an unfinished upload is not cancelled while the response is read.
    upload: SendStream<Bytes>,
    seen: Arc<Seen>,
    patience: Duration,
    sent_at: Instant,
    id: u32,
    /// Number of the connection's frames before the next piece.
    frames_passed: usize,
    chunks: Vec<Chunk>,
    trailers: Headers,
    end: Option<End>,
}

impl Reply {
    /// Status and headers.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next non-empty DATA frame, or `None` at the end; [`finish`](Self::finish) returns how it ended. Releases the
    /// flow control window.
    pub async fn chunk(&mut self) -> Option<Chunk> {
        if self.end.is_some() {
            return None;
        }
        let next = timeout(self.patience, self.next())
            .await
            .unwrap_or(Err(End::Stalled));
        match next {
            Ok(chunk) => {
                self.chunks.push(chunk.clone());
                Some(chunk)
            }
            Err(end) => {
                self.end = Some(end);
                None
            }
        }
    }

    /// Reads to the end. Returns the whole response, including pieces already returned by [`chunk`](Self::chunk).
    pub async fn finish(mut self) -> Response {
        while self.chunk().await.is_some() {}
        Response {
            head: self.head,
            chunks: self.chunks,
            trailers: self.trailers,
            end: self
                .end
                .expect("chunk() gives None only after it has set the end"),
            sent_at: self.sent_at,
            raw: Bytes::new(),
        }
    }

    /// Sends a piece of the request body, for a bidirectional exchange.
    ///
    /// # Errors
    /// As [`Stream::send_data`].
    pub fn send_data(&mut self, data: impl Into<Bytes>, ends: bool) -> Result<(), End> {
        self.upload
            .send_data(data.into(), ends)
            .map_err(|e| end_of(&e))
    }

    /// Resets the stream from the client's side.
    pub fn reset(mut self, reason: Reason) {
        self.upload.send_reset(reason);
    }

    async fn next(&mut self) -> Result<Chunk, End> {
        while let Some(data) = self.body.data().await {
            let data = data.map_err(|e| end_of(&e))?;
            if data.is_empty() {
                continue;
            }
            self.body
                .flow_control()
                .release_capacity(data.len())
                .map_err(|e| end_of(&e))?;
            let at = self
                .seen
                .data_arrival(self.id, &mut self.frames_passed)
                .unwrap_or_else(Instant::now);
            return Ok(Chunk { data, at });
        }
        if let Some(trailers) = self.body.trailers().await.map_err(|e| end_of(&e))? {
            self.trailers = Headers::from(&trailers);
        }
        Err(End::EndStream)
    }
}

/// How the exchange ended, by an error of the h2 crate.
pub(super) fn end_of(error: &h2::Error) -> End {
    let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
    match error.get_io() {
        // The h2 crate reports an end of file in the middle of a stream as a broken pipe.
        Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => End::Truncated,
        Some(io) => std::io::Error::from(io.kind()).into(),
        None if error.is_remote() && error.is_go_away() => End::GoAway(reason),
        None if error.is_remote() && error.is_reset() => End::Reset(reason),
        None => End::Malformed(error.to_string()),
    }
}
