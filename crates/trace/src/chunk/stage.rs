//! The times of a stream's chunks, and their spans.

use std::{
    sync::Arc,
    task::Poll,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::Extensions;
use opentelemetry::{
    Context, KeyValue, StringValue,
    trace::{Event, SpanBuilder, SpanKind, TraceContextExt},
};
use tokio::time::Instant;
use tower_stream_core::{
    Claim, Exchange, Sequence, StreamEnd,
    wrapper::{AfterHead, Piece, Polled, ResponseHead, Source, Stage, StageContext},
};

use super::{
    ChunkAttributes,
    layer::{Config, shared},
    selection::{Chunk, Picker},
};
use crate::{
    attribute,
    clock::Clock,
    parent::{self, Parent},
};

/// The state of the layer for one request that may be sampled.
#[derive(Debug)]
pub struct ChunkSpans(State);

#[derive(Debug)]
enum State {
    Called(Call),
    // Boxed: every request reserves space for a stage, and most requests are not sampled.
    Following(Box<Chunks>),
    /// The head is being processed, or the layer no longer follows the response.
    Gone,
}

impl From<Call> for ChunkSpans {
    fn from(call: Call) -> Self {
        Self(State::Called(call))
    }
}

impl Stage for ChunkSpans {
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let State::Called(call) = std::mem::replace(&mut self.0, State::Gone) else {
            return Poll::Ready(AfterHead::Leave);
        };
        Poll::Ready(match call.follow(&head.extensions, cx.exchange) {
            Some(chunks) => {
                self.0 = State::Following(Box::new(chunks));
                AfterHead::Stay
            }
            None => AfterHead::Leave,
        })
    }

    #[inline(always)]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        if let State::Following(chunks) = &mut self.0 {
            chunks.polled();
        }
        None
    }

    #[inline(always)]
    fn on_piece(&mut self, piece: &Piece) {
        if let State::Following(chunks) = &mut self.0
            && let Some(data) = piece.data()
        {
            chunks.given(data);
        }
    }

    fn on_heartbeat(&mut self, _: &Piece) {}

    fn on_end(&mut self, _: &StreamEnd) {
        if let State::Following(chunks) = &mut self.0 {
            chunks.finish();
        }
    }
}

/// The data of a possibly sampled request that is needed when its head arrives.
#[derive(Debug)]
pub(super) struct Call {
    config: Arc<Config>,
    parent: Parent,
    called: Option<Instant>,
    attributes: Vec<KeyValue>,
}

impl Call {
    pub(super) fn begin(config: Arc<Config>, parent: Parent, attributes: Vec<KeyValue>) -> Self {
        Self {
            called: config.genai.then(Instant::now),
            config,
            parent,
            attributes,
        }
    }

    /// Returns `None` if the request is not sampled, or if a layer further inside creates its chunk spans.
    fn follow(self, response: &Extensions, exchange: &Exchange) -> Option<Chunks> {
        let parent = match self.parent {
            Parent::Sampled(parent) => parent,
            Parent::Unknown => parent::current()?,
        };
        if !parent::is_sampled(&parent) || !exchange.claim(Claim::ChunkSpans) {
            return None;
        }
        let id = exchange.request_id();
        let numbers = id.map(|_| Numbers {
            draws: exchange.claim(Claim::ChunkNumbers),
            sequence: exchange.sequence(),
        });
        let stream_id = match id {
            Some(id) => StringValue::from(id.as_str().to_owned()),
            None => parent.span().span_context().trace_id().to_string().into(),
        };
        let from_handler = response.get::<ChunkAttributes>().cloned();
        let common = std::iter::once(KeyValue::new(attribute::STREAM_ID, stream_id))
            .chain(self.attributes)
            .chain(from_handler.into_iter().flat_map(|attributes| attributes.0))
            .map(shared)
            .collect();
        Some(Chunks::new(
            self.config,
            parent,
            self.called,
            common,
            numbers,
        ))
    }
}

/// Follows the chunks of one sampled stream.
#[derive(Debug)]
struct Chunks {
    config: Arc<Config>,
    parent: Context,
    clock: Clock,
    picker: Picker,
    /// The attributes of every chunk span of this stream.
    common: Vec<KeyValue>,
    numbers: Option<Numbers>,
    chunks: u64,
    asked: Option<Instant>,
    /// When the last chunk was ready; before the first one, when the layer was called. Only set if it is needed.
    previous: Option<Instant>,
    /// The chunk that was passed on last, and is still held by the server.
    held: Option<Chunk>,
}

/// The sequence of the request, and whether this layer takes its numbers.
#[derive(Debug)]
struct Numbers {
    sequence: Sequence,
    draws: bool,
}

impl Chunks {
    fn new(
        config: Arc<Config>,
        parent: Context,
        called: Option<Instant>,
        common: Vec<KeyValue>,
        numbers: Option<Numbers>,
    ) -> Self {
        Self {
            clock: Clock::start(),
            picker: Picker::new(config.selection),
            config,
            parent,
            common,
            numbers,
            chunks: 0,
            asked: None,
            previous: called,
            held: None,
        }
    }

    fn release(&mut self, now: Instant) {
        if let Some(mut chunk) = self.held.take() {
            chunk.hold = now.saturating_duration_since(chunk.ready);
            if self.picker.offer(chunk) {
                self.emit(&chunk);
            }
        }
    }

    fn emit(&self, chunk: &Chunk) {
        let ready = self.clock.wall(chunk.ready);
        let mut attributes = Vec::with_capacity(self.common.len() + 6);
        attributes.push(KeyValue::new(attribute::CHUNK_INDEX, int(chunk.index)));
        attributes.push(KeyValue::new(attribute::CHUNK_LENGTH, int(chunk.length)));
        attributes.push(seconds(attribute::CHUNK_PRODUCER_WAIT, chunk.wait()));
        attributes.push(seconds(attribute::CHUNK_CONSUMER_HOLD, chunk.hold));
        if let Some(number) = chunk.sequence {
            attributes.push(KeyValue::new(attribute::SEQUENCE_ID, int(number)));
        }
        if self.config.genai {
            let name = match chunk.index {
                0 => attribute::GEN_AI_TIME_TO_FIRST_TOKEN,
                _ => attribute::GEN_AI_TIME_PER_OUTPUT_TOKEN,
            };
            attributes.push(seconds(name, chunk.gap));
        }
        attributes.extend_from_slice(&self.common);
        let events = self.config.event.then(|| {
            let since_epoch = ready.duration_since(UNIX_EPOCH).unwrap_or_default();
            let timestamp = KeyValue::new(attribute::TIMESTAMP_US, int(since_epoch.as_micros()));
            vec![Event::new(
                attribute::CHUNK_EVENT,
                ready,
                vec![timestamp],
                0,
            )]
        });
        let span = SpanBuilder {
            span_kind: Some(SpanKind::Internal),
            name: self.config.name.clone(),
            start_time: Some(self.clock.wall(chunk.asked)),
            attributes: Some(attributes),
            events,
            links: None,
        };
        self.config.tracer.emit(span, &self.parent, ready);
    }

    fn finish(&mut self) {
        if self.held.is_some() {
            self.release(Instant::now());
        }
        for chunk in self.picker.finish().iter().flatten() {
            self.emit(chunk);
        }
        if self.chunks > 0 {
            let skipped = int(self.picker.left_out());
            let skipped = KeyValue::new(attribute::CHUNK_SPANS_SKIPPED, skipped);
            self.parent.span().set_attribute(skipped);
        }
    }

    #[inline]
    fn polled(&mut self) {
        if self.held.is_some() || self.asked.is_none() {
            let now = Instant::now();
            self.release(now);
            self.asked = Some(now);
        }
    }

    fn given(&mut self, data: &Bytes) {
        let ready = Instant::now();
        let previous = self.previous.unwrap_or(ready);
        let gap = ready.saturating_duration_since(previous);
        self.held = Some(Chunk {
            index: self.chunks,
            length: data.len(),
            asked: self.asked.take().unwrap_or(ready),
            ready,
            gap,
            hold: Duration::ZERO,
            sequence: self.numbers.as_ref().map(Numbers::number),
        });
        if self.chunks == 0 && self.config.genai {
            let first = seconds(attribute::GEN_AI_TIME_TO_FIRST_TOKEN, gap);
            self.parent.span().set_attribute(first);
        }
        self.chunks += 1;
        self.previous = Some(ready);
    }
}

impl Numbers {
    fn number(&self) -> u64 {
        if self.draws {
            self.sequence.next()
        } else {
            self.sequence.last()
        }
    }
}

/// OpenTelemetry has no unsigned integers.
fn int(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn seconds(name: &'static str, duration: Duration) -> KeyValue {
    KeyValue::new(name, duration.as_secs_f64())
}
