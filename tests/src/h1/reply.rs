use bytes::Bytes;
use http::Version;
use tokio::time::Instant;

use super::Connection;
use crate::{Chunk, End, Head, Headers, Response};

/// A response that is being read: its head is complete, its body is read in pieces.
#[derive(Debug)]
pub struct Reply<'c> {
    connection: &'c mut Connection,
    head: Head,
    framing: Framing,
    start: usize,
    chunks: Vec<Chunk>,
    trailers: Headers,
    end: Option<End>,
    sent_at: Instant,
}

/// RFC 9112 section 6.3.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length { left: u64 },
    Chunked,
    UntilClose,
}

impl<'c> Reply<'c> {
    pub(super) async fn read(
        connection: &'c mut Connection,
        method: &str,
        sent_at: Instant,
    ) -> Result<Self, End> {
        let (start, head) = loop {
            let start = connection.taken;
            let head = read_head(connection).await?;
            // RFC 9110 section 15.2: an interim response is followed by the final one; 101 is final.
            if head.status >= 200 || head.status == 101 {
                break (start, head);
            }
        };
        let (framing, end) = framing(&head, method)?;
        Ok(Self {
            connection,
            head,
            framing,
            start,
            chunks: Vec::new(),
            trailers: Headers::default(),
            end,
            sent_at,
        })
    }

    /// Status line and headers.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The next piece of the body, or `None` at its end; [`finish`](Self::finish) returns how it ended.
    pub async fn chunk(&mut self) -> Option<Chunk> {
        if self.end.is_some() {
            return None;
        }
        match self.next().await {
            Ok(chunk) => {
                self.chunks.push(chunk.clone());
                if matches!(self.framing, Framing::Length { left: 0 }) {
                    self.end = Some(End::Length);
                }
                Some(chunk)
            }
            Err(end) => {
                self.end = Some(match (end, self.framing) {
                    (End::Closed, Framing::Length { .. } | Framing::Chunked) => End::Truncated,
                    (end, _) => end,
                });
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
            raw: Bytes::copy_from_slice(
                &self.connection.received[self.start..self.connection.taken],
            ),
        }
    }

    async fn next(&mut self) -> Result<Chunk, End> {
        match self.framing {
            Framing::Chunked => self.next_chunked().await,
            Framing::UntilClose => self.take_available(usize::MAX).await,
            Framing::Length { left } => {
                let chunk = self
                    .take_available(usize::try_from(left).unwrap_or(usize::MAX))
                    .await?;
                self.framing = Framing::Length {
                    left: left - chunk.data.len() as u64,
                };
                Ok(chunk)
            }
        }
    }

    async fn take_available(&mut self, limit: usize) -> Result<Chunk, End> {
        if self.connection.taken == self.connection.received.len() {
            self.connection.fill().await?;
        }
        let available = self.connection.received.len() - self.connection.taken;
        Ok(self.take(available.min(limit)))
    }

    fn take(&mut self, len: usize) -> Chunk {
        let start = self.connection.taken;
        self.connection.taken += len;
        let data = Bytes::copy_from_slice(&self.connection.received[start..start + len]);
        Chunk {
            data,
            at: self.connection.arrival(start + len),
        }
    }

    /// RFC 9112 section 7.1. The cursor advances only over complete chunks, so that the rest of an aborted body stays
    /// visible.
    async fn next_chunked(&mut self) -> Result<Chunk, End> {
        let line = read_line(self.connection, self.connection.taken).await?;
        let size = line.text.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| End::Malformed(format!("chunk size {:?}", line.text)))?;
        if size == 0 {
            let (trailers, next) = read_fields(self.connection, line.next).await?;
            self.connection.taken = next;
            self.trailers = trailers;
            return Err(End::LastChunk);
        }
        while self.connection.received.len() < line.next + size + 2 {
            self.connection.fill().await?;
        }
        let after = &self.connection.received[line.next + size..line.next + size + 2];
        if after != b"\r\n" {
            return Err(End::Malformed(format!(
                "{after:?} after a chunk of {size} bytes"
            )));
        }
        self.connection.taken = line.next;
        let chunk = self.take(size);
        self.connection.taken += 2;
        Ok(chunk)
    }
}

fn framing(head: &Head, method: &str) -> Result<(Framing, Option<End>), End> {
    let connected = method == "CONNECT" && (200..300).contains(&head.status);
    if method == "HEAD" || connected || matches!(head.status, 101 | 204 | 304) {
        return Ok((Framing::Length { left: 0 }, Some(End::NoBody)));
    }
    let lengths: Vec<_> = head.headers.all("content-length").collect();
    match (head.headers.get("transfer-encoding"), lengths.as_slice()) {
        (Some(coding), [])
            if coding.eq_ignore_ascii_case("chunked") && head.version == Version::HTTP_11 =>
        {
            Ok((Framing::Chunked, None))
        }
        (None, []) => Ok((Framing::UntilClose, None)),
        (None, [length]) => {
            let left = length
                .parse()
                .map_err(|_| End::Malformed(format!("content-length {length:?}")))?;
            Ok((Framing::Length { left }, (left == 0).then_some(End::Length)))
        }
        (coding, lengths) => Err(End::Malformed(format!(
            "{:?} with transfer-encoding {coding:?} and content-length {lengths:?}",
            head.version
        ))),
    }
}

async fn read_head(connection: &mut Connection) -> Result<Head, End> {
    let start = connection.taken;
    let line = match read_line(connection, start).await {
        Err(End::Closed) if connection.received.len() > start => return Err(End::Truncated),
        line => line?,
    };
    let malformed = || End::Malformed(format!("status line {:?}", line.text));
    let (version, rest) = line.text.split_once(' ').ok_or_else(malformed)?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let version = match version {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/1.1" => Version::HTTP_11,
        _ => return Err(malformed()),
    };
    let status = status
        .parse()
        .ok()
        .filter(|status| (100..1000).contains(status))
        .ok_or_else(malformed)?;
    let (headers, next) = read_fields(connection, line.next)
        .await
        .map_err(|end| match end {
            End::Closed => End::Truncated,
            end => end,
        })?;
    connection.taken = next;
    Ok(Head {
        version,
        status,
        reason: reason.to_owned(),
        headers,
    })
}

/// Fields from offset `at` up to and past the empty line.
async fn read_fields(connection: &mut Connection, mut at: usize) -> Result<(Headers, usize), End> {
    let mut fields = Headers::default();
    loop {
        let line = read_line(connection, at).await?;
        at = line.next;
        if line.text.is_empty() {
            return Ok((fields, at));
        }
        match line.text.split_once(':') {
            Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                fields
                    .0
                    .push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
            }
            _ => return Err(End::Malformed(format!("field line {:?}", line.text))),
        }
    }
}

struct Line {
    text: String,
    /// The offset after its CRLF.
    next: usize,
}

/// The CRLF-terminated line at offset `at` (a bare LF does not end a line here).
async fn read_line(connection: &mut Connection, at: usize) -> Result<Line, End> {
    loop {
        let rest = &connection.received[at..];
        if let Some(len) = rest.windows(2).position(|pair| pair == b"\r\n") {
            return Ok(Line {
                text: String::from_utf8_lossy(&rest[..len]).into_owned(),
                next: at + len + 2,
            });
        }
        connection.fill().await?;
    }
}
