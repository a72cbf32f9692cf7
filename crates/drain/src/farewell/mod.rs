//! Ending streams: the layer, the last events, and the time at which each stream ends.

mod end_timer;
mod layer;
pub(crate) mod message;
mod stage;
mod unanswered;

pub use self::{layer::FarewellLayer, stage::FarewellStage};

/// When a drain ends the streams of a route.
///
/// A handler can choose the policy of one response by inserting it into the response extensions, which overrides the
/// layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// At the deadline, unless the stream ends by itself. Many streams start to end before it, between two records, so
    /// that each gets its last event in time: 50 us per stream, but at most 1 s and half of the time after the close.
    /// This applies only to streams of records: a download, or a response with a declared length, has until the
    /// deadline.
    ///
    /// The default, except for a response that another server can continue
    /// ([`Claim::Resumable`](tower_stream_core::Claim::Resumable)).
    #[default]
    RunToDeadline,
    /// From the close on, between two records, each stream at a random time within
    /// [`early_end_window`](crate::Builder::early_end_window): for streams that a client can resume elsewhere, such as
    /// server-sent events with `Last-Event-ID`. A stream that has not ended by then ends at the deadline.
    ///
    /// Server-sent events and JSON lines end early at any record boundary after the first frame. gRPC ends early only
    /// while it waits for its next message, so that a response that is ready is not lost. A response with a declared
    /// length or without records never ends early.
    EndEarly,
}
