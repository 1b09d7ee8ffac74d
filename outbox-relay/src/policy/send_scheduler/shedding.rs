//! Removes (sheds) the events that exceed the shares of impaired queues, and reports the health of
//! the queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::aggregate::{Aggregate, Slot};
use super::queue_state::{QueueState, WaitingEvents};
use super::shares::QueueHealth;
use super::{Batch, EventRef, MAX_BATCH, Permission, SendScheduler};
use crate::policy::record_classifier::Event;
use crate::routes::QueueRef;

/// Divisor of the buffer for the events from the table that may wait for impaired queues.
const TABLE_DIVISOR: usize = 8;

/// Waiting event that was removed from the scheduler. It is published from the table later.
#[derive(Debug)]
pub struct Shed<A> {
    pub event: Arc<Event>,
    pub acks: Vec<A>,
    /// It was read from the table only, which contains it as pending.
    pub is_from_table: bool,
}

/// State of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueReport {
    pub health: QueueHealth,
    /// The waiting events that were read from the table are as many as may wait for an impaired
    /// queue.
    pub has_table_batch: bool,
}

/// Limit of the waiting events of a queue that were read from the table.
#[derive(Clone, Copy, Debug)]
struct TableLimit {
    events: usize,
    kib: usize,
}

impl TableLimit {
    /// Returns `true` if no further event is to be read from the table.
    const fn is_reached(self, waiting: WaitingEvents) -> bool {
        waiting.from_table >= self.events || waiting.table_kib >= self.kib
    }

    /// Returns `true` if some of the events exceed the limit. It is twice the size, because a
    /// sweeper dispatches several events at once; one event is never too large.
    const fn is_exceeded(self, waiting: WaitingEvents) -> bool {
        let is_too_large = waiting.table_kib > self.kib.saturating_mul(2);
        waiting.from_table > self.events || (waiting.from_table > 1 && is_too_large)
    }
}

/// Waiting events of one aggregate for one queue.
struct AggregateShare<'a, A> {
    aggregate_id: &'a str,
    aggregate: &'a Aggregate<A>,
    waiting: WaitingEvents,
}

impl<A> SendScheduler<A> {
    /// Returns the first event to remove of each aggregate whose waiting events exceed the share of
    /// their queue in a buffer of `buffer_kib`: of the aggregates that arrived last. Each of them
    /// is then passed to [`Self::shed`].
    ///
    /// One batch of the events that were read from the table stays, to probe the queue.
    pub fn excess(&self, now: Instant, buffer_kib: usize) -> Vec<EventRef> {
        let table_kib = self.table_share(now, buffer_kib);
        let mut excess = BTreeMap::new();
        for (queue, state) in &self.queues {
            let health = health(queue, state, now);
            if health == QueueHealth::Healthy {
                // The buffer itself bounds its events.
                continue;
            }
            let max_kib = health.buffer_share(buffer_kib);
            let limit = table_limit(queue, state, now, table_kib);
            if state.waiting.deferrable_kib > max_kib || limit.is_exceeded(state.waiting) {
                self.collect_excess(queue, max_kib, limit, &mut excess);
            }
        }
        excess
            .into_iter()
            .map(|(aggregate_id, slot)| EventRef {
                aggregate_id: aggregate_id.to_owned(),
                sequence: slot.sequence,
                replay: slot.replay,
            })
            .collect()
    }

    /// Returns the first selected event of each aggregate that waits for an impaired queue. Each of
    /// them is then passed to [`Self::shed`].
    pub fn impaired(&self, now: Instant, is_selected: impl Fn(&A) -> bool) -> Vec<EventRef> {
        let impaired: BTreeSet<&QueueRef> = self
            .queues
            .iter()
            .filter(|(queue, state)| health(queue, state, now) != QueueHealth::Healthy)
            .map(|(queue, _)| queue)
            .collect();
        if impaired.is_empty() {
            return Vec::new();
        }
        let mut first: Vec<EventRef> = self
            .aggregates
            .values()
            .filter_map(|aggregate| {
                let mut waiting = aggregate.waiting_from(Slot::FIRST);
                let (_, scheduled) = waiting.find(|(_, scheduled)| {
                    impaired.contains(&scheduled.event.queue)
                        && scheduled.acks.iter().any(&is_selected)
                })?;
                Some(EventRef::of(&scheduled.event))
            })
            .collect();
        first.sort_unstable();
        first
    }

    /// Adds the excess of one queue: the first slot to remove, by aggregate.
    fn collect_excess<'a>(
        &'a self,
        queue: &QueueRef,
        max_kib: usize,
        limit: TableLimit,
        excess: &mut BTreeMap<&'a str, Slot>,
    ) {
        let mut shares: Vec<_> = self
            .aggregates
            .iter()
            .filter_map(|(id, aggregate)| AggregateShare::of(id, aggregate, queue))
            .collect();
        shares.sort_by_key(|share| share.aggregate.arrival);
        let mut kib = 0;
        let mut from_table = WaitingEvents::default();
        for share in shares {
            let first = if kib + share.waiting.deferrable_kib > max_kib {
                share.first_waiting()
            } else {
                kib += share.waiting.deferrable_kib;
                share.first_beyond(queue, limit, &mut from_table)
            };
            if let Some(slot) = first {
                excess
                    .entry(share.aggregate_id)
                    .and_modify(|first| *first = slot.min(*first))
                    .or_insert(slot);
            }
        }
    }

    /// Returns the first event that waits behind an event of `failed`, a batch that probed a queue
    /// whose events are deferred, by aggregate. Each of them is then passed to [`Self::shed`]: the
    /// probes are repeated for as long as the queue fails, and what waits behind them, whatever its
    /// queue, would take capacity of the buffer and hold up checkpoints.
    pub fn behind_probes(&self, failed: &Batch, now: Instant) -> Vec<EventRef> {
        let state = self.queues.get(&failed.queue);
        if state.is_none_or(|state| health(&failed.queue, state, now) != QueueHealth::Deferring) {
            return Vec::new();
        }
        let probes = failed.events.iter().map(|outgoing| &outgoing.event);
        probes
            .filter_map(|probe| {
                let aggregate = self.aggregates.get(&probe.key.aggregate_id)?;
                let mut waiting = aggregate.waiting_from(Slot::FIRST);
                let (_, scheduled) = waiting.find(|(slot, _)| slot.sequence > probe.sequence)?;
                Some(EventRef::of(&scheduled.event))
            })
            .collect()
    }

    /// Removes the waiting events of an aggregate from `first` on, whatever their queues, so that
    /// none of them overtakes another. Removes none if one of them is not in the table's index of
    /// pending events, since no sweeper would find it.
    pub fn shed(&mut self, first: &EventRef, now: Instant) -> Vec<Shed<A>> {
        let Some(aggregate) = self.aggregates.get_mut(&first.aggregate_id) else {
            return Vec::new();
        };
        let first_slot = Slot::of(first);
        if !aggregate
            .waiting_from(first_slot)
            .all(|(_, scheduled)| scheduled.may_be_shed())
        {
            return Vec::new();
        }
        let slots: Vec<_> = aggregate
            .waiting_from(first_slot)
            .map(|(slot, _)| slot)
            .collect();
        let mut shed = Vec::new();
        for slot in slots {
            let Some(scheduled) = aggregate.events.remove(&slot) else {
                continue;
            };
            if let Some(state) = self.queues.get_mut(&scheduled.event.queue) {
                state.waiting.remove(&scheduled);
            }
            shed.push(Shed {
                event: scheduled.event,
                acks: scheduled.acks,
                is_from_table: scheduled.is_from_table,
            });
        }
        self.enqueue_if_idle(first.aggregate_id.clone(), now);
        shed
    }

    /// Returns the acknowledgements of the waiting events of an aggregate from `first` on.
    pub fn waiting_acks(&self, first: &EventRef) -> impl Iterator<Item = &A> {
        self.aggregates
            .get(&first.aggregate_id)
            .into_iter()
            .flat_map(|aggregate| aggregate.waiting_from(Slot::of(first)))
            .flat_map(|(_, scheduled)| &scheduled.acks)
    }

    /// Removes waiting events that may never be sent, before they are first in line.
    pub fn remove_lost(&mut self, permission: impl Fn(&[A]) -> Permission) {
        for aggregate in self.aggregates.values_mut() {
            aggregate.events.retain(|_, scheduled| {
                let is_lost =
                    scheduled.is_waiting() && permission(&scheduled.acks) == Permission::Never;
                if is_lost && let Some(state) = self.queues.get_mut(&scheduled.event.queue) {
                    state.waiting.remove(scheduled);
                }
                !is_lost
            });
        }
    }

    /// Returns the state of every queue that had events.
    pub fn reports(&mut self, now: Instant, buffer_kib: usize) -> BTreeMap<QueueRef, QueueReport> {
        let table_kib = self.table_share(now, buffer_kib);
        self.queues
            .iter_mut()
            .map(|(queue, state)| {
                state.forget_old_failures(now);
                let limit = table_limit(queue, state, now, table_kib);
                let report = QueueReport {
                    health: health(queue, state, now),
                    has_table_batch: limit.is_reached(state.waiting),
                };
                (queue.clone(), report)
            })
            .collect()
    }

    /// Returns the size, in KiB, of the events from the table that may wait for each impaired
    /// queue. Together they leave half of the sweepers' part of the buffer, or more, to the other
    /// queues, unless there are so many impaired queues that single events exceed the limit: a
    /// queue of which no event may wait would not be probed.
    fn table_share(&self, now: Instant, buffer_kib: usize) -> usize {
        let queues = self.queues.iter();
        let impaired = queues
            .filter(|(queue, state)| health(queue, state, now) != QueueHealth::Healthy)
            .count();
        (buffer_kib / TABLE_DIVISOR / impaired.max(1)).max(1)
    }

    /// Returns the next instant at which the report of a queue changes without an event.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let changes = self.queues.values();
        changes.filter_map(|state| state.next_change(now)).min()
    }

    /// Returns `true` if an event waits for the queue, is being sent to it, or is deferred because
    /// of it.
    pub fn is_in_use(&self, queue: &QueueRef, now: Instant) -> bool {
        self.queues.get(queue).is_some_and(|state| {
            !state.is_idle()
                || state.waiting.count > 0
                || state.health(now) == QueueHealth::Deferring
        })
    }
}

impl<'a, A> AggregateShare<'a, A> {
    /// Returns `None` if the aggregate has no waiting event for the queue, or one that must stay in
    /// the buffer.
    fn of(aggregate_id: &'a str, aggregate: &'a Aggregate<A>, queue: &QueueRef) -> Option<Self> {
        let mut waiting = WaitingEvents::default();
        for scheduled in aggregate.events.values().filter(|event| event.is_waiting()) {
            if !scheduled.may_be_shed() {
                return None;
            }
            if scheduled.event.queue == *queue {
                waiting.add(scheduled);
            }
        }
        (waiting.count > 0).then_some(Self {
            aggregate_id,
            aggregate,
            waiting,
        })
    }

    fn first_waiting(&self) -> Option<Slot> {
        let mut waiting = self.aggregate.waiting_from(Slot::FIRST);
        waiting.next().map(|(slot, _)| slot)
    }

    /// Returns the first waiting event for the queue that was read from the table and exceeds the
    /// limit, and adds those before it to `waiting`.
    fn first_beyond(
        &self,
        queue: &QueueRef,
        limit: TableLimit,
        waiting: &mut WaitingEvents,
    ) -> Option<Slot> {
        let mut from_table = self
            .aggregate
            .waiting_from(Slot::FIRST)
            .filter(|(_, scheduled)| scheduled.is_from_table && scheduled.event.queue == *queue);
        let beyond = from_table.find(|(_, scheduled)| {
            let mut with_next = *waiting;
            with_next.add(scheduled);
            let is_beyond = limit.is_exceeded(with_next);
            if !is_beyond {
                *waiting = with_next;
            }
            is_beyond
        });
        beyond.map(|(slot, _)| slot)
    }
}

/// Returns the health of a queue. Nothing can ever be sent without a route.
fn health(queue: &QueueRef, state: &QueueState, now: Instant) -> QueueHealth {
    if queue.is_routed() {
        state.health(now)
    } else {
        QueueHealth::Deferring
    }
}

/// Returns the maximum of the waiting events that were read from the table.
fn table_limit(queue: &QueueRef, state: &QueueState, now: Instant, share_kib: usize) -> TableLimit {
    let (events, kib) = match health(queue, state, now) {
        QueueHealth::Healthy => (usize::MAX, usize::MAX),
        _ if queue.is_routed() => (MAX_BATCH, share_kib),
        _ => (0, 0),
    };
    TableLimit { events, kib }
}
