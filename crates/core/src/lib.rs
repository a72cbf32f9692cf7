#![doc = include_str!("../README.md")]

pub mod boundary;
mod cause;
mod delivery;
mod dialect;
mod drop_cause;
mod end;
mod exchange;
mod expected_digest;
pub mod grpc;
mod head;
mod hold;
mod ids;
mod kind;
#[cfg(feature = "axum")]
mod missing;
#[cfg(feature = "mock")]
pub mod mock;
mod problem;
mod records;
mod relay;
mod request;
mod scope;
mod upload;
pub mod wrapper;

pub use self::{
    cause::{Cause, FaultKind, chosen_reset},
    delivery::{Delivery, declared_length},
    dialect::{Dialect, ErrorReport, KeepAlive, Record},
    drop_cause::drop_for,
    end::{Outcome, StreamEnd},
    exchange::{Claim, DrainHandle, DrainHold, Exchange},
    expected_digest::ExpectedDigest,
    head::{
        AddedNoTransform, allows_insertion, bytes_changed, bytes_encoded, digests_changed,
        forbids_transform, head_replaced, is_encoded, list_members, members,
    },
    hold::RecordHold,
    ids::{InvalidRequestId, RequestId, Sequence},
    kind::{RecordFormat, StreamKind},
    problem::{PlainProblem, Problem, Refused, answer_method, retry_after},
    records::Records,
    request::{
        OTHER_METHOD, PeerAddr, forwarded_address, matched_route, method_name, peer_address,
        protocol_version, url_scheme, with_head,
    },
    scope::{Scope, Scoped},
    upload::UploadBody,
};

#[cfg(feature = "axum")]
pub use self::{missing::MissingLayer, upload::mark_upload};

/// Any error that a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
