//! A body that does not match its declared digest never looks complete to a client, whatever the protocol and the
//! framing. A body that matches it is never refused.

use std::{error::Error, sync::Arc};

use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use e2e::{End, Protocol, Request, serve};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tower_http::compression::CompressionLayer;
use tower_stream_core::mock::{MockBody, Step, data, pending, sleep};
use tower_stream_digest::{Unverifiable, Verdict, VerifyDigestLayer};

type Outcome = Result<(), Box<dyn Error>>;
type Verdicts = Arc<Mutex<Vec<Verdict>>>;

/// More than the layer holds back, in frames that are not all there at once.
const LONG: usize = 300_000;
const SHORT: usize = 1000;

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    /// Only the `None` after the last frame says that the body has ended.
    Chunked,
    /// `is_end_stream` is true together with the last frame: a server does not poll again.
    EndsEarly,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    framing: Framing,
    size: usize,
    paced: bool,
    bad: Option<usize>,
}

impl Cell {
    fn all() -> impl Iterator<Item = Self> {
        let framings = [Framing::Length, Framing::Chunked, Framing::EndsEarly];
        framings.into_iter().flat_map(|framing| {
            [SHORT, LONG].into_iter().flat_map(move |size| {
                [false, true].into_iter().flat_map(move |paced| {
                    [None, Some(0), Some(size / 2), Some(size - 1)].map(|bad| Self {
                        framing,
                        size,
                        paced,
                        bad,
                    })
                })
            })
        })
    }

    fn response(self) -> Response {
        let whole = noise(self.size);
        let mut sent = whole.clone();
        if let Some(at) = self.bad {
            sent[at] ^= 1;
        }
        let frames = sent.chunks(self.size / 10).map(Bytes::copy_from_slice);
        let steps = frames.flat_map(|frame| {
            let before: Option<Step> = self.paced.then(pending);
            before.into_iter().chain([data(frame)])
        });
        let mut body = MockBody::new(steps);
        if self.framing == Framing::EndsEarly {
            body = body.tells_end();
        }
        let mut head =
            Response::builder().header("x-content-md5", hex::encode(Md5::digest(&whole)));
        if self.framing == Framing::Length {
            head = head.header("content-length", self.size);
        }
        head.body(Body::new(body)).unwrap()
    }
}

async fn check(protocol: Protocol, cell: Cell) -> Outcome {
    let verdicts = Verdicts::default();
    let into = Arc::clone(&verdicts);
    let layer =
        VerifyDigestLayer::md5().on_outcome(move |outcome| into.lock().push(outcome.verdict));
    let app = Router::new().route("/", get(move || async move { cell.response() }));
    let server = serve(app.layer(layer)).await?;
    let answer = protocol.send(server.addr(), &Request::get("/")).await;
    server.shutdown().await;
    let verdicts = std::mem::take(&mut *verdicts.lock());
    let [verdict] = verdicts[..] else {
        panic!("{protocol:?} {cell:?}: {verdicts:?}")
    };

    let whole = noise(cell.size);
    let unframed = protocol == Protocol::Http10 && cell.framing != Framing::Length;
    let what = format!("{protocol:?} {cell:?}: {verdict:?}, {answer:?}");
    if unframed && cell.size == LONG {
        // In this case the client cannot detect a mismatch, and the layer reports the body as not verifiable.
        assert_eq!(
            verdict,
            Verdict::Unverifiable(Unverifiable::Http10WithoutLength),
            "{what}"
        );
        assert_eq!(answer?.end, End::Closed);
        return Ok(());
    }
    match (cell.bad, answer) {
        (None, answer) => {
            let answer = answer?;
            assert_eq!(
                (answer.status(), verdict),
                (200, Verdict::Verified),
                "{what}"
            );
            assert!(answer.body() == whole, "{what}");
            assert!(
                answer.end.is_whole() || (unframed && answer.end == End::Closed),
                "{what}"
            );
            assert!(
                answer.header("x-content-md5").is_some(),
                "a promise that is kept passes on"
            );
        }
        (Some(_), answer) => {
            assert_eq!(verdict, Verdict::Mismatch, "{what}");
            match answer {
                Ok(answer) if answer.status() == 502 => {
                    assert_eq!(answer.json()["title"], "BadDigest");
                    assert!(answer.header("x-content-md5").is_none());
                }
                Ok(answer) => assert!(answer.end.is_cut(), "{what}"),
                // The body failed before hyper had flushed the head.
                Err(end) => assert!(!end.is_whole(), "{what}"),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn no_corrupt_body_looks_whole_and_no_clean_one_is_refused() -> Outcome {
    let mut cells = 0;
    for protocol in Protocol::ALL {
        for cell in Cell::all() {
            check(protocol, cell).await?;
            cells += 1;
        }
    }
    assert_eq!(cells, 3 * 3 * 2 * 2 * 4);
    Ok(())
}

#[tokio::test]
async fn a_slow_stream_arrives_as_it_is_made() -> Outcome {
    let gap = std::time::Duration::from_millis(60);
    let slow = move || async move {
        let steps = (0..5).flat_map(|_| [data("0123456789"), sleep(gap)]);
        let promise = hex::encode(Md5::digest("0123456789".repeat(5)));
        let head = Response::builder().header("x-content-md5", promise);
        head.body(Body::new(MockBody::new(steps))).unwrap()
    };
    let app = Router::new()
        .route("/", get(slow))
        .layer(VerifyDigestLayer::md5());
    let server = serve(app).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let answer = protocol.send(server.addr(), &Request::get("/")).await?;
        assert!(answer.end.is_whole());
        assert_eq!(answer.chunks.len(), 5, "{protocol:?}");
        // The handler takes 240 ms. If the layer held the frames back, they would arrive together.
        assert!(
            answer.spread() >= 2 * gap,
            "{protocol:?}: {:?}",
            answer.spread()
        );
    }
    Ok(())
}

/// The declared digest is that of the bytes inside of the compression, and is checked there.
#[tokio::test]
async fn compression_outside_neither_hides_nor_breaks_it() -> Outcome {
    let handler = |bad| {
        move || async move {
            let cell = Cell {
                framing: Framing::Chunked,
                size: LONG,
                paced: true,
                bad,
            };
            cell.response()
        }
    };
    let app = Router::new()
        .route("/false", get(handler(None)))
        .route("/true", get(handler(Some(LONG - 1))))
        .layer(VerifyDigestLayer::md5())
        .layer(CompressionLayer::new());
    let server = serve(app).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        for corrupt in [false, true] {
            let request = Request::get(&format!("/{corrupt}")).header("accept-encoding", "gzip");
            match protocol.send(server.addr(), &request).await {
                Ok(answer) => {
                    assert_eq!(answer.header("content-encoding"), Some("gzip"));
                    assert_eq!(answer.end.is_whole(), !corrupt, "{protocol:?}");
                    assert_eq!(answer.end.is_cut(), corrupt, "{protocol:?}");
                }
                Err(end) => assert!(corrupt && !end.is_whole(), "{protocol:?}: {end}"),
            }
        }
    }
    Ok(())
}
