//! Digests of streaming HTTP bodies: announced when they are sent, verified against what was promised, for the whole and
//! by segments.
//!
//! A response that was cut or corrupted on its way must not look whole. Framing alone cannot ensure that: bytes change
//! on disks, in caches and in middleware, and a stream of unknown length looks complete wherever a layer ends it. A digest
//! can, if it is computed from the bytes as they pass and reaches the client. The layers here do that without holding a
//! stream back, without copying a frame, and without hashing more than 256 KiB in one poll.
//!
//! | layer | what it does | where it goes |
//! |---|---|---|
//! | [`DigestLayer`] | announces the digest of what is sent | outside of all that changes bytes: compression, error writers |
//! | [`VerifyDigestLayer`] | checks what the handler promised of its body | inside, next to the handler |
//! | [`VerifyRequestDigestLayer`] | checks what a client promised of its upload | outside of request decompression |
//!
//! Each has an off state of the same type, `off()`. The outcome of each body, [`Sent`] or [`Verification`], is reported
//! once: to a callback, and by a [`DigestHandle`] in the extensions.
//!
//! The algorithm is chosen at run time: MD5, SHA-256, SHA-512, or any hash of the `digest` crate that has a name in HTTP
//! ([`Algorithm`]). A layer that verifies takes several at once.
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_stream_digest::{DigestLayer, VerifyDigestLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // what this handler promises is not what it gives
//! let corrupt = || async { ([("x-content-md5", "5d41402abc4b2a76b9719d911017c592")], "hell0") };
//! let app = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .route("/corrupt", get(corrupt))
//!     .layer(VerifyDigestLayer::md5())
//!     .layer(DigestLayer::md5());
//!
//! let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
//! let response = app.clone().oneshot(get("/")).await.unwrap();
//! assert_eq!(response.headers()["content-digest"], "md5=:XUFAKrxLKna5cZ2REBfFkg==:");
//! assert_eq!(app.oneshot(get("/corrupt")).await.unwrap().status(), 502);
//! # }
//! ```
//!
//! # MD5 detects corruption, not attackers
//!
//! Anyone can make two inputs with one MD5 in seconds. It is right where the other side speaks it (S3, `Content-MD5`,
//! archives), and against faults of disks, proxies and programs. Against people use SHA-256, which is as easy,
//! `DigestLayer::sha256()`, and with SHA instructions twice as fast; and sign it, for a digest that travels beside its
//! bytes can be replaced together with them.
//!
//! # Speed
//!
//! Hashing is nearly all that serving a hashed body costs. [`Md5`] is in safe Rust as fast as hand-written assembly on
//! x86-64 (feature `kernel`, on by default), and hashes the segments of a body for a few per cent more. `cargo bench -p
//! tower-stream-digest` measures it beside `md-5`, `fast-md5` and openssl. A frame costs no allocation.

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
