//! Events that have waited for a queue that failed: they are looked up before they are sent, since
//! an operator may have discarded them (the "deferral" rule).

use std::time::Duration;

use tokio::time::Instant;

use super::aggregate::{AggregateState, EventState, Slot};
use super::{Batch, EventRef, Outgoing, SendScheduler};
use crate::routes::QueueRef;

/// Time for which an event waits for a queue that fails before it is looked up again.
pub(super) const LOOK_UP_AFTER: Duration = Duration::from_secs(2);

impl<A> SendScheduler<A> {
    /// Returns `true` if one of these events has waited for long since it was dispatched or looked
    /// up, because a send to the queue or of an event of its aggregate failed.
    pub(super) fn needs_look_up(
        &self,
        queue: &QueueRef,
        events: &[Outgoing],
        now: Instant,
    ) -> bool {
        let of_queue = self.queues.get(queue).and_then(|state| state.last_failure);
        events.iter().any(|outgoing| {
            let event = EventRef::of(&outgoing.event);
            let aggregate = self.aggregates.get(&event.aggregate_id);
            let last_failure = of_queue.max(aggregate.and_then(|known| known.last_failure));
            self.scheduled(&event).is_some_and(|scheduled| {
                scheduled.known_at + LOOK_UP_AFTER <= now
                    && last_failure.is_some_and(|at| at >= scheduled.known_at)
            })
        })
    }

    /// Returns `true` if the event was dispatched again since the look-up of a batch began, so that
    /// the result does not apply to it.
    pub fn is_newer(&self, event: &EventRef, look_up: &Batch) -> bool {
        self.scheduled(event)
            .is_some_and(|scheduled| scheduled.known_at > look_up.started)
    }

    /// Makes events that were looked up and are still pending the first to be sent, in this order.
    pub fn resume<'a>(
        &mut self,
        events: impl DoubleEndedIterator<Item = &'a EventRef>,
        now: Instant,
    ) {
        for event in events.rev() {
            let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) else {
                continue;
            };
            let Some(scheduled) = aggregate.events.get_mut(&Slot::of(event)) else {
                self.make_idle(event.aggregate_id.clone(), now);
                continue;
            };
            scheduled.state = EventState::Waiting;
            scheduled.known_at = now;
            // It was not sent.
            scheduled.attempts = scheduled.attempts.saturating_sub(1);
            aggregate.state = AggregateState::Queued;
            let state = self
                .queues
                .entry(scheduled.event.queue.clone())
                .or_default();
            state.waiting.add(scheduled);
            state.return_ready(event.aggregate_id.clone());
        }
    }
}
