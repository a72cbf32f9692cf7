//! Gives each event one number, however many layers print it.

use std::cell::RefCell;

use tracing::{Event, Subscriber, span};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::RequestScope;

/// A `tracing-subscriber` layer that numbers the events of each request, see the [module](crate::log).
///
/// Add it once to a subscriber, at any place and without a filter of its own. An event takes a number when the first
/// layer prints it, so an event that no layer prints takes none.
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

/// The event that this thread is recording.
#[derive(Clone, Default)]
struct Current {
    /// The name of the event, a constant of its callsite. Compared by address.
    name: Option<&'static str>,
    scope: RequestScope,
    /// 0 until a number is taken.
    number: u64,
}

impl Current {
    /// Takes a number unless the event has one.
    fn draw(&mut self) -> Self {
        match self.scope.sequence() {
            Some(sequence) if self.number == 0 => self.number = sequence.next(),
            _ => {}
        }
        self.clone()
    }
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
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

    // Runs once, before any layer records the event, whatever the order of the layers.
    fn event_enabled(&self, event: &Event<'_>, ctx: Context<'_, S>) -> bool {
        let mut scope = RequestScope::current();
        if scope.request_id().is_none() {
            let span = ctx.event_span(event);
            let known = span.and_then(|span| span.extensions().get().cloned());
            scope = known.unwrap_or_default();
        }
        replace(Current {
            name: Some(event.metadata().name()),
            scope,
            number: 0,
        });
        true
    }
}

fn replace(current: Current) {
    // The previous value may hold the last reference to something, so drop it after the borrow has ended.
    let _before = CURRENT.try_with(|before| before.replace(current));
}

/// The ids of an event, valid while a layer prints it.
pub(super) struct EventIds(Current);

impl EventIds {
    /// Returns the ids of this event.
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self::of_name(Some(event.metadata().name()))
    }

    /// Returns the ids of the event with this name that is being recorded on this thread. If no [`RequestLog`] has seen
    /// it, it takes a number that only the caller knows.
    pub(super) fn of_name(name: Option<&'static str>) -> Self {
        let shared = CURRENT.try_with(|current| {
            let mut current = current.borrow_mut();
            let seen = name.zip(current.name);
            seen.is_some_and(|(a, b)| std::ptr::eq(a, b))
                .then(|| current.draw())
        });
        Self(shared.ok().flatten().unwrap_or_else(|| {
            let mut alone = Current {
                name: None,
                scope: RequestScope::current(),
                number: 0,
            };
            alone.draw()
        }))
    }

    /// The request id and the event's number, if the event belongs to a request.
    pub(super) fn get(&self) -> Option<(&str, u64)> {
        let id = self.0.scope.request_id()?;
        Some((id.as_str(), self.0.number))
    }
}

impl Drop for EventIds {
    fn drop(&mut self) {
        // A value that logs while it is printed overwrites the current event. Restore the outer one for the next layer.
        if self.0.name.is_some() {
            replace(std::mem::take(&mut self.0));
        }
    }
}
