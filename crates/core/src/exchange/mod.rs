//! State shared by all layers of one request.

mod cell;

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
};

use http::Extensions;

pub(crate) use self::cell::Cell;
use self::cell::{Fork, inherit};
use crate::{Cause, Dialect, FaultKind, RequestId, Sequence, StreamEnd, StreamKind};

/// State shared by all layers of one request and its response: the request id, the sequence, and the cause of a
/// failure. One allocation per request, stored in the request extensions.
///
/// A layer that knows why a stream fails records the [`Cause`] here **before** it drops or replaces anything. An
/// observer inside sees only a dropped body, and an observer outside only a clean error record; both read the exchange
/// and report the same end. The first cause wins.
///
/// # How a layer uses it
///
/// The [wrapper](crate::wrapper) passes the exchange to its layers. Any other layer gets it from the request extensions
/// by [`Exchange::of`] in `call`. It keeps the exchange, because the request may be taken apart inside. When the head
/// arrives, it calls [`Exchange::join`] to follow the exchange in the response extensions.
///
/// # Retries, hedges and mirrors
///
/// A layer such as `tower::retry` sends clones of one request, whose extensions share the exchange. `Exchange::of`
/// handles this: it counts how deep in the stack its layer is. An attempt that reaches a layer at a depth that an
/// earlier attempt has already reached gets an exchange of its own. The response carries the exchange of its attempt,
/// so the layers outside follow the attempt whose response is sent. Until there is a response, they follow the newest
/// attempt. A cause that was recorded in another attempt does not decide their outcome.
#[derive(Clone)]
pub struct Exchange {
    cell: Arc<Cell>,
    /// Depth of the layer that holds this exchange. The outermost layer has depth 1.
    depth: u32,
}

/// A drain, as the layer that counts a request leaves it in the [`Exchange`].
pub trait DrainHandle: Any + Send + Sync {
    /// Holds the drain for work that outlives its request: it counts as in flight until the hold is dropped.
    fn hold(self: Arc<Self>) -> Box<dyn DrainHold>;
}

/// Holds a drain, see [`Exchange::hold_drain`].
pub trait DrainHold: Send + Sync {
    /// Waits until everything in flight has to end. The drain is over a short time after that, so the work has to end
    /// at once.
    fn deadline(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Work that only one layer does per request, even if several could: see [`Exchange::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Creating a span for the whole request.
    RequestSpan,
    /// Creating a span for each chunk.
    ChunkSpans,
    /// Recording the metrics of the response.
    Metrics,
    /// Taking a number of the [`Sequence`] for each chunk. Claimed when the head arrives, and so by the innermost
    /// layer.
    ChunkNumbers,
    /// Making the request span OpenTelemetry's current span whenever it is entered.
    ActivatedSpan,
    /// Ending the stream during a drain. Claimed when the head arrives, and so by the innermost layer.
    Farewell,
    /// Looking for the last record of a [`Dialect`]. Claimed when the head arrives, and so by the innermost wrapper.
    LastRecord,
    /// Adding an `id:` to each server-sent event. Claimed when the head arrives.
    EventIds,
    /// Writing heartbeats, and counting the chunks inside of them. Claimed when the head arrives, and so by the
    /// innermost layer.
    Heartbeats,
    /// Storing the stream so that another server can continue it from where its client is. Claimed before the head arrives at the
    /// layers outside. A drain may end such a response early, because its client loses nothing.
    Resumable,
}

impl Claim {
    pub(crate) const COUNT: usize = Self::Resumable as usize + 1;
}

/// How a body ended, in [`Cell::settled`].
const DROPPED: u64 = 0;
const COMPLETE: u64 = 1;
const BY_CAUSE: u64 = 2;

thread_local! {
    /// Address of the cell of the wrapper whose service runs on this thread, or 0.
    static RUNNING: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Guard that marks that the inner service of a wrapper is running.
pub(crate) struct Running {
    pub(crate) outside: usize,
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        let _ = RUNNING.try_with(|running| running.set(self.outside));
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            cell: Arc::new(Cell::new(1)),
            depth: 1,
        }
    }
}

impl Exchange {
    /// Creates an exchange that is not in any extensions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an exchange that is not in any extensions, with this request id and sequence.
    #[must_use]
    pub fn with_ids(request_id: RequestId, sequence: Sequence) -> Self {
        Self {
            cell: Arc::new(Cell::of_ids(Some(request_id), Some(sequence.0))),
            depth: 1,
        }
    }

    /// Returns the exchange of this request. Creates one if there is none, or if an earlier attempt at the request uses
    /// it.
    ///
    /// Each call counts as one layer further inside.
    #[inline]
    pub fn of(request: &mut Extensions) -> Self {
        if let Some(known) = request.get_mut::<Self>() {
            known.descend();
            return known.clone();
        }
        let exchange = Self::new();
        request.insert(exchange.clone());
        exchange
    }

    /// Returns the exchange in these extensions as the last layer left it, for reading.
    #[must_use]
    pub fn get(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Moves one layer further inside.
    fn descend(&mut self) {
        let depth = self.depth + 1;
        loop {
            let cell = self.cell();
            if cell.deepest.fetch_max(depth, Ordering::Relaxed) < depth {
                if !Arc::ptr_eq(cell, &self.cell) {
                    self.cell = Arc::clone(cell);
                }
                break;
            }
            let child = cell.fork(depth);
            let fork = Fork {
                depth,
                cell: Arc::clone(&child),
            };
            // If two attempts fork at the same time, the second one forks from the first. If the cell was forked
            // further outside in the meantime, this attempt belongs to one that is no longer followed.
            let outdated = |fork: &Fork| self.depth >= fork.depth;
            if cell.next.set(fork).is_ok() || cell.next.get().is_some_and(outdated) {
                self.cell = child;
                break;
            }
        }
        self.depth = depth;
    }

    /// Returns the cell of the attempt that this layer follows.
    #[inline]
    fn cell(&self) -> &Arc<Cell> {
        let mut cell = &self.cell;
        while let Some(fork) = cell.next.get() {
            if self.depth >= fork.depth {
                break;
            }
            cell = &fork.cell;
        }
        cell
    }

    /// Follows the exchange in the response extensions, which is that of the attempt with this response. If there is
    /// none, inserts this one.
    #[inline]
    pub fn join(&mut self, response: &mut Extensions) {
        match response.get::<Self>() {
            Some(inner) => self.follow(&inner.clone()),
            None => {
                response.insert(self.clone());
            }
        }
    }

    fn follow(&mut self, inner: &Self) {
        if !Arc::ptr_eq(inner.cell(), self.cell())
            && let Some((by, cause)) = self.cell().cause.get()
            && *by <= self.depth
        {
            inner.record(cause.clone());
        }
        if !Arc::ptr_eq(&inner.cell, &self.cell) {
            self.cell = Arc::clone(&inner.cell);
        }
        self.depth = inner.depth;
    }

    /// Marks that the inner service of a wrapper runs, until the guard is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> Running {
        let own = Arc::as_ptr(&self.cell).addr();
        let outside = RUNNING.try_with(|running| running.replace(own));
        Running {
            outside: outside.unwrap_or(0),
        }
    }

    /// Like [`Exchange::join`], but leaves nothing in the response extensions if every layer outside has this cell
    /// anyway: the request had one attempt, and no wrapper with another cell runs on this thread
    /// ([`Running::outside`]). This saves three allocations per response.
    #[inline]
    pub(crate) fn join_within(&mut self, outside: usize, response: &mut Extensions) {
        let shared = outside == 0 || outside == Arc::as_ptr(&self.cell).addr();
        let single = !self.cell.is_fork && self.cell.next.get().is_none();
        if !shared || !single || !response.is_empty() {
            self.join_apart(shared && single, response);
        }
    }

    fn join_apart(&mut self, known: bool, response: &mut Extensions) {
        if !known || response.get::<Self>().is_some() {
            self.join(response);
        }
    }

    /// Records why the stream fails. Returns false and changes nothing if there already is a cause, or if the last
    /// record of the response [has passed](Self::is_terminal), because the client then has the whole response. The
    /// exception is a digest mismatch, which says that what the client received is wrong.
    pub fn record(&self, cause: Cause) -> bool {
        let after_end = self.is_terminal() && cause.kind() != FaultKind::DigestMismatch;
        !after_end && self.cell().cause.set((self.depth, cause)).is_ok()
    }

    /// Like [`record`](Self::record), for a cause that is expensive to create: `cause` is not called if there already
    /// is one.
    pub fn record_with(&self, cause: impl FnOnce() -> Cause) {
        if self.cause().is_none() {
            self.record(cause());
        }
    }

    /// The cause of the failure, if the stream failed.
    #[inline]
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cell().cause.get().map(|(_, cause)| cause)
    }

    /// Returns the cause to the layer that logs it: `Some` only once per request.
    ///
    /// Call this again in `Drop`, because a layer outside may have ended a stream that was successful here.
    #[must_use]
    pub fn cause_to_log(&self) -> Option<&Cause> {
        let cause = self.cause()?;
        let logged = self.cell().logged.swap(true, Ordering::Relaxed);
        (!logged).then_some(cause)
    }

    /// The id of the request, if a layer has set one.
    #[inline]
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.cell().request_id()
    }

    /// Sets the id of the request. Returns false and changes nothing if it already has one.
    pub fn set_request_id(&self, id: RequestId) -> bool {
        self.cell().request_id.set((self.depth, id)).is_ok()
    }

    /// The drain that counts this request, as its layer stored it, for the handler.
    #[inline]
    #[must_use]
    pub fn drain(&self) -> Option<&Arc<dyn DrainHandle>> {
        self.cell().drain.get().map(|(_, drain)| drain)
    }

    /// Stores the drain that counts this request. Returns false and changes nothing if a layer further outside has stored one.
    #[inline]
    pub fn set_drain(&self, drain: Arc<dyn DrainHandle>) -> bool {
        self.cell().drain.set((self.depth, drain)).is_ok()
    }

    /// The permit that a limit gave this request, for work that outlives the request. `None` if there is no limit, or the
    /// response has ended.
    #[must_use]
    pub fn permit(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.cell().permit.get()?.1.upgrade()
    }

    /// Stores the permit of a limit. Returns false and changes nothing if a layer further outside has stored one. A weak
    /// reference, because the extensions that hold the exchange may live longer than the response.
    #[inline]
    pub fn set_permit(&self, permit: Weak<dyn Any + Send + Sync>) -> bool {
        self.cell().permit.set((self.depth, permit)).is_ok()
    }

    /// Holds the drain of this request, for work that outlives the response. `None` if there is no drain.
    #[must_use]
    pub fn hold_drain(&self) -> Option<Box<dyn DrainHold>> {
        self.drain().map(|drain| Arc::clone(drain).hold())
    }

    /// Returns an exchange for work that is begun by this request and whose end is not that of the response: it has the request
    /// id, the sequence, the dialect, the drain and the permit of this one, and neither its cause nor its claims.
    #[must_use]
    pub fn apart(&self) -> Self {
        let ours = self.cell();
        let mut cell = Cell::new(self.depth);
        cell.numbers_of = Some(Arc::clone(ours.numbers_of.as_ref().unwrap_or(ours)));
        inherit(&ours.request_id, &cell.request_id, u32::MAX);
        inherit(&ours.drain, &cell.drain, u32::MAX);
        inherit(&ours.permit, &cell.permit, u32::MAX);
        if let Some(named) = ours.dialects().last() {
            cell.name_dialect(named.by, named.dialect);
        }
        Self {
            cell: Arc::new(cell),
            depth: self.depth,
        }
    }

    /// The dialect of the response, if one was named: see [`Dialect`]. The dialect that was named last applies, which
    /// is the innermost one: layers name theirs before the inner service runs, the handler and the response head come
    /// later.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.cell().dialects().last().map(|named| named.dialect)
    }

    /// The dialect of a stream of this kind: the one that was named, or [`Dialect::plain`].
    #[must_use]
    pub fn dialect_of(&self, kind: StreamKind) -> Dialect {
        let named = self.dialect().filter(|dialect| dialect.kind() == kind);
        named.unwrap_or(Dialect::plain(kind))
    }

    #[inline]
    pub(crate) fn has_dialect(&self) -> bool {
        self.cell().dialect.get().is_some()
    }

    /// Names the dialect of the response to this request. For a layer that knows it, in `on_request`.
    pub fn set_dialect(&self, dialect: Dialect) {
        self.cell().name_dialect(self.depth, dialect);
    }

    /// Returns whether the body has returned the last record of its dialect. Nothing may be written after it.
    #[inline]
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.cell().is_terminal.load(Ordering::Relaxed)
    }

    pub(crate) fn set_terminal(&self) {
        self.cell().is_terminal.store(true, Ordering::Relaxed);
    }

    /// The sequence of the request.
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        let cell = self.cell();
        Sequence(Arc::clone(cell.numbers_of.as_ref().unwrap_or(cell)))
    }

    /// Returns true for the first layer that makes this claim; the others leave the work to that layer. Each attempt of
    /// a retried request has its own claims, in addition to those made outside of the retry.
    #[inline]
    pub fn claim(&self, claim: Claim) -> bool {
        let by = &self.cell().claims[claim as usize];
        by.compare_exchange(0, self.depth, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Returns whether a layer has made this claim.
    #[inline]
    #[must_use]
    pub fn is_claimed(&self, claim: Claim) -> bool {
        self.cell().claims[claim as usize].load(Ordering::Relaxed) != 0
    }

    /// Number of chunks (data frames that are not empty) that the heartbeat layer passed on. 0 without a
    /// [`Claim::Heartbeats`].
    #[inline]
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.cell().chunks.load(Ordering::Relaxed)
    }

    /// Sets the number of chunks that the heartbeat layer passed on.
    #[inline]
    pub fn set_chunks(&self, chunks: u64) {
        self.cell().chunks.store(chunks, Ordering::Relaxed);
    }

    /// Number of heartbeats that were written into the response.
    #[inline]
    #[must_use]
    pub fn heartbeats(&self) -> u64 {
        self.cell().heartbeats.load(Ordering::Relaxed)
    }

    /// Counts one more heartbeat. For the heartbeat layer.
    pub fn count_heartbeat(&self) {
        self.cell().heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    /// Numbers an observed body. Each further body is outside of those before it.
    #[inline]
    pub(crate) fn number_body(&self) -> u32 {
        self.cell().bodies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The end of a request that was dropped before its head arrived. A cause recorded further inside is ignored,
    /// because it belongs to an attempt whose response was not sent.
    pub(crate) fn settle_without_head(&self) -> StreamEnd {
        match self.cell().cause.get() {
            Some((by, cause)) if *by <= self.depth => StreamEnd::of_cause(cause),
            _ => StreamEnd::Dropped,
        }
    }

    /// Decides the end that body `number` reports, which itself saw `own`: the cause, the end of an outer body, or
    /// `own`. The result also settles the end for the bodies inside.
    ///
    /// `delivered`: the body returned everything that it declared before a cause was recorded, so a drain that ends it
    /// takes nothing away.
    pub(crate) fn settle(&self, number: u32, own: &StreamEnd, delivered: bool) -> StreamEnd {
        let cause = self.cause();
        let own = match cause {
            Some(cause) if !(delivered && cause.kind() == FaultKind::Drain) => BY_CAUSE,
            _ if *own == StreamEnd::Complete || self.is_terminal() => COMPLETE,
            _ => DROPPED,
        };
        let mine = u64::from(number) << 2 | own;
        let settled = self.cell().settled.fetch_max(mine, Ordering::AcqRel);
        let outer = (settled >> 2 > u64::from(number)).then_some(settled & 3);
        match (cause, outer.unwrap_or(own)) {
            (Some(cause), COMPLETE) if cause.kind() == FaultKind::Drain => StreamEnd::Complete,
            (Some(cause), _) => StreamEnd::of_cause(cause),
            (None, COMPLETE) => StreamEnd::Complete,
            (None, _) => StreamEnd::Dropped,
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("request_id", &self.request_id())
            .field("cause", &self.cause())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
