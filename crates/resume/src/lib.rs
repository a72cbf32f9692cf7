#![doc = include_str!("../README.md")]

mod body;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod cursor;
mod epochs;
mod head;
mod keys;
#[cfg(feature = "trace")]
mod link;
mod live;
mod log;
#[cfg(feature = "metrics")]
mod observe;
mod open;
mod place;
mod producer;
mod reader;
mod restart;
mod resume;
mod service;
mod splitter;
mod streams;

#[cfg(feature = "nats")]
pub use self::log::{Nats, NatsBuilder};
#[cfg(feature = "redis")]
pub use self::log::{Redis, RedisBuilder};
pub use self::{
    body::{ResponseBody, StreamBody},
    log::{
        Claimed, CodecError, Created, End, Entry, Epoch, InvalidStreamId, LogError, LogErrorKind,
        LogFuture, LogReader, Memory, MemoryBuilder, NewStream, Overflow, Status, StreamId,
        StreamKey, StreamLog, Takeover,
    },
    restart::{LostStream, Restart},
    resume::{Builder, Durability, Resume, Stats, WhoLeft},
    service::{ResponseFuture, ResumeLayer, ResumeService},
    streams::Streams,
};

#[cfg(test)]
mod tests;
