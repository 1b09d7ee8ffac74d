//! Outcomes of sends: what becomes of the events of a batch, and of the batch itself.

use std::time::Duration;

use tokio::time::Instant;

use super::aggregate::{AggregateState, EventState, Slot};
use super::{Batch, EventRef, SendScheduler};

impl<A> SendScheduler<A> {
    /// Records that the queue accepted the event. Returns `false` if the event is unknown;
    /// otherwise it must be marked, and ends with [`Self::record_marked`].
    pub fn record_sent(&mut self, event: &EventRef, now: Instant) -> bool {
        let scheduled = self.scheduled_mut(event);
        let is_known = scheduled.is_some();
        if let Some(scheduled) = scheduled {
            scheduled.state = EventState::Sent;
        }
        self.make_idle(event.aggregate_id.clone(), now);
        is_known
    }

    /// Schedules an event again whose send failed or has an unknown outcome. Its aggregate is
    /// delayed until `until`. `isolated`: its batch was refused, possibly because of it, so it is
    /// sent in a batch of its own.
    pub fn retry(
        &mut self,
        event: &EventRef,
        until: Option<Instant>,
        isolated: bool,
        now: Instant,
    ) {
        let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) else {
            return;
        };
        if let Some(scheduled) = aggregate.events.get_mut(&Slot::of(event)) {
            scheduled.state = EventState::Waiting;
            scheduled.isolated |= isolated;
            let queue = scheduled.event.queue.clone();
            self.queues.entry(queue).or_default().waiting.add(scheduled);
        }
        aggregate.last_failure = Some(now);
        match until {
            Some(until) => {
                aggregate.state = AggregateState::Queued;
                self.delayed.insert((until, event.aggregate_id.clone()));
            }
            None => self.make_idle(event.aggregate_id.clone(), now),
        }
    }

    /// Records a failure that concerns the event and not its queue. Returns the time since the
    /// first of them.
    pub fn record_own_failure(&mut self, event: &EventRef, now: Instant) -> Duration {
        self.scheduled_mut(event)
            .map_or(Duration::ZERO, |scheduled| {
                now - *scheduled.failing_since.get_or_insert(now)
            })
    }

    /// Removes an event that can never be sent, and returns its acknowledgements. Later events of
    /// its aggregate continue.
    pub fn remove_rejected(&mut self, event: &EventRef, now: Instant) -> Vec<A> {
        let acks = self.remove(event);
        self.make_idle(event.aggregate_id.clone(), now);
        acks
    }

    /// Records that the queue accepted at least a part of a batch.
    pub fn record_batch_success(&mut self, batch: &Batch) {
        if let Some(state) = self.queues.get_mut(&batch.queue) {
            state.record_success(batch.number);
        }
    }

    /// Records that the queue accepted nothing of a batch. It is blocked for a delay, and then
    /// receives one batch at a time until one succeeds. `delay` maps the number of consecutive
    /// failures to the delay.
    pub fn record_batch_failure(
        &mut self,
        batch: &Batch,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        if let Some(state) = self.queues.get_mut(&batch.queue) {
            state.record_failure(batch.number, now, delay);
        }
    }

    /// Records the end of a batch that does not show whether the queue is available.
    pub fn record_batch_end(&mut self, batch: &Batch) {
        if let Some(state) = self.queues.get_mut(&batch.queue) {
            state.record_end(batch.number);
        }
    }

    /// Removes an event that is marked or no longer exists, and returns its acknowledgements.
    pub fn record_marked(&mut self, event: &EventRef, now: Instant) -> Vec<A> {
        let acks = self.remove(event);
        self.enqueue_if_idle(event.aggregate_id.clone(), now);
        acks
    }
}
