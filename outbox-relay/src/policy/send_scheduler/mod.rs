//! Schedules sends: which events of which queue form the next batch.
//!
//! An event stays here from its dispatch until it is marked or rejected:
//!
//! ```text
//! push ─▶ waiting ─next_batch▶ sending ─record_sent▶ sent ─record_marked▶ removed
//!            ▲                   │  │
//!            └──retry, resume────┘  └─remove_rejected▶ removed
//! ```
//!
//! At most one event of an aggregate is being sent, and it is always the waiting event with the
//! lowest `sequence` (the "per-aggregate order" rule). So no event overtakes an earlier one, and an
//! event that fails delays its own aggregate only.
//!
//! What exceeds a queue's share of the buffer leaves the scheduler by [`SendScheduler::shed`]: the
//! table contains it, and returns it when the queue accepts events again (the "deferral" rule).
//!
//! `A` is the acknowledgement that the caller receives when an event is settled. An event that was
//! read twice is kept once, with both acknowledgements.

mod aggregate;
mod look_ups;
mod outcomes;
mod queue_state;
mod shares;
mod shedding;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outbox::message::MAX_MESSAGE_BYTES;
use tokio::time::Instant;

use self::aggregate::{Aggregate, AggregateState, EventState, ScheduledEvent, Slot};
use self::queue_state::QueueState;
use self::shares::SlotUse;
pub use self::shares::{DEFER_AFTER, MAX_SENDS, QueueHealth};
pub use self::shedding::{QueueReport, Shed};
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
    /// Number of aggregates that have arrived so far.
    arrivals: u64,
    /// Number of batches so far.
    batches: u64,
}

/// Reference to one publication of an event within the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventRef {
    pub aggregate_id: String,
    pub sequence: u64,
    /// Number of the replay; `None` for a first publication.
    pub replay: Option<u64>,
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub event: Arc<Event>,
    /// 1 for the first send.
    pub attempt: u64,
}

/// Events to send to one queue in one request, or to look up before.
///
/// Every event of it ends with [`SendScheduler::record_sent`], [`SendScheduler::retry`],
/// [`SendScheduler::resume`] or [`SendScheduler::remove_rejected`], and the batch with
/// [`SendScheduler::record_batch_success`], [`SendScheduler::record_batch_failure`] or
/// [`SendScheduler::record_batch_end`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub queue: QueueRef,
    pub events: Vec<Outgoing>,
    /// Some of the events have waited for a queue that failed. They may be settled by now, so the
    /// batch is not sent but looked up.
    pub is_look_up: bool,
    /// Time of its start.
    started: Instant,
    number: u64,
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
            replay: event.generation.replays,
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
            arrivals: 0,
            batches: 0,
        }
    }
}

impl<A> SendScheduler<A> {
    /// Adds a dispatched event. `is_from_table`: it was read from the table, not from the stream.
    pub fn push(&mut self, event: Arc<Event>, ack: A, is_from_table: bool, now: Instant) {
        let reference = EventRef::of(&event);
        let arrivals = &mut self.arrivals;
        let aggregate = self
            .aggregates
            .entry(reference.aggregate_id.clone())
            .or_insert_with(|| {
                *arrivals += 1;
                Aggregate::new(*arrivals)
            });
        let waiting = &mut self.queues.entry(event.queue.clone()).or_default().waiting;
        match aggregate.events.entry(Slot::of(&reference)) {
            Entry::Vacant(slot) => {
                waiting.add(slot.insert(ScheduledEvent::new(event, ack, is_from_table, now)));
            }
            Entry::Occupied(slot) => {
                let scheduled = slot.into_mut();
                scheduled.acks.push(ack);
                scheduled.known_at = now;
                if scheduled.is_from_table && !is_from_table {
                    if scheduled.is_waiting() {
                        waiting.remove(scheduled);
                    }
                    scheduled.is_from_table = false;
                    if scheduled.is_waiting() {
                        waiting.add(scheduled);
                    }
                }
            }
        }
        self.enqueue_if_idle(reference.aggregate_id, now);
    }

    /// Makes an idle aggregate ready in the queue of its next event, or removes it if it has no
    /// events.
    fn enqueue_if_idle(&mut self, aggregate_id: String, now: Instant) {
        let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
            return;
        };
        if aggregate.state != AggregateState::Idle {
            return;
        }
        if let Some(scheduled) = aggregate.next_event() {
            let queue = scheduled.event.queue.clone();
            if queue.is_routed() {
                aggregate.state = AggregateState::Queued;
                self.queues
                    .entry(queue)
                    .or_default()
                    .push_ready(aggregate_id, now);
            }
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
            let mut queues = self.sendable_queues(now);
            if queues.is_empty() {
                return None;
            }
            if let Some(last) = &self.last_served {
                let first = queues.partition_point(|queue| queue <= last);
                queues.rotate_left(first);
            }
            for queue in queues {
                let events = self.fill_batch(&queue, now, &permission);
                let Some(state) = self.queues.get_mut(&queue) else {
                    continue;
                };
                state.end_linger(now);
                if !events.is_empty() {
                    self.batches += 1;
                    state.record_start(self.batches, now);
                    self.last_served = Some(queue.clone());
                    return Some(Batch {
                        is_look_up: self.needs_look_up(&queue, &events, now),
                        queue,
                        events,
                        started: now,
                        number: self.batches,
                    });
                }
            }
        }
    }

    /// Returns the queues to which a batch may be sent, within their shares of the send slots.
    fn sendable_queues(&self, now: Instant) -> Vec<QueueRef> {
        let in_flight: usize = self.queues.values().map(QueueState::in_flight).sum();
        if in_flight >= MAX_SENDS {
            return Vec::new();
        }
        let impaired = |state: &&QueueState| state.health(now) != QueueHealth::Healthy;
        let impaired = self.queues.values().filter(impaired);
        let impaired = impaired.map(QueueState::in_flight).sum();
        let active = |state: &&QueueState| state.is_active(now);
        let active = self.queues.values().filter(active).count();
        self.queues
            .iter()
            .filter(|(_, state)| {
                let slots = SlotUse {
                    own: state.in_flight(),
                    health: state.health(now),
                    active_others: active - usize::from(state.is_active(now)),
                    others: self.queues.len() - 1,
                    impaired,
                };
                state.may_send(now) && slots.allows_another()
            })
            .map(|(queue, _)| queue.clone())
            .collect()
    }

    fn end_delays(&mut self, now: Instant) {
        while let Some((until, _)) = self.delayed.first()
            && *until <= now
            && let Some((_, aggregate_id)) = self.delayed.pop_first()
        {
            self.make_idle(aggregate_id, now);
        }
    }

    /// Ends the current send or delay of an aggregate, and continues with its next event.
    fn make_idle(&mut self, aggregate_id: String, now: Instant) {
        if let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) {
            aggregate.state = AggregateState::Idle;
        }
        self.enqueue_if_idle(aggregate_id, now);
    }

    fn fill_batch(
        &mut self,
        queue: &QueueRef,
        now: Instant,
        permission: impl Fn(&[A]) -> Permission,
    ) -> Vec<Outgoing> {
        let mut events: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while events.len() < MAX_BATCH {
            let Some(aggregate_id) = self.queues.get_mut(queue).and_then(QueueState::pop_ready)
            else {
                break;
            };
            let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
                continue;
            };
            let Some(scheduled) = aggregate.next_event() else {
                self.make_idle(aggregate_id, now);
                continue;
            };
            if scheduled.event.queue != *queue {
                // An earlier event of the aggregate, for another queue, was read since.
                self.make_idle(aggregate_id, now);
                continue;
            }
            match permission(&scheduled.acks) {
                Permission::Send => {}
                Permission::Later(until) => {
                    self.delayed.insert((until, aggregate_id));
                    continue;
                }
                Permission::Never => {
                    let lost = EventRef::of(&scheduled.event);
                    self.remove(&lost);
                    self.make_idle(aggregate_id, now);
                    continue;
                }
            }
            let Some(state) = self.queues.get_mut(queue) else {
                break;
            };
            let size = scheduled.event.message.size();
            let fits =
                events.is_empty() || (!scheduled.isolated && bytes + size <= MAX_MESSAGE_BYTES);
            if !fits {
                state.return_ready(aggregate_id);
                break;
            }
            bytes += size;
            state.waiting.remove(scheduled);
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

    /// Returns `true` if the event was pushed, and not removed since.
    pub fn contains(&self, event: &EventRef) -> bool {
        self.scheduled(event).is_some()
    }

    fn scheduled(&self, event: &EventRef) -> Option<&ScheduledEvent<A>> {
        let aggregate = self.aggregates.get(&event.aggregate_id)?;
        aggregate.events.get(&Slot::of(event))
    }

    fn scheduled_mut(&mut self, event: &EventRef) -> Option<&mut ScheduledEvent<A>> {
        let aggregate = self.aggregates.get_mut(&event.aggregate_id)?;
        aggregate.events.get_mut(&Slot::of(event))
    }

    fn remove(&mut self, event: &EventRef) -> Vec<A> {
        let scheduled = self
            .aggregates
            .get_mut(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.remove(&Slot::of(event)));
        let Some(scheduled) = scheduled else {
            return Vec::new();
        };
        if scheduled.is_waiting()
            && let Some(state) = self.queues.get_mut(&scheduled.event.queue)
        {
            state.waiting.remove(&scheduled);
        }
        scheduled.acks
    }

    /// Returns `true` if the queue accepted a batch since the last one that failed.
    pub fn is_accepting(&self, queue: &QueueRef) -> bool {
        self.queues.get(queue).is_some_and(QueueState::is_accepting)
    }

    /// Returns the acknowledgements of an event.
    pub fn acks(&self, event: &EventRef) -> &[A] {
        self.scheduled(event)
            .map_or(&[], |scheduled| &scheduled.acks)
    }

    /// Returns the next instant at which a delayed send may continue.
    pub fn next_send(&self, now: Instant) -> Option<Instant> {
        let queues = self
            .queues
            .values()
            .filter_map(|state| state.next_send(now));
        let delayed = self.delayed.first().map(|(until, _)| *until);
        queues.chain(delayed).min()
    }

    /// Returns `true` if no batch is being sent.
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(QueueState::is_idle)
    }
}
