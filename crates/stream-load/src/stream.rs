//! One stream, from its connection to its end.

use std::error::Error;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{sync::SemaphorePermit, time::Instant};

use crate::{
    Ending, Format, Stream,
    client::{Unanswered, within},
    digests::{Check, Digests},
    records::{Records, Word},
    request::request,
    run::Shared,
    tally::Start,
};

/// Runs one stream and counts it.
pub(crate) async fn run(
    shared: &Shared,
    start: Start,
    opening: SemaphorePermit<'_>,
    stall: bool,
) -> Ending {
    shared.tally.lock().begin(start);
    let mut following = Following {
        shared,
        stall,
        limits: Limits {
            timeout: shared.args.timeout.map(|timeout| start.at + timeout),
            run_end: shared.run_end,
        },
        start,
        first: None,
        last: None,
        bytes: 0,
        records: Records::new(Format::Raw, &HeaderMap::new()),
    };
    let end = match following.follow(opening).await {
        Ok(end) | Err(end) => end,
    };
    shared.watch.ended(&following.seen(&end));
    shared.tally.lock().count(end.ending, end.reason);
    end.ending
}

/// A stream in progress.
struct Following<'a> {
    shared: &'a Shared,
    stall: bool,
    limits: Limits,
    start: Start,
    first: Option<Instant>,
    last: Option<Instant>,
    bytes: u64,
    records: Records,
}

/// The ending of a stream and its reason.
struct End {
    ending: Ending,
    reason: String,
}

/// A response body with the state needed to read it.
struct Body {
    head: HeaderMap,
    frames: Incoming,
    trailers: Option<HeaderMap>,
    digests: Digests,
}

/// The times at which a stream must end.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Limit of this stream.
    timeout: Option<Instant>,
    /// Limit of the whole run.
    run_end: Option<Instant>,
}

impl Following<'_> {
    /// Reads the stream to its end. `Ok` when the server ended the body, `Err` for every other end.
    async fn follow(&mut self, opening: SemaphorePermit<'_>) -> Result<End, End> {
        let shared = self.shared;
        let by = self
            .limits
            .sooner(self.start.at + shared.args.connect_timeout);
        let sent = shared.client.send(request(&shared.args), by).await;
        drop(opening);
        let (response, connection) = sent.map_err(|why| self.unanswered(why))?;
        let (head, frames) = response.into_parts();
        shared.tally.lock().head(self.start);
        match head.status.as_u16() {
            300..400 => return Err(End::new(Ending::Unexpected, head.status.to_string())),
            400..500 => return Err(End::new(Ending::Status4xx, head.status.to_string())),
            500.. => return Err(End::new(Ending::Status5xx, head.status.to_string())),
            _ => {}
        }
        self.records = Records::new(shared.args.format, &head.headers);
        self.records.expect_last_record_of(shared.args.dialect);
        let mut body = Body {
            digests: Digests::new(&head.headers, head.version),
            head: head.headers,
            frames,
            trailers: None,
        };
        self.read(&mut body).await?;
        shared.tally.lock().duration(self.start);
        shared.client.give_back(connection);
        Ok(self.judge(body))
    }

    fn unanswered(&self, why: Unanswered) -> End {
        match why {
            Unanswered::NotConnected(error) => End::new(Ending::ConnectFailure, chain(&error)),
            Unanswered::NotConnectedInTime => self.limits.overdue(
                Ending::ConnectFailure,
                "no connection in time",
                "not connected yet",
            ),
            Unanswered::NotInTime => self.limits.overdue(
                Ending::Timeout,
                "no response head in time",
                "no response head yet",
            ),
            Unanswered::Failed(error) => {
                let ending = unprocessed(&error).unwrap_or(Ending::NoResponse);
                End::new(ending, chain(&error))
            }
        }
    }

    async fn read(&mut self, body: &mut Body) -> Result<(), End> {
        let idle = self.shared.args.idle_timeout;
        loop {
            let by = self
                .limits
                .sooner(self.last.unwrap_or(self.start.at) + idle);
            let frame = match within(by, body.frames.frame()).await {
                Some(Some(Ok(frame))) => frame,
                Some(Some(Err(error))) => return Err(End::new(Ending::Cut, chain(&error))),
                Some(None) => return Ok(()),
                None => {
                    let running = self.first.map_or("no chunk yet", |_| "");
                    return Err(self
                        .limits
                        .overdue(Ending::Timeout, "no chunk in time", running));
                }
            };
            match frame.into_data() {
                // h2 reports the end of a stream as an empty chunk.
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    body.digests.push(&chunk);
                    self.chunk(&chunk);
                    if self.stall {
                        // Keep the connection open without reading.
                        tokio::time::sleep_until(self.limits.sooner(Instant::now() + idle)).await;
                        return Err(End::new(Ending::Stalled, String::new()));
                    }
                }
                Err(frame) => body.trailers = frame.into_trailers().ok().or(body.trailers.take()),
            }
        }
    }

    fn chunk(&mut self, chunk: &Bytes) {
        let now = Instant::now();
        let before = self.last.replace(now);
        self.bytes += chunk.len() as u64;
        let records = self.records.push(chunk);
        let mut tally = self.shared.tally.lock();
        tally.chunk(chunk.len(), records);
        match before {
            Some(before) => tally.gap(now - before),
            None => {
                tally.first_chunk(self.start);
                drop(tally);
                self.first = Some(now);
                self.shared.watch.opened();
            }
        }
    }

    /// Classifies a body that the server ended without an error.
    fn judge(&self, body: Body) -> End {
        let ending = match self.records.word() {
            _ if self.records.ends_open() => Ending::HalfRecord,
            Word::Broken => Ending::HalfRecord,
            Word::Error => Ending::InBandError,
            Word::Drain => Ending::Drained,
            Word::Nothing if self.records.are_incomplete() => Ending::Incomplete,
            Word::Nothing => match body.digests.check(&body.head, body.trailers.as_ref()) {
                Check::Wrong => Ending::DigestMismatch,
                Check::Right => {
                    self.shared.tally.lock().verified();
                    return self.expected();
                }
                Check::NoneAnnounced => return self.expected(),
            },
        };
        End::new(ending, String::new())
    }

    /// Returns `Whole`, or `Unexpected` when the body does not meet an `--expect-..` option.
    fn expected(&self) -> End {
        let args = &self.shared.args;
        let (bytes, records) = (self.bytes, self.records.count());
        let last = self.records.last();
        let found = if args.expect_bytes.is_some_and(|expected| expected != bytes) {
            format!("{bytes} bytes")
        } else if args
            .expect_records
            .is_some_and(|expected| expected != records)
        {
            format!("{records} records")
        } else if args
            .expect_last
            .as_ref()
            .is_some_and(|text| !contains(last, text))
        {
            "its last record does not hold the text".to_owned()
        } else {
            return End::new(Ending::Whole, String::new());
        };
        End::new(Ending::Unexpected, found)
    }

    fn seen<'a>(&'a self, end: &'a End) -> Stream<'a> {
        Stream {
            ending: end.ending,
            reason: &end.reason,
            started: self.start.at,
            first_chunk: self.first,
            last_chunk: self.last,
            bytes: self.bytes,
            records: self.records.count(),
            farewells: self.records.farewells(),
            last_record: self.records.last(),
        }
    }
}

impl End {
    fn new(ending: Ending, reason: String) -> Self {
        Self { ending, reason }
    }
}

impl Limits {
    fn sooner(self, by: Instant) -> Instant {
        [self.timeout, self.run_end]
            .into_iter()
            .flatten()
            .fold(by, Instant::min)
    }

    /// The ending of a stream that reached a time limit: `otherwise` with the reason `late`, or `Running` when the
    /// limit was the end of the run.
    fn overdue(self, otherwise: Ending, late: &str, running: &str) -> End {
        match self.run_end {
            Some(end) if Instant::now() >= end => End::new(Ending::Running, running.to_owned()),
            _ => End::new(otherwise, late.to_owned()),
        }
    }
}

/// Recognizes the two ways in which an HTTP/2 server says that it did not process a request (RFC 9113 section 8.7).
fn unprocessed(error: &hyper::Error) -> Option<Ending> {
    let error: &h2::Error = sources(error).find_map(|error| error.downcast_ref())?;
    match error.reason()? {
        h2::Reason::NO_ERROR if error.is_remote() && error.is_go_away() => Some(Ending::GoneAway),
        h2::Reason::REFUSED_STREAM if error.is_remote() && error.is_reset() => {
            Some(Ending::Refused)
        }
        _ => None,
    }
}

/// The error with all its sources: hyper and h2 put the details there.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = sources(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn contains(record: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    text.is_empty() || record.windows(text.len()).any(|window| window == text)
}
