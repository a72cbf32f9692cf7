mod ends;
mod fields;
mod hashing;
mod placement;
mod untouched;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Response, StatusCode, Version, header};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower_stream_core::{
    Cause, Exchange, ExpectedDigest, FaultKind, Outcome, StreamEnd,
    mock::{self, MockBody, data, error, pending, trailer},
    wrapper::ResponseBody,
};

use crate::{
    Announce, DigestLayer, DigestValue, Md5, Placement, Placements, Segments, Sent,
    replay::SLICE,
    testing::{get, get_te, md5_hex, noise, pass, read, response},
};

type Out = Response<ResponseBody<MockBody, DigestLayer>>;

/// A layer, and a list of what it reports.
fn recording(layer: DigestLayer) -> (DigestLayer, Arc<Mutex<Vec<Sent>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&all);
    (
        layer.on_sent(move |sent| into.lock().push(sent.clone())),
        all,
    )
}

fn header<'a>(response: &'a Out, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// A body that is pending after its first byte.
fn paced(body: &Bytes) -> MockBody {
    MockBody::new([data(body.slice(..1)), pending(), data(body.slice(1..))])
}
