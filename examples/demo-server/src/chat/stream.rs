//! A streamed chat completion: one server-sent event per frame.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame};

use super::{
    answer::{Delta, Head, Usage},
    request::ChatRequest,
};
use crate::{
    model::{Completion, Finish},
    records::Pace,
};

/// The body: role, text in chunks, finish reason, usage if requested, `[DONE]`.
///
/// A chunk is generated when it is polled, so the model stops when the client disconnects.
#[derive(Debug)]
pub(super) struct ChatStream {
    head: Head,
    completion: Completion,
    pace: Pace,
    prompt_tokens: u64,
    include_usage: bool,
    next: Next,
}

/// The next event.
#[derive(Clone, Copy, Debug)]
enum Next {
    Role,
    Text,
    Finish(Finish),
    Usage,
    Done,
    Nothing,
}

impl ChatStream {
    pub(super) fn new(
        head: Head,
        request: &ChatRequest,
        completion: Completion,
        interval: Duration,
    ) -> Self {
        Self {
            head,
            completion,
            pace: Pace::new(interval),
            prompt_tokens: request.prompt_tokens,
            include_usage: request.include_usage,
            next: Next::Role,
        }
    }

    fn chunk(&self, delta: Delta<'_>, finish: Option<Finish>) -> Bytes {
        event(&self.head.chunk(delta, finish, self.include_usage))
    }

    /// Polls for the next event. Only text chunks are delayed.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let event = match self.next {
            Next::Role => {
                self.next = Next::Text;
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                };
                self.chunk(delta, None)
            }
            Next::Text => {
                ready!(self.pace.poll(cx));
                match self.completion.next_piece() {
                    Ok(text) => {
                        let delta = Delta {
                            content: Some(&text),
                            ..Delta::default()
                        };
                        self.chunk(delta, None)
                    }
                    Err(finish) => {
                        self.next = Next::Finish(finish);
                        return self.poll_event(cx);
                    }
                }
            }
            Next::Finish(finish) => {
                self.next = if self.include_usage {
                    Next::Usage
                } else {
                    Next::Done
                };
                self.chunk(Delta::default(), Some(finish))
            }
            Next::Usage => {
                self.next = Next::Done;
                let usage = Usage::new(self.prompt_tokens, &self.completion);
                event(&self.head.usage_chunk(usage))
            }
            Next::Done => {
                self.next = Next::Nothing;
                Bytes::from_static(b"data: [DONE]\n\n")
            }
            Next::Nothing => return Poll::Ready(None),
        };
        Poll::Ready(Some(event))
    }
}

fn event(json: &str) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

impl Body for ChatStream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.poll_event(cx)
            .map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
