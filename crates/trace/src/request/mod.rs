//! A tracing span that lives to the end of the response body.

mod body;
mod layer;
mod observer;
mod service;
mod span;
#[cfg(test)]
mod tests;

pub use self::{
    body::ResponseBody,
    layer::{RemoteParent, RequestSpanLayer},
    service::{RequestSpan, ResponseFuture},
};
