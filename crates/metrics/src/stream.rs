//! One response, measured.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Frame;
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tower_stream_core::{OTHER_METHOD, Observe, StreamEnd, method_name};

use crate::{names, route::Route};

/// Measures one response from the call to the end of its body.
///
/// A chunk is a data frame with data in it: an empty one reaches no client.
#[derive(Debug)]
pub struct Stream {
    route: Arc<Route>,
    method: &'static str,
    status: Option<StatusCode>,
    began: Instant,
    /// The first poll for the chunk that is awaited.
    asked: Option<Instant>,
    /// When the last chunk was there.
    ready: Option<Instant>,
    /// The clock as read in this poll, so that an end in it need not read it again.
    now: Option<Instant>,
    ended: Option<Instant>,
    chunks: u64,
    bytes: u64,
}

impl Stream {
    pub(crate) fn begin(route: Arc<Route>, method: &Method) -> Self {
        route
            .instruments
            .stream_active
            .add(1, std::slice::from_ref(&route.route));
        Self {
            route,
            method: method_name(method).unwrap_or(OTHER_METHOD),
            status: None,
            began: Instant::now(),
            asked: None,
            ready: None,
            now: None,
            ended: None,
            chunks: 0,
            bytes: 0,
        }
    }

    pub(crate) fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    #[cold]
    fn first_chunk(&self, now: Instant) {
        self.route.instruments.time_to_first_chunk.record(
            (now - self.began).as_secs_f64(),
            &[
                KeyValue::new(names::METHOD, self.method),
                self.route.route.clone(),
                status(self.status.unwrap_or_default()),
            ],
        );
    }

    fn hold(&self, now: Instant) {
        if let (Some(series), Some(ready)) = (&self.route.consumer_hold, self.ready) {
            series.record(now - ready);
        }
    }
}

impl Observe for Box<Stream> {
    #[inline]
    fn poll(&mut self) {
        self.now = None;
        if self.route.times_polls() && self.asked.is_none() && self.ended.is_none() {
            let now = Instant::now();
            self.hold(now);
            self.asked = Some(now);
        }
    }

    #[inline]
    fn frame(&mut self, frame: &Frame<Bytes>) {
        let length = frame.data_ref().map_or(0, Bytes::len);
        // what comes after the end is sent to nobody
        if length == 0 || self.ended.is_some() {
            return;
        }
        let index = self.chunks;
        self.chunks += 1;
        self.bytes += length as u64;
        if index != 0 && !self.route.times_chunks() {
            return;
        }
        let now = Instant::now();
        self.now = Some(now);
        match self.ready.replace(now) {
            None => self.first_chunk(now),
            Some(before) => {
                if let Some(gap) = self.route.gap(index) {
                    gap.record(now - before);
                }
            }
        }
        if let Some(asked) = self.asked.take()
            && let Some(wait) = &self.route.producer_wait
        {
            wait.record(now - asked);
        }
    }

    fn ended(&mut self) {
        self.ended = Some(self.now.unwrap_or_else(Instant::now));
    }

    fn end(&mut self, end: &StreamEnd) {
        let instruments = &self.route.instruments;
        let route = &self.route.route;
        instruments
            .stream_active
            .add(-1, std::slice::from_ref(route));

        let outcome = KeyValue::new(names::OUTCOME, end.outcome().as_str());
        match end.error_type() {
            None => instruments.stream_count.add(1, &self.route.complete),
            Some(error_type) => {
                let error_type = KeyValue::new(names::ERROR_TYPE, error_type);
                let counted = [route.clone(), outcome.clone(), error_type];
                instruments.stream_count.add(1, &counted);
            }
        }

        if self.status.is_some() {
            instruments
                .body_size
                .record(self.bytes, std::slice::from_ref(route));
        }

        let ended = self.ended.unwrap_or_else(|| {
            let now = Instant::now();
            // dropped with a chunk in hand: the reader that never came back
            if self.asked.is_none() {
                self.hold(now);
            }
            now
        });
        let time = (ended - self.began).as_secs_f64();
        let method = KeyValue::new(names::METHOD, self.method);
        match self.status {
            Some(code) => {
                let timed = [route.clone(), outcome, method, status(code)];
                instruments.stream_duration.record(time, &timed);
            }
            None => {
                let timed = [route.clone(), outcome, method];
                instruments.stream_duration.record(time, &timed);
            }
        }
    }
}

fn status(status: StatusCode) -> KeyValue {
    KeyValue::new(names::STATUS, i64::from(status.as_u16()))
}
