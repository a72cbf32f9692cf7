//! Measures one response.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;
use http::{Request, StatusCode};
use opentelemetry::{KeyValue, StringValue};
use tokio::time::Instant;
use tower_stream_core::{
    OTHER_METHOD, StreamEnd, grpc, method_name, protocol_version, url_scheme,
    wrapper::{AfterHead, Piece, Polled, ResponseHead, Source, Stage, StageContext},
};

use crate::{instruments::Instruments, names, route::Route};

/// Measures one response from the call to the end of its body.
///
/// A chunk is a data frame that is not empty: no client receives an empty one.
#[derive(Debug)]
pub struct Stream {
    route: Arc<Route>,
    method: &'static str,
    scheme: &'static str,
    version: Option<&'static str>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    began: Instant,
    /// Time of the first poll for the next chunk.
    asked: Option<Instant>,
    /// Time of the last chunk.
    ready: Option<Instant>,
    /// The clock as read in this poll, so that an end in the same poll does not read it again.
    now: Option<Instant>,
    ended: Option<Instant>,
    chunks: u64,
    bytes: u64,
}

impl Stream {
    pub(crate) fn begin<B>(route: Arc<Route>, request: &Request<B>, scheme: &'static str) -> Self {
        let stream = Self {
            route,
            method: method_name(request.method()).unwrap_or(OTHER_METHOD),
            scheme: url_scheme(request.uri(), scheme),
            version: protocol_version(request.version()),
            status: None,
            grpc_status: None,
            began: Instant::now(),
            asked: None,
            ready: None,
            now: None,
            ended: None,
            chunks: 0,
            bytes: 0,
        };
        stream.active(1);
        stream
    }

    fn active(&self, change: i64) {
        let Instruments {
            stream_active,
            active_requests,
            ..
        } = &self.route.instruments;
        stream_active.add(change, std::slice::from_ref(&self.route.route));
        active_requests.add(change, &[self.method(), self.scheme()]);
    }

    fn method(&self) -> KeyValue {
        KeyValue::new(names::METHOD, self.method)
    }

    fn scheme(&self) -> KeyValue {
        KeyValue::new(names::SCHEME, self.scheme)
    }

    /// The attributes of the instruments that OpenTelemetry's convention names.
    fn conventional(&self, end: &StreamEnd) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(6);
        attributes.extend([self.method(), self.scheme(), self.route.route.clone()]);
        attributes.extend(self.status.map(status));
        let version = |version| KeyValue::new(names::PROTOCOL_VERSION, version);
        attributes.extend(self.version.map(version));
        let of_end = end.error_type().map(StringValue::from);
        let of_status = || {
            let failed = self.status.filter(StatusCode::is_server_error);
            failed.map(|status| status.as_str().to_owned().into())
        };
        let error_type = |value| KeyValue::new(names::ERROR_TYPE, value);
        attributes.extend(of_end.or_else(of_status).map(error_type));
        attributes
    }

    #[cold]
    fn first_chunk(&self, now: Instant) {
        self.route.instruments.time_to_first_chunk.record(
            (now - self.began).as_secs_f64(),
            &[
                self.method(),
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

impl Stage for Stream {
    const RARE: bool = true;

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        self.status = Some(head.status);
        Poll::Ready(AfterHead::Stay)
    }

    #[inline]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.now = None;
        if self.route.times_polls() && self.asked.is_none() && self.ended.is_none() {
            let now = Instant::now();
            self.hold(now);
            self.asked = Some(now);
        }
        None
    }

    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        let length = piece.data().map_or(0, Bytes::len);
        // Data after the end is sent to no client.
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

    fn on_heartbeat(&mut self, piece: &Piece) {
        self.bytes += piece.data().map_or(0, |data| data.len() as u64);
        let route = std::slice::from_ref(&self.route.route);
        self.route.instruments.heartbeats.add(1, route);
    }

    fn on_grpc_status(&mut self, code: u8) {
        self.grpc_status = Some(code);
    }

    fn on_latched(&mut self) {
        self.ended = Some(self.now.unwrap_or_else(Instant::now));
    }

    fn on_end(&mut self, end: &StreamEnd) {
        self.active(-1);
        let instruments = &self.route.instruments;
        let route = &self.route.route;

        let outcome = KeyValue::new(names::OUTCOME, end.outcome().as_str());
        match (end.error_type(), self.grpc_status) {
            (None, None) => instruments.stream_count.add(1, &self.route.complete),
            (error_type, grpc_status) => {
                let error_type = error_type.map(|value| KeyValue::new(names::ERROR_TYPE, value));
                let name = |code| KeyValue::new(names::RPC_STATUS, grpc::status_name(code));
                let counted: Vec<_> = [route.clone(), outcome.clone()]
                    .into_iter()
                    .chain(error_type)
                    .chain(grpc_status.map(name))
                    .collect();
                instruments.stream_count.add(1, &counted);
            }
        }

        let ended = self.ended.unwrap_or_else(|| {
            let now = Instant::now();
            // Dropped after a chunk: the server did not poll again.
            if self.asked.is_none() {
                self.hold(now);
            }
            now
        });
        let time = (ended - self.began).as_secs_f64();
        let conventional = self.conventional(end);
        instruments.request_duration.record(time, &conventional);
        if self.status.is_some() {
            instruments.body_size.record(self.bytes, &conventional);
        }
        let method = self.method();
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
