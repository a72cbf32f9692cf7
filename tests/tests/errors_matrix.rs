//! The panic matrix: every cell of the table in the documentation of `tower-stream-errors`, over real sockets.

use std::{collections::BTreeMap, convert::Infallible, error::Error, io::Read, time::Duration};

use e2e::{End, Protocol, Request, Response, h2, serve};
use futures_util::future::join_all;
use tower::{ServiceBuilder, service_fn};
use tower_http::compression::{CompressionLayer, predicate::NotForContentType};
use tower_stream_core::mock::{self, MockBody, PanicIn};
use tower_stream_errors::ErrorWriterLayer;

type Outcome = Result<(), Box<dyn Error>>;

const TABLE: &str = include_str!("../../crates/errors/src/matrix.md");

const PLACES: [&str; 6] = [
    "call",
    "future",
    "first poll",
    "later poll",
    "size_hint",
    "drop",
];

/// Name, content type, and a record.
const KINDS: [(&str, &str, &str); 5] = [
    ("sse", "text/event-stream", "data: 1\n\n"),
    ("jsonl", "application/x-ndjson", "{\"n\":1}\n"),
    ("json", "application/json", "[1,2,"),
    ("bytes", "application/octet-stream", "0123456789"),
    ("grpc", "application/grpc", "\0\0\0\0\x01a"),
];

const TOLD: &str =
    r#"{"error":{"kind":"panic","message":"the response failed on the server","status":500}}"#;

/// The cells of the documented table, by (place, body, length) and column.
fn documented() -> BTreeMap<(String, String, String), [String; 6]> {
    let mut cells = BTreeMap::new();
    let rows = TABLE.lines().filter(|line| line.starts_with("| "));
    for row in rows.skip(1) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [places, kinds, lengths, wanted @ ..] = columns.as_slice() else {
            panic!("{row}");
        };
        let wanted: [String; 6] = std::array::from_fn(|i| wanted[i].to_owned());
        for place in places.split(", ") {
            for kind in kinds.split(", ") {
                for length in lengths.split(", ") {
                    let cell = (place.to_owned(), kind.to_owned(), length.to_owned());
                    let before = cells.insert(cell, wanted.clone());
                    assert!(before.is_none(), "twice in the table: {row}");
                }
            }
        }
    }
    assert_eq!(cells.len(), PLACES.len() * KINDS.len() * 2);
    cells
}

#[derive(Clone, Debug)]
struct Cell {
    place: &'static str,
    kind: usize,
    declared: bool,
}

impl Cell {
    fn all() -> impl Iterator<Item = Self> {
        PLACES.into_iter().flat_map(|place| {
            (0..KINDS.len()).flat_map(move |kind| {
                [false, true].map(|declared| Self {
                    place,
                    kind,
                    declared,
                })
            })
        })
    }

    fn target(&self) -> String {
        let place = PLACES
            .iter()
            .position(|place| *place == self.place)
            .unwrap();
        format!("/{place}/{}/{}", self.kind, u8::from(self.declared))
    }

    fn of(path: &str) -> Self {
        let numbers: Vec<usize> = path[1..].split('/').map(|n| n.parse().unwrap()).collect();
        Self {
            place: PLACES[numbers[0]],
            kind: numbers[1],
            declared: numbers[2] == 1,
        }
    }

    /// What is given before the failure.
    fn given(&self) -> String {
        KINDS[self.kind].2.repeat(2)
    }

    fn answer(&self) -> http::Response<MockBody> {
        let record = KINDS[self.kind].2;
        let records = || {
            [
                mock::data(record),
                mock::pending(),
                mock::data(record),
                mock::pending(),
            ]
        };
        let body = match self.place {
            "first poll" => MockBody::new([mock::panic("the secret")]),
            "later poll" => MockBody::new(records().into_iter().chain([mock::panic("the secret")])),
            "size_hint" => MockBody::new(records()).panics_in(PanicIn::SizeHint),
            "drop" => MockBody::new(records()).panics_in(PanicIn::Drop),
            place => unreachable!("{place} has no body"),
        };
        let mut response = http::Response::new(body);
        let headers = response.headers_mut();
        headers.insert("content-type", KINDS[self.kind].1.parse().unwrap());
        if self.declared {
            // A body that fails declares ten bytes more than it returns.
            let more = if self.place == "drop" { 0 } else { 10 };
            headers.insert("content-length", (self.given().len() + more).into());
        }
        response
    }
}

/// A handler that panics as the path says.
fn handle(
    path: &str,
) -> impl Future<Output = Result<http::Response<MockBody>, Infallible>> + Send + use<> {
    let neighbour = path == "/neighbour";
    let cell = (!neighbour).then(|| Cell::of(path));
    if cell.as_ref().is_some_and(|cell| cell.place == "call") {
        panic!("the secret");
    }
    async move {
        let Some(cell) = cell else {
            let tick = |_| {
                [
                    mock::data("data: 1\n\n"),
                    mock::sleep(Duration::from_millis(2)),
                ]
            };
            let ticks = (0..10_000).flat_map(tick);
            let mut response = http::Response::new(MockBody::new(ticks));
            let headers = response.headers_mut();
            headers.insert("content-type", "text/event-stream".parse().unwrap());
            return Ok(response);
        };
        if cell.place == "future" {
            tokio::task::yield_now().await;
            panic!("the secret");
        }
        Ok(cell.answer())
    }
}

/// What a client has received when the exchange is over.
#[derive(Debug)]
struct Seen {
    response: Response,
    /// The body, decoded as far as possible.
    body: String,
    /// Whether the end of the content coding is missing.
    coding_cut: bool,
}

fn seen(response: Response) -> Seen {
    let mut bytes = response.body().to_vec();
    let mut coding_cut = false;
    if response.header("content-encoding") == Some("gzip") {
        let mut plain = Vec::new();
        let mut chunk = [0; 64];
        let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
        loop {
            match decoder.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => plain.extend_from_slice(&chunk[..n]),
                Err(_) => {
                    coding_cut = true;
                    break;
                }
            }
        }
        bytes = plain;
    }
    let body = String::from_utf8(bytes).unwrap();
    Seen {
        response,
        body,
        coding_cut,
    }
}

/// Whether `seen` is what the table calls `wanted`.
fn is(cell: &Cell, protocol: Protocol, wanted: &str, seen: &Seen) -> bool {
    let Seen {
        response,
        body,
        coding_cut,
    } = seen;
    let (given, end) = (cell.given(), &response.end);
    // An HTTP/1.0 response without a length can only end with the connection.
    let ended = end.is_whole() || (protocol == Protocol::Http10 && *end == End::Closed);
    match wanted {
        "500" => {
            let problem = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
            response.status() == 500
                && response.header("content-type") == Some("application/problem+json")
                && (&problem["status"], &problem["kind"]) == (&500.into(), &"panic".into())
                && ended
        }
        "status" => {
            let status = response
                .header("grpc-status")
                .or(response.trailer("grpc-status"));
            let early = cell.place != "later poll";
            status == Some("13") && *body == if early { "" } else { &given } && end.is_whole()
        }
        "record" => {
            let record = match KINDS[cell.kind].0 {
                "sse" => format!("event: error\ndata: {TOLD}\n\n"),
                _ => format!("{TOLD}\n"),
            };
            response.status() == 200 && *body == given + &record && ended && !coding_cut
        }
        "cut" => {
            let told = match protocol {
                Protocol::Http2 => *end == End::Reset(h2::Reason::INTERNAL_ERROR),
                _ => *end == End::Truncated || (*end == End::Closed && *coding_cut),
            };
            told && response.status() == 200 && *body == given
        }
        "silent" => protocol == Protocol::Http10 && *end == End::Closed && *body == given,
        "whole" => response.status() == 200 && *body == given && ended && !coding_cut,
        _ => panic!("{wanted:?} is no word of the table"),
    }
}

fn request(cell: &Cell, gzip: bool) -> Request {
    let mut request = Request::get(&cell.target());
    if KINDS[cell.kind].0 == "grpc" {
        request = request.header("content-type", "application/grpc");
    }
    if gzip {
        request = request.header("accept-encoding", "gzip");
    }
    request
}

/// One cell over HTTP/2, beside a stream that must go on.
async fn beside_a_neighbour(
    addr: std::net::SocketAddr,
    request: &Request,
) -> Result<Response, End> {
    let mut connection = h2::Connection::open(addr).await?;
    let mut neighbour = connection
        .send(&Request::get("/neighbour"))
        .await?
        .reply()
        .await?;
    let response = connection
        .send(request)
        .await?
        .reply()
        .await?
        .finish()
        .await;
    let failed_at = tokio::time::Instant::now();
    loop {
        let tick = neighbour.chunk().await;
        let tick = tick.expect("the neighbour goes on");
        if tick.at > failed_at {
            break;
        }
    }
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_is_as_documented() -> Outcome {
    let documented = documented();
    let handler =
        service_fn(|request: http::Request<hyper::body::Incoming>| handle(request.uri().path()));
    let plain = ServiceBuilder::new().layer(ErrorWriterLayer::new());
    let plain = serve(plain.service(handler)).await?;
    let gzip = ServiceBuilder::new()
        .layer(CompressionLayer::new().compress_when(NotForContentType::GRPC))
        .layer(ErrorWriterLayer::new());
    let gzip = serve(gzip.service(handler)).await?;

    let mut cells = Vec::new();
    for cell in Cell::all() {
        for (column, (protocol, encoded)) in [false, true]
            .into_iter()
            .flat_map(|encoded| Protocol::ALL.map(|protocol| (protocol, encoded)))
            .enumerate()
        {
            let length = if cell.declared { "yes" } else { "no" };
            let key = (cell.place.into(), KINDS[cell.kind].0.into(), length.into());
            let wanted = documented[&key][column].as_str();
            let addr = if encoded { gzip.addr() } else { plain.addr() };
            let cell = cell.clone();
            cells.push(async move {
                let request = request(&cell, encoded);
                let response = match protocol {
                    Protocol::Http2 => beside_a_neighbour(addr, &request).await,
                    _ => protocol.send(addr, &request).await,
                };
                let seen = response.map(seen);
                let good = seen.as_ref().is_ok_and(|seen| {
                    assert!(!seen.body.contains("secret"), "{cell:?}");
                    is(&cell, protocol, wanted, seen)
                });
                let what = format!("{cell:?} over {protocol:?}, gzip {encoded}");
                (!good).then(|| format!("{what}: not {wanted}: {seen:?}"))
            });
        }
    }
    assert_eq!(cells.len(), 360);
    let mut wrong = Vec::new();
    let mut cells = cells.into_iter();
    loop {
        let some: Vec<_> = cells.by_ref().take(24).collect();
        if some.is_empty() {
            break;
        }
        wrong.extend(join_all(some).await.into_iter().flatten());
    }
    assert!(
        wrong.is_empty(),
        "{} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}
