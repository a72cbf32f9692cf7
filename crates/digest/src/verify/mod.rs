//! Checks response bodies against their declared digests.

mod answer;
mod checker;
mod checking;
mod layer;
mod outcome;
mod stage;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    answer::{bad_promise, instead_of, problem},
    checker::{Checker, Request},
    checking::Checking,
    layer::Config,
};
pub use self::{
    layer::{OnBadPromise, VerifyDigestLayer},
    outcome::{DigestError, Unverifiable, Verdict, Verification},
    stage::VerifyDigestStage,
};
