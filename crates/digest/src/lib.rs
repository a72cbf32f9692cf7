//! Digests of streaming HTTP bodies.

mod algorithm;
mod announce;
mod emit;
mod fields;
mod hasher;
pub mod kernel;
mod later;
mod replay;
mod request;
mod segments;
#[cfg(test)]
mod testing;
mod value;
mod verify;

pub use self::{
    algorithm::{Algorithm, Md5},
    announce::{Announce, Announcements, Placement, Placements},
    emit::{DigestBody, DigestFuture, DigestLayer, DigestService, Sent},
    later::Later,
    request::{VerifyRequestDigestFuture, VerifyRequestDigestLayer, VerifyRequestDigestService},
    segments::Segments,
    value::DigestValue,
    verify::{
        DigestError, OnBadPromise, Unverifiable, Verdict, Verification, VerifyBody,
        VerifyDigestFuture, VerifyDigestLayer, VerifyDigestService,
    },
};

pub use digest::Digest;
