//! One stream, and when each part of it arrived.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, Version, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tower_stream_core::{RecordFormat, StreamKind, boundary::Scanner, is_encoded};

use crate::{
    Args, Format, UsageError,
    client::{Address, Client, Unanswered},
    records::{Records, Word},
    request::request,
    stream::chain,
};

/// Reads one stream.
pub(super) struct Probe {
    args: Args,
    client: Client,
    lasting: Duration,
}

/// What arrived. Times count from the request.
pub(super) struct Seen {
    pub(super) version: Version,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) head: Duration,
    pub(super) chunks: Vec<Duration>,
    pub(super) events: Vec<Event>,
    pub(super) comments: Vec<Duration>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) end: End,
    pub(super) ended: Duration,
    /// The last record is an error, or announces the shutdown of the server.
    pub(super) says_why: bool,
}

/// An event with data.
pub(super) struct Event {
    pub(super) at: Duration,
    /// The time in its data, since 1970.
    pub(super) time: Option<Duration>,
}

/// How the stream ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    Clean,
    Cut(String),
    /// It was still open when the time was over.
    Open,
}

impl Probe {
    pub(super) async fn new(args: Args, lasting: Duration) -> Result<Self, UsageError> {
        args.check()?;
        let address = Address::of(&args).await;
        let address = address.map_err(|error| UsageError(format!("{}: {error}", args.url)))?;
        Ok(Self {
            client: Client::new(&args, address)?,
            args,
            lasting,
        })
    }

    pub(super) async fn run(self) -> Result<Seen, UsageError> {
        let start = Instant::now();
        let by = start + self.args.connect_timeout;
        let sent = self.client.send(request(&self.args), by).await;
        let (response, _connection) = sent.map_err(|why| self.unanswered(&why))?;
        let (head, mut body) = response.into_parts();
        let mut seen = Seen {
            version: head.version,
            status: head.status,
            headers: head.headers,
            head: start.elapsed(),
            chunks: Vec::new(),
            events: Vec::new(),
            comments: Vec::new(),
            trailers: None,
            end: End::Open,
            ended: Duration::ZERO,
            says_why: false,
        };
        let mut reading = Reading {
            scanner: Scanner::new(RecordFormat::Sse),
            open: Vec::new(),
            records: Records::new(Format::Auto, &seen.headers),
        };
        let until = start + self.lasting;
        // The content of anything else is not read: it may be large, or never end.
        seen.end = match seen.is_events() || is_encoded(&seen.headers) {
            false => End::Open,
            true => loop {
                match timeout_at(until, body.frame()).await {
                    Err(_) => break End::Open,
                    Ok(None) => break End::Clean,
                    Ok(Some(Err(error))) => break End::Cut(chain(&error)),
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(chunk) if chunk.is_empty() => {}
                        Ok(chunk) => reading.chunk(&mut seen, &chunk, start.elapsed()),
                        Err(frame) => seen.trailers = frame.into_trailers().ok(),
                    },
                }
            },
        };
        seen.ended = start.elapsed();
        seen.says_why = matches!(reading.records.word(), Word::Error | Word::Drain);
        Ok(seen)
    }

    fn unanswered(&self, why: &Unanswered) -> UsageError {
        let url = &self.args.url;
        let text = match why {
            Unanswered::NotConnected(error) => format!("{url}: {}", chain(error)),
            Unanswered::NotConnectedInTime => format!("{url}: no connection in time"),
            Unanswered::NotInTime => format!(
                "{url}: no response head in time: a proxy that holds back a whole response does this, and so does a handler \
                 that waits before it returns its head"
            ),
            Unanswered::Failed(error) => {
                let tls = "; if the server speaks TLS there, the URL starts with https://";
                let hint = match url.scheme_str() {
                    Some("http") => tls,
                    _ => "",
                };
                format!("{url}: no response: {}{hint}", chain(error))
            }
        };
        UsageError(text)
    }
}

struct Reading {
    scanner: Scanner,
    /// The start of an event that has not ended.
    open: Vec<u8>,
    records: Records,
}

/// A longer event is not searched for a time.
const LONGEST: usize = 64 * 1024;

impl Reading {
    fn chunk(&mut self, seen: &mut Seen, chunk: &Bytes, at: Duration) {
        seen.chunks.push(at);
        self.records.push(chunk);
        let mut from = 0;
        let mut scanner = self.scanner;
        for end in scanner.boundaries(chunk) {
            self.keep(&chunk[from..end]);
            from = end;
            let event = std::mem::take(&mut self.open);
            match data(&event) {
                Some(data) => seen.events.push(Event {
                    at,
                    time: time(&data),
                }),
                None if event.starts_with(b":") => seen.comments.push(at),
                None => {}
            }
        }
        self.scanner = scanner;
        self.keep(&chunk[from..]);
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LONGEST.saturating_sub(self.open.len());
        self.open.extend_from_slice(&part[..part.len().min(room)]);
    }
}

/// The data of an event. `None` if it has none.
fn data(event: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(event);
    let lines = text.split(['\n', '\r']);
    let lines: Vec<&str> = lines
        .filter_map(|line| line.strip_prefix("data:"))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The time in the data of an event: seconds, or milliseconds, since 1970.
fn time(data: &str) -> Option<Duration> {
    /// 2001-09-09 in milliseconds. As seconds, it is after the year 33000.
    const MILLISECONDS: f64 = 1e12;
    let json: serde_json::Value = serde_json::from_str(data.trim()).ok()?;
    let names = ["t", "ts", "at", "time", "timestamp"];
    let number = names.iter().find_map(|name| json.get(name)?.as_f64())?;
    let seconds = match number {
        MILLISECONDS.. => number / 1e3,
        1e9.. => number,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

impl Seen {
    pub(super) fn is_events(&self) -> bool {
        self.status.is_success() && StreamKind::of(&self.headers) == StreamKind::Sse
    }

    /// Fails if this is no stream of events that can be read.
    pub(super) fn must_be_events(self, url: &Uri) -> Result<Self, UsageError> {
        if self.is_events() {
            return Ok(self);
        }
        let get = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let status = self.status;
        Err(UsageError(
            match (status.is_redirection(), get(header::LOCATION)) {
                (true, Some(to)) => format!("{url} redirects to {to}: give that URL"),
                _ if !status.is_success() => format!("{url} answers {status}"),
                _ if is_encoded(&self.headers) => format!(
                    "{url} is encoded ({}) for a client that accepts no coding: some proxy compresses, whatever the client asks \
                 for",
                    get(header::CONTENT_ENCODING).unwrap_or_default()
                ),
                _ => format!(
                    "{url} is no stream of server-sent events: its Content-Type is {}",
                    get(header::CONTENT_TYPE).unwrap_or("missing")
                ),
            },
        ))
    }

    /// The time between the end and what arrived last before it.
    pub(super) fn silence(&self) -> Duration {
        self.ended - self.chunks.last().copied().unwrap_or(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_from_the_data_of_an_event() {
        let read = |event: &[u8]| data(event).and_then(|data| time(&data));
        let second = Duration::from_secs(1_700_000_000);
        assert_eq!(read(b"data: {\"t\":1700000000000}\n\n"), Some(second));
        assert_eq!(
            read(b"id: 1\ndata: {\"n\":1,\r\ndata:\"ts\":1700000000}\r\n\r\n"),
            Some(second)
        );
        for none in [
            "data: {\"t\":12}\n\n",
            "data: 1700000000\n\n",
            "data: x\n\n",
            ": c\n\n",
        ] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
    }
}
