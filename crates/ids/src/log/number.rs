//! One number for one event, however many layers print it.

use std::cell::RefCell;

use tracing::{Event, Subscriber, span};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::RequestScope;

/// A `tracing-subscriber` layer that numbers the events of each request, see the [module](crate::log).
///
/// Add it once to a subscriber, at any place. A number is drawn when the first layer prints the event, so an event
/// that nobody prints draws none.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RequestLog;

impl RequestLog {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// The event that is being recorded on this thread.
#[derive(Clone, Default)]
struct Current {
    /// its address: every layer is given the same one
    event: usize,
    name: &'static str,
    scope: RequestScope,
    /// 0 until one is drawn
    number: u64,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
}

fn address(event: &Event<'_>) -> usize {
    std::ptr::from_ref(event).addr()
}

impl<S> Layer<S> for RequestLog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, _: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut scope = RequestScope::current();
        if scope.request_id().is_none() {
            let parent = span.parent();
            let known = parent.and_then(|parent| parent.extensions().get().cloned());
            scope = known.unwrap_or_default();
        }
        if scope.request_id().is_some() {
            span.extensions_mut().replace(scope);
        }
    }

    // runs once before any layer records the event, whatever the order of the layers
    fn event_enabled(&self, event: &Event<'_>, ctx: Context<'_, S>) -> bool {
        let mut scope = RequestScope::current();
        if scope.request_id().is_none() {
            let span = ctx.event_span(event);
            let known = span.and_then(|span| span.extensions().get().cloned());
            scope = known.unwrap_or_default();
        }
        let current = Current {
            event: address(event),
            name: event.metadata().name(),
            scope,
            number: 0,
        };
        // the one before may hold the last reference to something: drop it outside of the borrow
        let _before = CURRENT.try_with(|before| before.replace(current));
        true
    }
}

impl Current {
    fn ids(&mut self) -> Option<(RequestScope, u64)> {
        let sequence = self.scope.sequence()?;
        if self.number == 0 {
            self.number = sequence.next();
        }
        Some((self.scope.clone(), self.number))
    }
}

/// The ids of an event, for as long as a layer prints it.
pub(super) struct EventIds {
    current: Current,
    /// a `RequestLog` has announced the event, and the number is for all layers
    shared: bool,
}

impl EventIds {
    /// The ids of this event. Without a [`RequestLog`] it is a number for the caller alone.
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self::when(|current| {
            // the address may be that of an event before; then at least its callsite has to be the same
            current.event == address(event) && std::ptr::eq(current.name, event.metadata().name())
        })
    }

    /// The ids of the event of this name that is being recorded here.
    #[cfg(feature = "opentelemetry")]
    pub(super) fn of_name(name: Option<&'static str>) -> Self {
        // the name of an event is a constant of its callsite, so it is the address that tells
        Self::when(|current| name.is_some_and(|name| std::ptr::eq(name, current.name)))
    }

    fn when(is_this: impl FnOnce(&Current) -> bool) -> Self {
        let shared = CURRENT.try_with(|current| {
            let mut current = current.borrow_mut();
            is_this(&current).then(|| {
                current.ids();
                current.clone()
            })
        });
        match shared {
            Ok(Some(current)) => Self {
                current,
                shared: true,
            },
            _ => {
                let mut current = Current {
                    scope: RequestScope::current(),
                    ..Current::default()
                };
                current.ids();
                Self {
                    current,
                    shared: false,
                }
            }
        }
    }

    /// The request's id and the event's number, if the event belongs to a request.
    pub(super) fn get(&self) -> Option<(&str, u64)> {
        let id = self.current.scope.request_id()?;
        Some((id.as_str(), self.current.number))
    }
}

impl Drop for EventIds {
    fn drop(&mut self) {
        // a value that logs while it is printed has announced an event of its own meanwhile
        if self.shared {
            let _after = CURRENT.try_with(|current| {
                let moved_on = current.borrow().event != self.current.event;
                moved_on.then(|| current.replace(std::mem::take(&mut self.current)))
            });
        }
    }
}
