#![doc = include_str!("../README.md")]
#![doc = include_str!("matrix.md")]
#![doc = include_str!("endings.md")]

mod backtrace;
mod channel;
mod context;
mod default_writer;
mod dialect;
mod hook;
mod idle;
mod layer;
mod panic;
mod request;
mod stage;
mod write;

pub use self::{
    channel::{ChannelBody, Closed, Sender, channel},
    default_writer::DefaultWriter,
    dialect::{DialectLayer, DialectStage},
    hook::PanicHook,
    idle::{IdleTimeoutLayer, IdleTimeoutStage},
    layer::{AfterTail, ErrorWriterLayer},
    stage::ErrorWriterStage,
    write::{Failure, Tail, WriteError},
};

#[cfg(test)]
mod tests;
