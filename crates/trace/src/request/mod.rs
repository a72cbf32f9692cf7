//! A tracing span that lives to the end of the response body.

mod client;
mod layer;
mod redact;
mod remote;
mod span;
mod stage;
#[cfg(test)]
mod tests;

pub use self::{
    client::ClientAddress,
    layer::{RemoteParent, RequestSpanLayer},
};
pub(crate) use self::{span::cut, stage::Seen};
