//! Schedules sends: which events of which queue form the next batch.
//!
//! An event stays here from its dispatch until it is marked or rejected:
//!
//! ```text
//! push ─▶ waiting ─next_batch▶ sending ─record_sent▶ sent ─record_marked▶ removed
//!            ▲                   │  │
//!            └──────retry────────┘  └─remove_rejected▶ removed
//! ```
//!
//! At most one event of an aggregate is being sent, and it is always the waiting event with the
//! lowest `sequence` (the "per-aggregate order" rule). So no event overtakes an earlier one, and an
//! event that fails delays its own aggregate only.
//!
//! `A` is the acknowledgement that the caller receives when an event is settled. An event that was
//! read twice is kept once, with both acknowledgements.

mod aggregate;
mod queue_state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outbox::message::MAX_MESSAGE_BYTES;
use tokio::time::Instant;

use self::aggregate::{Aggregate, AggregateState, EventState};
use self::queue_state::QueueState;
use super::record_classifier::Event;
use crate::routes::QueueRef;

/// Maximum number of messages in one batch. SQS: entries of a `SendMessageBatch`.
pub const MAX_BATCH: usize = 10;

/// Dispatched events by aggregate, and the order in which they are sent.
#[derive(Debug)]
pub struct SendScheduler<A> {
    aggregates: HashMap<String, Aggregate<A>>,
    queues: BTreeMap<QueueRef, QueueState>,
    /// Aggregates that are delayed after a failure of their own.
    delayed: BTreeSet<(Instant, String)>,
    /// Queue of the last batch: the others come first next time.
    last_served: Option<QueueRef>,
}

/// Reference to an event within the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventRef {
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub event: Arc<Event>,
    /// 1 for the first send.
    pub attempt: u64,
}

/// Events to send to one queue in one request.
///
/// Every event of it ends with [`SendScheduler::record_sent`], [`SendScheduler::retry`] or
/// [`SendScheduler::remove_rejected`], and the batch with [`SendScheduler::record_batch_success`]
/// or [`SendScheduler::record_batch_failure`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub queue: QueueRef,
    pub events: Vec<Outgoing>,
}

/// Permission to send an event, given by the lease of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Send,
    /// Undecided until the given instant.
    Later(Instant),
    /// The shard is lost: the event is forgotten.
    Never,
}

impl EventRef {
    pub fn of(event: &Event) -> Self {
        Self {
            aggregate_id: event.key.aggregate_id.clone(),
            sequence: event.sequence,
        }
    }
}

impl<A> Default for SendScheduler<A> {
    fn default() -> Self {
        Self {
            aggregates: HashMap::new(),
            queues: BTreeMap::new(),
            delayed: BTreeSet::new(),
            last_served: None,
        }
    }
}

impl<A> SendScheduler<A> {
    /// Adds a dispatched event.
    pub fn push(&mut self, event: Arc<Event>, ack: A) {
        let aggregate_id = event.key.aggregate_id.clone();
        self.aggregates
            .entry(aggregate_id.clone())
            .or_insert_with(Aggregate::new)
            .push(event, ack);
        self.enqueue_if_idle(aggregate_id);
    }

    /// Makes an idle aggregate ready in the queue of its first waiting event, or removes it if it
    /// has no events.
    fn enqueue_if_idle(&mut self, aggregate_id: String) {
        let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
            return;
        };
        if aggregate.state != AggregateState::Idle {
            return;
        }
        if let Some(scheduled) = aggregate.first_waiting() {
            let queue = scheduled.event.queue.clone();
            aggregate.state = AggregateState::Queued;
            self.queues
                .entry(queue)
                .or_default()
                .ready
                .push_back(aggregate_id);
        } else if aggregate.events.is_empty() {
            self.aggregates.remove(&aggregate_id);
        }
    }

    /// Returns the next batch, if one may be sent at `now`. `permission` is evaluated for every
    /// event with its acknowledgements.
    pub fn next_batch(
        &mut self,
        now: Instant,
        permission: impl Fn(&[A]) -> Permission,
    ) -> Option<Batch> {
        self.end_delays(now);
        // Filling a batch may move aggregates whose next event is for another queue, so the queues
        // are collected again until one yields events or none may send.
        loop {
            let mut queues: Vec<_> = self
                .queues
                .iter()
                .filter(|(_, state)| state.may_send(now))
                .map(|(queue, _)| queue.clone())
                .collect();
            if queues.is_empty() {
                return None;
            }
            if let Some(last) = &self.last_served {
                let first = queues.partition_point(|queue| queue <= last);
                queues.rotate_left(first);
            }
            for queue in queues {
                let events = self.fill_batch(&queue, &permission);
                if !events.is_empty() {
                    if let Some(state) = self.queues.get_mut(&queue) {
                        state.breaker.record_start();
                    }
                    self.last_served = Some(queue.clone());
                    return Some(Batch { queue, events });
                }
            }
        }
    }

    fn end_delays(&mut self, now: Instant) {
        while let Some((until, _)) = self.delayed.first()
            && *until <= now
            && let Some((_, aggregate_id)) = self.delayed.pop_first()
        {
            self.make_idle(aggregate_id);
        }
    }

    /// Ends the current send or delay of an aggregate, and continues with its next event.
    fn make_idle(&mut self, aggregate_id: String) {
        if let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) {
            aggregate.state = AggregateState::Idle;
        }
        self.enqueue_if_idle(aggregate_id);
    }

    fn fill_batch(
        &mut self,
        queue: &QueueRef,
        permission: impl Fn(&[A]) -> Permission,
    ) -> Vec<Outgoing> {
        let mut events: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while events.len() < MAX_BATCH {
            let Some(aggregate_id) = self
                .queues
                .get_mut(queue)
                .and_then(|state| state.ready.pop_front())
            else {
                break;
            };
            let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
                continue;
            };
            let Some(scheduled) = aggregate.first_waiting() else {
                self.make_idle(aggregate_id);
                continue;
            };
            if scheduled.event.queue != *queue {
                // An earlier event of the aggregate, for another queue, was read since.
                self.make_idle(aggregate_id);
                continue;
            }
            match permission(&scheduled.acks) {
                Permission::Send => {}
                Permission::Later(until) => {
                    self.delayed.insert((until, aggregate_id));
                    continue;
                }
                Permission::Never => {
                    let sequence = scheduled.event.sequence;
                    aggregate.events.remove(&sequence);
                    self.make_idle(aggregate_id);
                    continue;
                }
            }
            let size = scheduled.event.message.size();
            let fits =
                events.is_empty() || (!scheduled.isolated && bytes + size <= MAX_MESSAGE_BYTES);
            if !fits {
                if let Some(state) = self.queues.get_mut(queue) {
                    state.ready.push_front(aggregate_id);
                }
                break;
            }
            bytes += size;
            scheduled.state = EventState::Sending;
            scheduled.attempts += 1;
            let isolated = scheduled.isolated;
            events.push(Outgoing {
                event: Arc::clone(&scheduled.event),
                attempt: scheduled.attempts,
            });
            aggregate.state = AggregateState::Sending;
            if isolated {
                break;
            }
        }
        events
    }

    /// Records that the queue accepted the event. Returns `false` if the event is unknown;
    /// otherwise it must be marked, and ends with [`Self::record_marked`].
    pub fn record_sent(&mut self, event: &EventRef) -> bool {
        let scheduled = self
            .aggregates
            .get_mut(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.get_mut(&event.sequence));
        let is_known = scheduled.is_some();
        if let Some(scheduled) = scheduled {
            scheduled.state = EventState::Sent;
        }
        self.make_idle(event.aggregate_id.clone());
        is_known
    }

    /// Schedules an event again whose send failed or has an unknown outcome. Its aggregate is
    /// delayed until `until`. `isolated`: its batch was refused, possibly because of it, so it is
    /// sent in a batch of its own.
    pub fn retry(&mut self, event: &EventRef, until: Option<Instant>, isolated: bool) {
        let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) else {
            return;
        };
        if let Some(scheduled) = aggregate.events.get_mut(&event.sequence) {
            scheduled.state = EventState::Waiting;
            scheduled.isolated |= isolated;
        }
        match until {
            Some(until) => {
                aggregate.state = AggregateState::Queued;
                self.delayed.insert((until, event.aggregate_id.clone()));
            }
            None => self.make_idle(event.aggregate_id.clone()),
        }
    }

    /// Removes an event that can never be sent, and returns its acknowledgements. Later events of
    /// its aggregate continue.
    pub fn remove_rejected(&mut self, event: &EventRef) -> Vec<A> {
        let acks = self.remove(event);
        self.make_idle(event.aggregate_id.clone());
        acks
    }

    /// Removes waiting events that may never be sent, before they are first in line.
    pub fn remove_lost(&mut self, permission: impl Fn(&[A]) -> Permission) {
        for aggregate in self.aggregates.values_mut() {
            aggregate.events.retain(|_, scheduled| {
                scheduled.state != EventState::Waiting
                    || permission(&scheduled.acks) != Permission::Never
            });
        }
    }

    fn remove(&mut self, event: &EventRef) -> Vec<A> {
        self.aggregates
            .get_mut(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.remove(&event.sequence))
            .map(|scheduled| scheduled.acks)
            .unwrap_or_default()
    }

    /// Records that the queue accepted at least a part of a batch.
    pub fn record_batch_success(&mut self, queue: &QueueRef) {
        let state = self.queues.entry(queue.clone()).or_default();
        state.breaker.record_success();
    }

    /// Records that the queue accepted nothing of a batch. It is blocked for a delay, and then
    /// receives one batch at a time until one succeeds. `delay` maps the number of consecutive
    /// failures to the delay.
    pub fn record_batch_failure(
        &mut self,
        queue: &QueueRef,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let state = self.queues.entry(queue.clone()).or_default();
        state.breaker.record_failure(now, delay);
    }

    /// Returns `true` if an event waits for the queue or is being sent to it.
    pub fn is_in_use(&self, queue: &QueueRef) -> bool {
        self.queues
            .get(queue)
            .is_some_and(|state| !state.is_idle() || !state.ready.is_empty())
    }

    /// Removes an event that is marked or no longer exists, and returns its acknowledgements.
    pub fn record_marked(&mut self, event: &EventRef) -> Vec<A> {
        let acks = self.remove(event);
        self.enqueue_if_idle(event.aggregate_id.clone());
        acks
    }

    /// Returns the acknowledgements of an event.
    pub fn acks(&self, event: &EventRef) -> &[A] {
        self.aggregates
            .get(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.get(&event.sequence))
            .map_or(&[], |scheduled| &scheduled.acks)
    }

    /// Returns the next instant at which a delayed send may continue.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let queues = self.queues.values().filter_map(|state| state.next_due(now));
        let delayed = self.delayed.first().map(|(until, _)| *until);
        queues.chain(delayed).min()
    }

    /// Returns `true` if no batch is being sent.
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(QueueState::is_idle)
    }
}
