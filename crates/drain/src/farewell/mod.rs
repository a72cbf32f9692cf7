//! Ending streams: the layer, the farewells, and when each stream ends.

mod end_timer;
mod layer;
pub(crate) mod message;
mod stage;
mod unanswered;

pub use self::{layer::FarewellLayer, stage::FarewellStage};

/// When a drain ends the streams of a route.
///
/// A handler may choose for one response by putting it into the response extensions, which overrules the layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// At the deadline, if it has not ended by itself. Where streams are many, they begin to end before it, between two
    /// records, so that each has its farewell in time: 50 us a stream, at most 1 s and half of what the close leaves.
    /// Only streams of records do: a download, or an answer with a declared length, has until the deadline.
    #[default]
    RunToDeadline,
    /// From the close on, between two records, each stream at its own moment within
    /// [`early_end_window`](crate::Builder::early_end_window): for streams that a client can resume, such as
    /// server-sent events with `Last-Event-ID`. What has not ended by then ends at the deadline.
    ///
    /// Server-sent events and JSON lines end early at any boundary after the first frame, gRPC only while it waits for
    /// its next message, so that an answer which is ready is not lost. What declares its length or has no records never
    /// ends early.
    EndEarly,
}
