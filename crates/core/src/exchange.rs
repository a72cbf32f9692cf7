//! State shared by all layers of one request.

use std::{
    any::Any,
    cell, fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use http::Extensions;

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

#[derive(Default)]
pub(crate) struct Cell {
    /// The cause, and the depth of the layer that recorded it.
    cause: OnceLock<(u32, Cause)>,
    /// With the depth of the layer that set it.
    request_id: OnceLock<(u32, RequestId)>,
    /// With the depth of the layer that set it.
    drain: OnceLock<(u32, Arc<dyn DrainHandle>)>,
    /// With the depth of the layer that set it.
    permit: OnceLock<(u32, Weak<dyn Any + Send + Sync>)>,
    /// The list of the dialects that were named, in the order in which they were named. The last one applies.
    dialect: OnceLock<Box<NamedDialect>>,
    /// Whether the body has returned the last record of its dialect.
    is_terminal: AtomicBool,
    numbers: AtomicU64,
    /// Number of chunks that the heartbeat layer passed on.
    chunks: AtomicU64,
    /// Number of heartbeats that the heartbeat layer wrote.
    heartbeats: AtomicU64,
    /// The cell whose sequence the request uses. `None` if it is that of this cell.
    numbers_of: Option<Arc<Cell>>,
    /// For each [`Claim`], the depth of the layer that made it, or 0.
    claims: [AtomicU32; Claim::COUNT],
    /// The greatest depth of a layer that uses this cell.
    deepest: AtomicU32,
    /// Whether this cell belongs to a later attempt.
    is_fork: bool,
    /// The cell that the layers outside of the fork follow instead of this one.
    next: OnceLock<Fork>,
    /// Number of observed bodies of this request. The innermost is number 1.
    bodies: AtomicU32,
    /// Whether a layer has undertaken to log the cause.
    logged: AtomicBool,
    /// `number of the body << 2 | how it ended`, of the outermost body that has reported its end.
    settled: AtomicU64,
}

struct NamedDialect {
    by: u32,
    dialect: Dialect,
    next: OnceLock<Box<Self>>,
}

/// A later attempt, which started at a layer of this depth.
struct Fork {
    depth: u32,
    cell: Arc<Cell>,
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
}

impl Claim {
    const COUNT: usize = Self::Heartbeats as usize + 1;
}

/// How a body ended, in [`Cell::settled`].
const DROPPED: u64 = 0;
const COMPLETE: u64 = 1;
const BY_CAUSE: u64 = 2;

impl Cell {
    fn new(depth: u32) -> Self {
        let mut cell = Self::default();
        *cell.deepest.get_mut() = depth;
        cell
    }

    /// Creates the cell of an attempt that starts at a layer of this depth. It inherits what the layers outside have
    /// written.
    fn fork(self: &Arc<Self>, depth: u32) -> Arc<Self> {
        let mut child = Self::new(depth);
        child.is_fork = true;
        child.numbers_of = Some(Arc::clone(self.numbers_of.as_ref().unwrap_or(self)));
        if inherit(&self.cause, &child.cause, depth) {
            *child.logged.get_mut() = self.logged.load(Ordering::Relaxed);
        }
        inherit(&self.request_id, &child.request_id, depth);
        inherit(&self.drain, &child.drain, depth);
        inherit(&self.permit, &child.permit, depth);
        if let Some(named) = self.dialects().filter(|named| named.by < depth).last() {
            child.name_dialect(named.by, named.dialect);
        }
        for (theirs, ours) in child.claims.iter_mut().zip(&self.claims) {
            let by = ours.load(Ordering::Relaxed);
            *theirs.get_mut() = if by < depth { by } else { 0 };
        }
        Arc::new(child)
    }

    /// Creates a cell for ids without a request, or of a request that runs elsewhere.
    pub(crate) fn of_ids(request_id: Option<RequestId>, numbers_of: Option<Arc<Self>>) -> Self {
        let mut cell = Self::default();
        cell.numbers_of = numbers_of;
        if let Some(id) = request_id {
            let _ = cell.request_id.set((0, id));
        }
        cell
    }

    #[inline]
    pub(crate) fn request_id(&self) -> Option<&RequestId> {
        self.request_id.get().map(|(_, id)| id)
    }

    fn dialects(&self) -> impl Iterator<Item = &NamedDialect> {
        let first = self.dialect.get();
        std::iter::successors(first, |named| named.next.get()).map(|named| &**named)
    }

    fn name_dialect(&self, by: u32, dialect: Dialect) {
        let mut named = Box::new(NamedDialect {
            by,
            dialect,
            next: OnceLock::new(),
        });
        let mut place = &self.dialect;
        while let Err(refused) = place.set(named) {
            named = refused;
            match place.get() {
                Some(before) => place = &before.next,
                None => return,
            }
        }
    }

    #[inline]
    pub(crate) fn numbers(&self) -> &AtomicU64 {
        match &self.numbers_of {
            Some(other) => &other.numbers,
            None => &self.numbers,
        }
    }
}

/// Copies a value that a layer outside of this depth has written. Returns false if there is none.
fn inherit<T: Clone>(from: &OnceLock<(u32, T)>, to: &OnceLock<(u32, T)>, depth: u32) -> bool {
    let written = from.get().filter(|(by, _)| *by < depth);
    written.is_some_and(|written| to.set(written.clone()).is_ok())
}

impl Drop for Cell {
    /// Drops the cells iteratively: a request that is retried for hours has a long chain of cells.
    #[inline]
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut cell) = next.and_then(|fork| Arc::into_inner(fork.cell)) {
            next = cell.next.take();
        }
    }
}

thread_local! {
    /// Address of the cell of the wrapper whose service runs on this thread, or 0.
    static RUNNING: cell::Cell<usize> = const { cell::Cell::new(0) };
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
mod tests {
    use super::*;
    use crate::FaultKind;

    fn cause(message: &str) -> Cause {
        Cause::new(FaultKind::Other, message)
    }

    #[test]
    fn the_first_cause_wins() {
        let fault = Exchange::new();
        assert!(fault.record(cause("first")));
        assert!(!fault.record(cause("second")));
        assert_eq!(fault.cause().unwrap().message(), "first");
    }

    #[test]
    fn a_claim_is_made_once_and_seen_by_all() {
        let mut request = Extensions::new();
        let (outer, inner) = (Exchange::of(&mut request), Exchange::of(&mut request));
        assert!(!inner.is_claimed(Claim::ActivatedSpan));
        assert!(outer.claim(Claim::ActivatedSpan));
        assert!(inner.is_claimed(Claim::ActivatedSpan));
        assert!(!inner.claim(Claim::ActivatedSpan));
        assert!(!inner.is_claimed(Claim::RequestSpan));
    }

    #[test]
    fn one_layer_logs_the_cause() {
        let mut request = Extensions::new();
        let (outer, inner) = (Exchange::of(&mut request), Exchange::of(&mut request));
        assert!(inner.cause_to_log().is_none(), "nothing to log yet");
        inner.record(cause("x"));
        assert_eq!(outer.cause_to_log().unwrap().message(), "x");
        assert!(inner.cause_to_log().is_none());
    }

    #[test]
    fn layers_of_one_request_share_one_cell() {
        let mut request = Extensions::new();
        let outer = Exchange::of(&mut request);
        let inner = Exchange::of(&mut request);
        inner.record(cause("x"));
        assert!(outer.cause().is_some());
    }

    #[test]
    fn a_request_rebuilt_inside_is_joined_on_the_head() {
        let mut outer = Exchange::of(&mut Extensions::new());
        let mut inner = Exchange::of(&mut Extensions::new());
        let mut response = Extensions::new();
        inner.join(&mut response);
        outer.join(&mut response);
        inner.record(cause("inside"));
        assert_eq!(outer.cause().unwrap().message(), "inside");
    }

    #[test]
    fn what_was_known_outside_before_the_head_is_known_inside() {
        let mut outer = Exchange::of(&mut Extensions::new());
        let mut inner = Exchange::of(&mut Extensions::new());
        outer.record(cause("outside"));
        let mut response = Extensions::new();
        inner.join(&mut response);
        outer.join(&mut response);
        assert_eq!(inner.cause().unwrap().message(), "outside");
    }

    /// A layer outside of a retry, and the request as it comes to the retry.
    fn outside() -> (Exchange, Extensions) {
        let mut request = Extensions::new();
        (Exchange::of(&mut request), request)
    }

    /// The layer inside of the retry, in one attempt.
    fn attempt(request: &Extensions) -> (Exchange, Extensions) {
        let mut request = request.clone();
        (Exchange::of(&mut request), request)
    }

    #[test]
    fn an_attempt_that_was_not_sent_on_decides_nothing() {
        let (mut outer, request) = outside();
        let (first, mut first_request) = attempt(&request);
        assert!(Exchange::of(&mut first_request).record(cause("attempt 1")));
        let (mut second, _) = attempt(&request);
        assert!(outer.cause().is_none(), "while the second is under way");
        assert!(second.cause().is_none());
        let mut response = Extensions::new();
        second.join(&mut response);
        outer.join(&mut response);
        assert!(outer.cause().is_none());
        assert_eq!(first.cause().unwrap().message(), "attempt 1");
        second.record(cause("attempt 2"));
        assert_eq!(outer.cause().unwrap().message(), "attempt 2");
    }

    #[test]
    fn the_attempt_whose_response_is_sent_on_decides() {
        let (mut outer, request) = outside();
        let (mut first, _) = attempt(&request);
        let mut response = Extensions::new();
        first.join(&mut response);
        // A hedged request, whose response is not awaited.
        let (second, _) = attempt(&request);
        second.record(cause("attempt 2"));
        outer.join(&mut response);
        let (third, _) = attempt(&request);
        third.record(cause("attempt 3"));
        assert!(outer.cause().is_none());
        first.record(cause("attempt 1"));
        assert_eq!(outer.cause().unwrap().message(), "attempt 1");
    }

    #[test]
    fn what_a_layer_outside_of_the_retry_recorded_holds_for_each_attempt() {
        let (outer, request) = outside();
        let (first, _) = attempt(&request);
        outer.record(cause("outside"));
        let (second, _) = attempt(&request);
        for attempt in [&first, &second] {
            assert_eq!(attempt.cause().unwrap().message(), "outside");
        }
    }

    #[test]
    fn a_cause_from_outside_comes_to_an_attempt_that_is_under_way() {
        let (outer, request) = outside();
        let (first, _) = attempt(&request);
        first.record(cause("attempt 1"));
        let (second, _) = attempt(&request);
        assert!(outer.record(cause("outside")));
        assert_eq!(second.cause().unwrap().message(), "outside");
        assert_eq!(first.cause().unwrap().message(), "attempt 1");
    }

    struct NoDrain;

    impl DrainHandle for NoDrain {
        fn hold(self: Arc<Self>) -> Box<dyn DrainHold> {
            Box::new(Self)
        }
    }

    impl DrainHold for NoDrain {
        fn deadline(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn work_apart_has_the_ids_and_the_drain_and_an_end_of_its_own() {
        let (outer, _) = outside();
        assert!(outer.set_drain(Arc::new(NoDrain)));
        outer.set_dialect(Dialect::OPENAI_CHAT);
        assert!(outer.claim(Claim::ChunkNumbers));
        outer.sequence().next();
        let apart = outer.apart();
        assert!(apart.hold_drain().is_some() && apart.claim(Claim::ChunkNumbers));
        assert_eq!(apart.dialect().unwrap().name(), "openai-chat");
        assert_eq!(apart.sequence().last(), outer.sequence().last());
        apart.record(cause("of the work"));
        assert!(outer.cause().is_none());
        outer.record(cause("of the response"));
        assert_eq!(apart.cause().unwrap().message(), "of the work");
    }

    #[test]
    fn the_drain_of_a_layer_outside_of_the_retry_is_that_of_each_attempt() {
        let drain = || Arc::new(NoDrain) as Arc<dyn DrainHandle>;
        let (outer, request) = outside();
        assert!(outer.set_drain(drain()));
        for _ in 0..2 {
            let (attempt, _) = attempt(&request);
            assert!(attempt.drain().is_some() && !attempt.set_drain(drain()));
        }
        let (_, request) = outside();
        for _ in 0..2 {
            let (attempt, _) = attempt(&request);
            assert!(attempt.set_drain(drain()), "counted once an attempt");
        }
    }

    #[test]
    fn retries_inside_of_a_retry() {
        let (mut outer, request) = outside();
        let (mut middle, inner_request) = attempt(&request);
        for _ in 0..3 {
            attempt(&inner_request).0.record(cause("inner"));
        }
        let (mut last, _) = attempt(&inner_request);
        let mut response = Extensions::new();
        last.join(&mut response);
        middle.join(&mut response);
        assert!(middle.cause().is_none() && outer.cause().is_none());
        middle.record(cause("middle"));
        assert_eq!(last.cause().unwrap().message(), "middle");
        // The outer retry.
        let (mut second, second_request) = attempt(&request);
        assert!(outer.cause().is_none() && second.cause().is_none());
        attempt(&second_request).0.record(cause("inner"));
        let (mut inner, _) = attempt(&second_request);
        // The first attempt of the outer retry continues, but is no longer followed.
        let (late, _) = attempt(&inner_request);
        late.record(cause("late"));
        let mut response = Extensions::new();
        inner.join(&mut response);
        second.join(&mut response);
        outer.join(&mut response);
        assert!(outer.cause().is_none());
        inner.record(cause("the end"));
        assert_eq!(outer.cause().unwrap().message(), "the end");
    }

    #[test]
    fn a_request_that_is_retried_for_hours() {
        let (outer, request) = outside();
        let attempts: Vec<_> = (0..100).map(|_| attempt(&request)).collect();
        let (last, earlier) = attempts.split_last().unwrap();
        for (fault, _) in earlier {
            fault.record(cause("earlier"));
        }
        assert!(outer.cause().is_none());
        last.0.record(cause("last"));
        assert_eq!(outer.cause().unwrap().message(), "last");
        drop(attempts);
        // Dropped in a loop. If each cell dropped the next one, the stack would overflow.
        let mut cell = Arc::new(Cell::default());
        for _ in 0..200_000 {
            let mut next = Cell::default();
            next.next = OnceLock::from(Fork { depth: 1, cell });
            cell = Arc::new(next);
        }
        drop(cell);
    }

    #[test]
    fn attempts_at_once_have_a_cell_each() {
        let (outer, request) = outside();
        let attempts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| attempt(&request).0))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.collect()
        });
        for attempt in &attempts {
            assert!(attempt.record(cause("its own")));
        }
        assert!(outer.cause().is_some(), "it follows one of them");
    }

    #[test]
    fn a_request_without_a_head_is_dropped_whatever_an_attempt_recorded() {
        let (outer, request) = outside();
        let (first, _) = attempt(&request);
        first.record(cause("attempt 1"));
        // The client disconnects while the retry waits.
        assert_eq!(outer.settle_without_head(), StreamEnd::Dropped);
        assert_eq!(
            first.settle_without_head(),
            StreamEnd::Failed(cause("attempt 1"))
        );
    }

    #[test]
    fn a_drain_takes_nothing_from_a_body_that_was_delivered() {
        let drained = || {
            let fault = Exchange::new();
            fault.record(Cause::new(FaultKind::Drain, "going"));
            let bodies = (fault.number_body(), fault.number_body());
            (fault, bodies)
        };
        // Inside of a layer that had more to send.
        let (fault, (inner, outer)) = drained();
        let end = fault.settle(outer, &StreamEnd::Dropped, false);
        assert_eq!(end.error_type(), Some("drain"));
        assert_eq!(fault.settle(inner, &StreamEnd::Complete, true), end);
        // The length was declared outside.
        let (fault, (inner, outer)) = drained();
        for (number, own, delivered) in [
            (outer, StreamEnd::Complete, true),
            (inner, StreamEnd::Dropped, false),
        ] {
            let end = fault.settle(number, &own, delivered);
            assert_eq!(end, StreamEnd::Complete);
        }
        // No other cause is overridden.
        let fault = Exchange::new();
        fault.record(Cause::new(FaultKind::DigestMismatch, "md5"));
        let end = fault.settle(fault.number_body(), &StreamEnd::Complete, true);
        assert_eq!(end.error_type(), Some("digest_mismatch"));
    }

    #[test]
    fn only_an_outer_end_settles_an_inner_one() {
        let fault = Exchange::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // The inner body ended long before the client disconnected.
        assert_eq!(
            fault.settle(inner, &StreamEnd::Complete, false),
            StreamEnd::Complete
        );
        assert_eq!(
            fault.settle(outer, &StreamEnd::Dropped, false),
            StreamEnd::Dropped
        );

        let fault = Exchange::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // Everything was sent, and then dropped from the outside inwards.
        assert_eq!(
            fault.settle(outer, &StreamEnd::Complete, false),
            StreamEnd::Complete
        );
        assert_eq!(
            fault.settle(inner, &StreamEnd::Dropped, false),
            StreamEnd::Complete
        );
    }
}
