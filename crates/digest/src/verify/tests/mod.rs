mod bodies;
mod promises;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower_stream_core::{
    Cause, Exchange, ExpectedDigest, FaultKind,
    mock::{self, MockBody, Step, data, error, pending, trailer},
    wrapper::ResponseBody,
};

use crate::{
    DigestHandle, DigestValue, Md5, OnBadPromise, Unverifiable, Verdict, Verification,
    VerifyDigestLayer,
    testing::{get, md5_hex, noise, pass, pass_async, read, response},
};

type Out = Response<ResponseBody<MockBody, VerifyDigestLayer>>;

fn recording(layer: VerifyDigestLayer) -> (VerifyDigestLayer, Arc<Mutex<Vec<Verification>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&all);
    (
        layer.on_outcome(move |outcome| into.lock().push(outcome.clone())),
        all,
    )
}

/// Returns the only outcome.
fn outcome(outcomes: &Mutex<Vec<Verification>>) -> Verification {
    let outcomes = outcomes.lock();
    let [outcome] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    outcome.clone()
}

/// Splits the data into frames of `by` bytes.
fn frames(body: &Bytes, by: usize) -> Vec<Step> {
    (0..body.len())
        .step_by(by)
        .map(|at| data(body.slice(at..(at + by).min(body.len()))))
        .collect()
}

fn paced(steps: Vec<Step>) -> MockBody {
    MockBody::new(steps.into_iter().flat_map(|step| [pending(), step]))
}

fn corrupted(body: &Bytes, at: usize) -> Bytes {
    let mut corrupt = body.to_vec();
    corrupt[at] ^= 1;
    corrupt.into()
}

fn kind(error: &tower_stream_core::BoxError) -> FaultKind {
    Cause::of(&**error).kind()
}
