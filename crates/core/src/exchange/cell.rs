//! What the layers of one request share, and the cells of its attempts.

use std::{
    any::Any,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use super::{Claim, DrainHandle};
use crate::{Cause, Dialect, RequestId};

#[derive(Default)]
pub(crate) struct Cell {
    /// The cause, and the depth of the layer that recorded it.
    pub(super) cause: OnceLock<(u32, Cause)>,
    /// With the depth of the layer that set it.
    pub(super) request_id: OnceLock<(u32, RequestId)>,
    /// With the depth of the layer that set it.
    pub(super) drain: OnceLock<(u32, Arc<dyn DrainHandle>)>,
    /// With the depth of the layer that set it.
    pub(super) permit: OnceLock<(u32, Weak<dyn Any + Send + Sync>)>,
    /// The list of the dialects that were named, in the order in which they were named. The last one applies.
    pub(super) dialect: OnceLock<Box<NamedDialect>>,
    /// Whether the body has returned the last record of its dialect.
    pub(super) is_terminal: AtomicBool,
    pub(super) numbers: AtomicU64,
    /// Number of chunks that the heartbeat layer passed on.
    pub(super) chunks: AtomicU64,
    /// Number of heartbeats that the heartbeat layer wrote.
    pub(super) heartbeats: AtomicU64,
    /// The cell whose sequence the request uses. `None` if it is that of this cell.
    pub(super) numbers_of: Option<Arc<Cell>>,
    /// For each [`Claim`], the depth of the layer that made it, or 0.
    pub(super) claims: [AtomicU32; Claim::COUNT],
    /// The greatest depth of a layer that uses this cell.
    pub(super) deepest: AtomicU32,
    /// Whether this cell belongs to a later attempt.
    pub(super) is_fork: bool,
    /// The cell that the layers outside of the fork follow instead of this one.
    pub(super) next: OnceLock<Fork>,
    /// Number of observed bodies of this request. The innermost is number 1.
    pub(super) bodies: AtomicU32,
    /// Whether a layer has undertaken to log the cause.
    pub(super) logged: AtomicBool,
    /// `number of the body << 2 | how it ended`, of the outermost body that has reported its end.
    pub(super) settled: AtomicU64,
}

pub(super) struct NamedDialect {
    pub(super) by: u32,
    pub(super) dialect: Dialect,
    pub(super) next: OnceLock<Box<Self>>,
}

/// A later attempt, which started at a layer of this depth.
pub(super) struct Fork {
    pub(super) depth: u32,
    pub(super) cell: Arc<Cell>,
}

impl Cell {
    pub(super) fn new(depth: u32) -> Self {
        let mut cell = Self::default();
        *cell.deepest.get_mut() = depth;
        cell
    }

    /// Creates the cell of an attempt that starts at a layer of this depth. It inherits what the layers outside have
    /// written.
    pub(super) fn fork(self: &Arc<Self>, depth: u32) -> Arc<Self> {
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

    pub(super) fn dialects(&self) -> impl Iterator<Item = &NamedDialect> {
        let first = self.dialect.get();
        std::iter::successors(first, |named| named.next.get()).map(|named| &**named)
    }

    pub(super) fn name_dialect(&self, by: u32, dialect: Dialect) {
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
pub(super) fn inherit<T: Clone>(
    from: &OnceLock<(u32, T)>,
    to: &OnceLock<(u32, T)>,
    depth: u32,
) -> bool {
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
