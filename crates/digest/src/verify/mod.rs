//! Checking bodies against the digests promised for them.

mod answer;
mod body;
mod checker;
mod future;
mod layer;
mod outcome;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    answer::{bad_promise, instead_of, problem},
    body::{answer, checked},
    checker::{Checker, Request},
    layer::Config,
};
pub use self::{
    body::{CheckedBody, VerifyBody},
    future::VerifyDigestFuture,
    layer::{OnBadPromise, VerifyDigestLayer, VerifyDigestService},
    outcome::{DigestError, Unverifiable, Verdict, Verification},
};
