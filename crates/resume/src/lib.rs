#![doc = include_str!("../README.md")]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod log;

pub use self::log::{
    Claimed, CodecError, Created, End, Entry, Epoch, InvalidStreamId, LogError, LogErrorKind,
    LogFuture, LogReader, Memory, MemoryBuilder, NewStream, Overflow, Status, StreamId, StreamKey,
    StreamLog, Takeover,
};
#[cfg(feature = "redis")]
pub use self::log::{Redis, RedisBuilder};
