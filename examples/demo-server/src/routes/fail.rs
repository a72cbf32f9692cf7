//! `GET /fail`: responses that fail on purpose, in several ways.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError,
    body::Body,
    extract::RawQuery,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::Frame;
use tower_stream_errors::{ChannelBody, channel};

use super::payload;
use crate::{problem::Problem, query::Query, records::Pace, reply};

/// Largest number of records before the failure. A declared length is the sum of their lengths.
const MAX_AFTER: u64 = 100_000;

/// Bytes of text in a record.
const RECORD: usize = 32;

/// The ways to fail. All except the first two occur after `after` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The handler panics before there is a head.
    PanicHandler,
    /// The first poll of the body returns `Err`, whatever `after` says.
    ErrorFirst,
    /// The body panics when polled.
    PanicBody,
    /// The body ends normally and panics when it is dropped.
    PanicDrop,
    /// The body returns `Err`.
    ErrorBody,
    /// The task that sends the body through a channel panics.
    ProducerPanic,
    /// The body stays pending forever.
    Hang,
}

const HOW: [(&str, How); 7] = [
    ("panic-handler", How::PanicHandler),
    ("panic-body", How::PanicBody),
    ("panic-drop", How::PanicDrop),
    ("error-body", How::ErrorBody),
    ("error-first", How::ErrorFirst),
    ("producer-panic", How::ProducerPanic),
    ("hang", How::Hang),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Sse,
    Ndjson,
    Bytes,
    /// One JSON array with one element per record.
    Json,
}

const FORMAT: [(&str, Format); 4] = [
    ("sse", Format::Sse),
    ("ndjson", Format::Ndjson),
    ("bytes", Format::Bytes),
    ("json", Format::Json),
];

/// Fails as `how` says after `after` records of `format`, `interval_ms` apart.
///
/// With `length=1`, declares the length of one more record than are sent. With `panic-drop`, declares the exact length,
/// because that body is complete.
pub(crate) async fn fail(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let how = query.choice("how", None, &HOW)?;
    let plan = Plan {
        how,
        format: query.choice("format", Some(Format::Sse), &FORMAT)?,
        after: query.number("after", 3, 0..=MAX_AFTER)?,
    };
    let length = query.flag("length", false)?;
    let interval = query.interval(10)?;
    query.finish()?;

    let body = match how {
        How::PanicHandler => panic!("asked to panic in the handler"),
        How::ProducerPanic => Body::new(spawn_producer(plan, interval)),
        _ => Body::new(Failing {
            plan,
            pace: Pace::new(interval),
            next: 0,
            failed: false,
        }),
    };
    let mut response = match plan.format {
        Format::Sse => reply::stream(reply::EVENTS, body),
        Format::Ndjson => reply::stream(reply::LINES, body),
        Format::Bytes => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
        }
        Format::Json => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
    };
    if length {
        let length = HeaderValue::from(plan.declared_length());
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    Ok(response)
}

/// The parameters of a request.
#[derive(Clone, Copy, Debug)]
struct Plan {
    how: How,
    format: Format,
    after: u64,
}

impl Plan {
    fn record(&self, n: u64) -> Bytes {
        let object = || payload(n, RECORD);
        let last = self.how == How::PanicDrop && n + 1 == self.after;
        Bytes::from(match self.format {
            Format::Sse => format!("data: {}\n\n", object()),
            Format::Ndjson => format!("{}\n", object()),
            Format::Bytes => crate::text::excerpt(n, RECORD),
            Format::Json => {
                let before = if n == 0 { "[" } else { "," };
                let behind = if last { "]" } else { "" };
                format!("{before}{}{behind}", object())
            }
        })
    }

    fn declared_length(&self) -> usize {
        let records = match self.how {
            How::PanicDrop => self.after,
            _ => self.after + 1,
        };
        (0..records).map(|n| self.record(n).len()).sum()
    }
}

/// A body that fails while it is polled or dropped.
#[derive(Debug)]
struct Failing {
    plan: Plan,
    pace: Pace,
    next: u64,
    failed: bool,
}

impl http_body::Body for Failing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        ready!(self.pace.poll(cx));
        if self.plan.how != How::ErrorFirst && self.next < self.plan.after {
            let record = self.plan.record(self.next);
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(record))));
        }
        match self.plan.how {
            How::Hang => return Poll::Pending,
            How::PanicBody => panic!("asked to panic in the body's poll"),
            _ => self.failed = true,
        }
        Poll::Ready(match self.plan.how {
            How::PanicDrop => None,
            _ => Some(Err("asked to fail in the body".into())),
        })
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // A second panic while unwinding would abort the process.
        if self.plan.how == How::PanicDrop && !std::thread::panicking() {
            panic!("asked to panic in the body's drop");
        }
    }
}

/// A body sent by a task.
///
/// With an ordinary channel, a panic of the task looks like the end of the body. This one requires the sender to say
/// that it has finished.
fn spawn_producer(plan: Plan, interval: Duration) -> ChannelBody {
    let (mut sender, body) = channel(1);
    tower_stream_ids::spawn(async move {
        tracing::debug!("a producer begins");
        let mut pace = Pace::new(interval);
        for n in 0..plan.after {
            std::future::poll_fn(|cx| pace.poll(cx)).await;
            if sender.send(plan.record(n)).await.is_err() {
                return;
            }
        }
        std::future::poll_fn(|cx| pace.poll(cx)).await;
        panic!("asked to panic in the producer task");
    });
    body
}

#[cfg(test)]
mod tests;
