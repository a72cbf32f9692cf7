#![doc = include_str!("../README.md")]

mod algorithm;
mod announce;
mod emit;
mod fields;
mod handle;
mod hasher;
#[cfg(any(test, all(feature = "kernel", target_arch = "x86_64")))]
mod kernel;
mod md5;
#[cfg(feature = "metrics")]
mod observe;
mod replay;
mod request;
mod segments;
#[cfg(test)]
mod testing;
mod value;
mod verify;

pub use self::{
    algorithm::Algorithm,
    announce::{Announce, Placement, Placements},
    emit::{DigestLayer, DigestStage, Sent},
    handle::DigestHandle,
    md5::Md5,
    request::{
        VerifyBody, VerifyRequestDigest, VerifyRequestDigestFuture, VerifyRequestDigestLayer,
    },
    segments::Segments,
    value::DigestValue,
    verify::{
        DigestError, OnBadPromise, Unverifiable, Verdict, Verification, VerifyDigestLayer,
        VerifyDigestStage,
    },
};

pub use digest::Digest;
#[cfg(feature = "sha2")]
pub use sha2::{Sha256, Sha512};
