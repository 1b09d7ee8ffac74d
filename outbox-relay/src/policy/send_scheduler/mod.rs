//! What to send and what to mark next.
//!
//! An event lives here from the moment it is read until it is marked:
//!
//! ```text
//! push ─▶ waiting ─next_batch▶ sending ─sent▶ sent ─next_marks▶ marking ─marked▶ gone
//!            ▲                   │  │                              │
//!            └──────retry────────┘  └─rejected▶ gone  ◀─mark_again─┘ (back to sent)
//! ```
//!
//! Two rules hold whatever is called when: of one aggregate at most one event
//! is sending, and always the one with the lowest `sequence` that waits. So no
//! later event overtakes an earlier one, and an event that fails holds back
//! its own aggregate only.
//!
//! `A` is what the caller wants back when an event is done. The same event
//! read twice is kept once, with both.

mod aggregate;
mod mark_queue;
mod queue_state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outbox::message::MAX_MESSAGE_BYTES;
use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use self::aggregate::{Aggregate, State, Turn};
use self::mark_queue::Unmarked;
use self::queue_state::Lane;
use super::record_classifier::Event;
use crate::ports::EventKey;
use crate::routes::QueueRef;

/// SQS: messages a batch.
pub const MAX_BATCH: usize = 10;

/// DynamoDB: statements a `BatchExecuteStatement`.
pub const MAX_MARKS: usize = 25;

/// Events that are sent and not marked, at which sending pauses: a crash
/// repeats them. Enough to keep marking busy, and no more.
pub const MAX_UNMARKED: usize = 400;

/// See the module's documentation.
#[derive(Debug)]
pub struct Schedule<A> {
    aggregates: HashMap<String, Aggregate<A>>,
    lanes: BTreeMap<QueueRef, Lane>,
    /// Aggregates that wait out a failure of their own.
    delayed: BTreeSet<(Instant, String)>,
    unmarked: Unmarked,
    /// The queue served last: the others come first next time.
    last_served: Option<QueueRef>,
}

/// An event within the schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventRef {
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub event: Arc<Event>,
    /// 1 for the first.
    pub attempt: u64,
}

/// What to send now. Every event of it must be answered with
/// [`Schedule::sent`], [`Schedule::retry`] or [`Schedule::rejected`], and the
/// batch with [`Schedule::batch_went_through`] or [`Schedule::batch_failed`].
#[derive(Clone, Debug)]
pub struct Batch {
    pub queue: QueueRef,
    pub events: Vec<Outgoing>,
}

/// One event to be marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub event: EventRef,
    pub key: EventKey,
    pub message_id: String,
    /// When the queue took it.
    pub sent_at: Timestamp,
}

/// Whether an event may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Send,
    /// Ask again at the given instant.
    Later(Instant),
    /// Its shard is lost: forget it.
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

impl<A> Default for Schedule<A> {
    fn default() -> Self {
        Self {
            aggregates: HashMap::new(),
            lanes: BTreeMap::new(),
            delayed: BTreeSet::new(),
            unmarked: Unmarked::default(),
            last_served: None,
        }
    }
}

impl<A> Schedule<A> {
    /// Adds an event that was read.
    pub fn push(&mut self, event: Arc<Event>, ack: A) {
        let aggregate_id = event.key.aggregate_id.clone();
        self.aggregates
            .entry(aggregate_id.clone())
            .or_insert_with(Aggregate::new)
            .push(event, ack);
        self.queue_up(aggregate_id);
    }

    /// Puts an idle aggregate in line when one of its events waits.
    fn queue_up(&mut self, aggregate_id: String) {
        let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
            return;
        };
        if aggregate.turn != Turn::Idle {
            return;
        }
        if let Some(slot) = aggregate.first_waiting() {
            let queue = slot.event.queue.clone();
            aggregate.turn = Turn::Queued;
            self.lanes
                .entry(queue)
                .or_default()
                .ready
                .push_back(aggregate_id);
        } else if aggregate.events.is_empty() {
            self.aggregates.remove(&aggregate_id);
        }
    }

    /// The next batch, if something may be sent at `now`. `permission` is
    /// asked for every event with what was pushed along with it.
    pub fn next_batch(
        &mut self,
        now: Instant,
        permission: impl Fn(&[A]) -> Permission,
    ) -> Option<Batch> {
        if self.unmarked.is_full() {
            return None;
        }
        self.end_delays(now);
        // A lane without anything to send may have moved aggregates to another,
        // when their next event is for that one.
        loop {
            let mut queues: Vec<_> = self
                .lanes
                .iter()
                .filter(|(_, lane)| lane.may_send(now))
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
                let events = self.fill(&queue, &permission);
                if !events.is_empty() {
                    if let Some(lane) = self.lanes.get_mut(&queue) {
                        lane.batch_starts();
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
            if let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) {
                aggregate.turn = Turn::Idle;
            }
            self.queue_up(aggregate_id);
        }
    }

    fn fill(&mut self, queue: &QueueRef, permission: impl Fn(&[A]) -> Permission) -> Vec<Outgoing> {
        let mut events: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while events.len() < MAX_BATCH {
            let Some(aggregate_id) = self
                .lanes
                .get_mut(queue)
                .and_then(|lane| lane.ready.pop_front())
            else {
                break;
            };
            let Some(aggregate) = self.aggregates.get_mut(&aggregate_id) else {
                continue;
            };
            let Some(slot) = aggregate.first_waiting() else {
                aggregate.turn = Turn::Idle;
                self.queue_up(aggregate_id);
                continue;
            };
            if slot.event.queue != *queue {
                // An earlier event of it was read since, for another queue.
                aggregate.turn = Turn::Idle;
                self.queue_up(aggregate_id);
                continue;
            }
            match permission(&slot.acks) {
                Permission::Send => {}
                Permission::Later(until) => {
                    self.delayed.insert((until, aggregate_id));
                    continue;
                }
                Permission::Never => {
                    let sequence = slot.event.sequence;
                    aggregate.events.remove(&sequence);
                    aggregate.turn = Turn::Idle;
                    self.queue_up(aggregate_id);
                    continue;
                }
            }
            let size = slot.event.message.size();
            let fits = events.is_empty() || (!slot.alone && bytes + size <= MAX_MESSAGE_BYTES);
            if !fits {
                if let Some(lane) = self.lanes.get_mut(queue) {
                    lane.ready.push_front(aggregate_id);
                }
                break;
            }
            bytes += size;
            slot.state = State::Sending;
            slot.attempts += 1;
            let alone = slot.alone;
            events.push(Outgoing {
                event: Arc::clone(&slot.event),
                attempt: slot.attempts,
            });
            aggregate.turn = Turn::Sending;
            if alone {
                break;
            }
        }
        events
    }

    /// The event is in its queue since `at`; it waits to be marked.
    pub fn sent(&mut self, event: &EventRef, message_id: String, at: Timestamp) {
        if let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) {
            if let Some(slot) = aggregate.events.get_mut(&event.sequence) {
                slot.state = State::Sent { message_id, at };
                self.unmarked.push(event.clone());
            }
            aggregate.turn = Turn::Idle;
        }
        self.queue_up(event.aggregate_id.clone());
    }

    /// The event was not sent, or nobody knows; its aggregate waits until
    /// `until`. `alone`: its batch was refused, maybe for the sake of it.
    pub fn retry(&mut self, event: &EventRef, until: Option<Instant>, alone: bool) {
        let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) else {
            return;
        };
        if let Some(slot) = aggregate.events.get_mut(&event.sequence) {
            slot.state = State::Waiting;
            slot.alone |= alone;
        }
        match until {
            Some(until) => {
                aggregate.turn = Turn::Queued;
                self.delayed.insert((until, event.aggregate_id.clone()));
            }
            None => {
                aggregate.turn = Turn::Idle;
                self.queue_up(event.aggregate_id.clone());
            }
        }
    }

    /// The event can never be sent; later ones of its aggregate go on.
    /// Returns what was pushed with it.
    pub fn rejected(&mut self, event: &EventRef) -> Vec<A> {
        let acks = self.forget(event);
        if let Some(aggregate) = self.aggregates.get_mut(&event.aggregate_id) {
            aggregate.turn = Turn::Idle;
        }
        self.queue_up(event.aggregate_id.clone());
        acks
    }

    /// Forgets waiting events that may never be sent, without waiting for
    /// their turn.
    pub fn forget_lost(&mut self, permission: impl Fn(&[A]) -> Permission) {
        for aggregate in self.aggregates.values_mut() {
            aggregate.events.retain(|_, slot| {
                slot.state != State::Waiting || permission(&slot.acks) != Permission::Never
            });
        }
    }

    fn forget(&mut self, event: &EventRef) -> Vec<A> {
        self.aggregates
            .get_mut(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.remove(&event.sequence))
            .map(|slot| slot.acks)
            .unwrap_or_default()
    }

    /// The queue answered: it is well.
    pub fn batch_went_through(&mut self, queue: &QueueRef) {
        let lane = self.lanes.entry(queue.clone()).or_default();
        lane.batch_went_through();
    }

    /// The queue did not take the batch; nothing goes there for a while, then
    /// one batch at a time until one goes through. `delay` is given the number
    /// of failures in a row.
    pub fn batch_failed(
        &mut self,
        queue: &QueueRef,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let lane = self.lanes.entry(queue.clone()).or_default();
        lane.batch_failed(now, delay);
    }

    /// Whether something waits for the queue or is on its way there.
    pub fn is_in_use(&self, queue: &QueueRef) -> bool {
        self.lanes
            .get(queue)
            .is_some_and(|lane| !lane.is_idle() || !lane.ready.is_empty())
    }

    /// Up to [`MAX_MARKS`] events to mark now; with fewer than that waiting,
    /// only when `eager`. Each must be answered with [`Schedule::marked`] or
    /// [`Schedule::mark_again`].
    pub fn next_marks(&mut self, now: Instant, eager: bool) -> Vec<Mark> {
        let mut marks = Vec::new();
        for event in self.unmarked.next(now, eager) {
            let aggregate = self.aggregates.get(&event.aggregate_id);
            let slot = aggregate.and_then(|aggregate| aggregate.events.get(&event.sequence));
            if let Some(slot) = slot
                && let State::Sent { message_id, at } = &slot.state
            {
                marks.push(Mark {
                    key: slot.event.key.clone(),
                    message_id: message_id.clone(),
                    sent_at: *at,
                    event,
                });
            } else {
                self.unmarked.done();
            }
        }
        marks
    }

    /// The event is marked, or gone; returns what was pushed with it.
    pub fn marked(&mut self, event: &EventRef) -> Vec<A> {
        self.unmarked.done();
        let acks = self.forget(event);
        self.queue_up(event.aggregate_id.clone());
        acks
    }

    /// The mark did not go through.
    pub fn mark_again(&mut self, event: EventRef) {
        self.unmarked.again(event);
    }

    /// A mark request was answered. When some of it must be tried `again`,
    /// nothing is marked for a while; `delay` is given the number of such
    /// answers in a row.
    pub fn marks_went(&mut self, again: bool, now: Instant, delay: impl FnOnce(u32) -> Duration) {
        self.unmarked.answered(again, now, delay);
    }

    /// What was pushed with an event.
    pub fn acks(&self, event: &EventRef) -> &[A] {
        self.aggregates
            .get(&event.aggregate_id)
            .and_then(|aggregate| aggregate.events.get(&event.sequence))
            .map_or(&[], |slot| &slot.acks)
    }

    /// When something that waits at `now` may go on: a mark, and, if `sending`,
    /// a send. Sends are left out while none could start anyway, as one that
    /// is overdue would be due at once, again and again.
    pub fn next_due(&self, now: Instant, sending: bool) -> Option<Instant> {
        let lanes = self.lanes.values().filter_map(|lane| lane.due(now));
        let delayed = self.delayed.first().map(|(until, _)| *until);
        let sends = lanes
            .chain(delayed)
            .min()
            .filter(|_| sending && !self.unmarked.is_full());
        self.unmarked.due(now).into_iter().chain(sends).min()
    }

    /// Nothing waits to be marked or is being marked or sent.
    pub fn is_settled(&self) -> bool {
        self.unmarked.is_empty() && self.lanes.values().all(Lane::is_idle)
    }
}
