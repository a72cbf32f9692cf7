//! One stream, from its connection to its end.

use std::future::Future;

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{
    Args, Ending, Http,
    client::{Client, Connection},
    digests::{Check, Digests},
    records::{Records, Word},
    tally::Tally,
};

/// When a stream must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// of this stream
    timeout: Option<Instant>,
    /// of the whole run
    run_end: Option<Instant>,
}

/// Runs one stream and counts all of it, its ending included.
pub(crate) async fn run(
    args: &Args,
    client: &Client,
    stall: bool,
    run_end: Option<Instant>,
    tally: &Mutex<Tally>,
) -> Ending {
    let started = Instant::now();
    let limits = Limits {
        timeout: args.timeout.map(|timeout| started + timeout),
        run_end,
    };
    let by = limits.sooner(started + args.connect_timeout);
    let mut connection = match within(by, client.connect()).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            return tally
                .lock()
                .count(Ending::ConnectFailure, || error.to_string());
        }
        None => {
            return tally
                .lock()
                .count(limits.overdue(Ending::ConnectFailure), || {
                    "no connection in time".to_owned()
                });
        }
    };
    let response = match within(by, connection.send(request(args))).await {
        Some(Ok(response)) => response,
        Some(Err(error)) => return tally.lock().count(Ending::NoResponse, || chain(&error)),
        None => {
            return tally.lock().count(limits.overdue(Ending::Timeout), || {
                "no response head in time".to_owned()
            });
        }
    };
    let (head, body) = response.into_parts();
    tally.lock().head(started.elapsed());
    match head.status.as_u16() {
        400..500 => {
            return tally
                .lock()
                .count(Ending::Status4xx, || head.status.to_string());
        }
        500.. => {
            return tally
                .lock()
                .count(Ending::Status5xx, || head.status.to_string());
        }
        _ => {}
    }
    let reading = Reading {
        records: Records::new(args.format, &head.headers),
        digests: Digests::new(&head.headers),
        started,
        last: None,
    };
    reading
        .read(
            args,
            &head.headers,
            body,
            limits,
            stall,
            (client, connection),
            tally,
        )
        .await
}

/// A response body that is being read.
#[derive(Debug)]
struct Reading {
    records: Records,
    digests: Digests,
    started: Instant,
    last: Option<Instant>,
}

impl Reading {
    #[allow(clippy::too_many_arguments)] // a loop and all it touches
    async fn read(
        mut self,
        args: &Args,
        head: &HeaderMap,
        mut body: Incoming,
        limits: Limits,
        stall: bool,
        (client, connection): (&Client, Connection),
        tally: &Mutex<Tally>,
    ) -> Ending {
        let mut trailers = None;
        loop {
            let now = self.last.unwrap_or(self.started);
            let by = limits.sooner(now + args.idle_timeout);
            let frame = match within(by, body.frame()).await {
                Some(Some(Ok(frame))) => frame,
                Some(Some(Err(error))) => {
                    return tally.lock().count(Ending::Cut, || chain(&error));
                }
                Some(None) => break,
                None => {
                    return tally.lock().count(limits.overdue(Ending::Timeout), || {
                        "no chunk in time".to_owned()
                    });
                }
            };
            match frame.into_data() {
                // the end of an h2 stream
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    self.chunk(&chunk, tally);
                    if stall {
                        // hold the connection, read no more
                        let end = limits.sooner(Instant::now() + args.idle_timeout);
                        tokio::time::sleep_until(end).await;
                        drop((body, connection));
                        return tally.lock().count(Ending::Stalled, String::new);
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
            }
        }
        tally.lock().duration(self.started.elapsed());
        let ending = match (self.records.word(), self.records.ends_open()) {
            (_, true) => Ending::HalfRecord,
            (Word::Error, _) => Ending::InBandError,
            (Word::Drain, _) => Ending::Drained,
            (Word::Nothing, _) => match self.digests.check(head, trailers.as_ref()) {
                Check::Wrong => Ending::DigestMismatch,
                Check::Right => {
                    tally.lock().verified();
                    Ending::Whole
                }
                Check::NoneAnnounced => Ending::Whole,
            },
        };
        client.give_back(connection);
        tally.lock().count(ending, String::new)
    }

    fn chunk(&mut self, chunk: &Bytes, tally: &Mutex<Tally>) {
        let now = Instant::now();
        let before = self.last.replace(now);
        let records = self.records.push(chunk);
        self.digests.push(chunk);
        let mut tally = tally.lock();
        match before {
            None => tally.first_chunk(now - self.started),
            Some(before) => tally.gap(now - before),
        }
        tally.chunk(chunk.len(), records);
    }
}

impl Limits {
    fn sooner(self, by: Instant) -> Instant {
        [self.timeout, self.run_end]
            .into_iter()
            .flatten()
            .fold(by, Instant::min)
    }

    /// A wait that ended with the run is no fault of the server's.
    fn overdue(self, otherwise: Ending) -> Ending {
        match self.run_end {
            Some(end) if Instant::now() >= end => Ending::Unfinished,
            _ => otherwise,
        }
    }
}

async fn within<F: Future>(by: Instant, future: F) -> Option<F::Output> {
    timeout_at(by, future).await.ok()
}

fn request(args: &Args) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(args.data.clone().unwrap_or_default()));
    let mut request = Request::new(body);
    *request.method_mut() = args.method();
    match args.http {
        Http::H1 => {
            let path = args.url.path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = path.parse().unwrap_or_default();
            if let Some(Ok(host)) = args.url.authority().map(|a| a.as_str().parse()) {
                request.headers_mut().insert(header::HOST, host);
            }
        }
        Http::H2 => {
            *request.uri_mut() = args.url.clone();
            *request.version_mut() = Version::HTTP_2;
        }
    }
    let headers = request.headers_mut();
    headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
    if args.data.is_some() {
        headers.insert(
            header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
    }
    for (name, value) in &args.headers {
        headers.insert(name.clone(), value.clone());
    }
    request
}

/// An error with its sources, which is where hyper and h2 say what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
