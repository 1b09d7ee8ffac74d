//! Sweep gate: dispatches events that a walk over the index found, after their items were read.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::engine::context::ShardContext;
use crate::engine::order_gate::{Dispatch, OrderGate, predecessor};
use crate::engine::shard_state::ShardState;
use crate::policy::recent_map::RecentMap;
use crate::policy::record_classifier::{Classified, Event};
use crate::policy::sequence_rule::Path;
use crate::policy::sequence_tracker::AggregateHash;
use crate::policy::sweep_policy::is_recent;
use crate::ports::{Change, EventKey, Item, PendingEntry};
use crate::routes::{QueueRef, Target};

/// Minimum number of blocked aggregates that are remembered.
const MAX_BLOCKED: usize = 5_000;

/// Outcome of one walk.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Number of events that were dispatched.
    pub(super) dispatched: usize,
    /// Some of them were dispatched to queues that accept events, or quarantined.
    pub(super) has_progress: bool,
    /// The buffer had no capacity for an event.
    pub(super) is_limited: bool,
    /// Some of the events that wait may wait for a reader of the stream.
    pub(super) awaits_readers: bool,
    /// Number of events that wait in the table, by queue: their queue does not accept them, they
    /// probe it, or they wait for an earlier event.
    pub(super) remaining: BTreeMap<String, u64>,
}

/// Gate of one walk.
pub(super) struct SweepGate {
    gate: OrderGate,
    /// Lowest sequence that could not be dispatched, by aggregate.
    blocked: RecentMap<AggregateHash, u64>,
    /// Queues whose events do not fit the buffer.
    full: HashSet<QueueRef>,
    pub(super) walked: Walked,
}

impl SweepGate {
    pub(super) fn new(ctx: &ShardContext, shard: &Arc<ShardState>, random: fastrand::Rng) -> Self {
        Self {
            gate: OrderGate::new(ctx, shard, true, random),
            blocked: RecentMap::new(MAX_BLOCKED),
            full: HashSet::new(),
            walked: Walked::default(),
        }
    }

    /// Returns `true` if the event can be dispatched. One that has to stay in the table is counted,
    /// also if it probes its queue.
    pub(super) fn is_possible(&mut self, entry: &PendingEntry) -> bool {
        let is_possible = self.accepts(entry);
        if !is_possible
            && let Some(queue) = self.queue_of(entry)
            && (self.gate.ctx.queues.is_impaired(&queue)
                || !self.gate.shard().is_in_flight_from_table(&entry.key))
        {
            self.count_remaining(&queue);
        }
        is_possible
    }

    /// Returns `true` if the event can be dispatched: it is not in flight since an earlier walk,
    /// its queue accepts events of the table, and no earlier event of its aggregate is known to
    /// wait.
    pub(super) fn accepts(&self, entry: &PendingEntry) -> bool {
        !self.gate.shard().is_in_flight_from_table(&entry.key)
            && self.queue_of(entry).is_none_or(|queue| {
                self.gate.ctx.queues.accepts_table_events(&queue)
                    && !self.full.contains(&queue)
                    && !self.is_blocked(&entry.key)
            })
    }

    /// Returns the destination of an event, or `None` if it is to be quarantined.
    fn queue_of(&self, entry: &PendingEntry) -> Option<QueueRef> {
        let ctx = &self.gate.ctx;
        let event_type = entry.event_type.as_deref()?;
        match ctx.config.routes.target_of(event_type) {
            Some(Target::Queue(queue)) => Some(queue.clone()),
            Some(Target::Quarantine) => None,
            None => {
                // It may have been read from the stream long ago, or by another instance.
                ctx.status.record_unrouted(event_type);
                Some(QueueRef::unrouted())
            }
        }
    }

    fn is_blocked(&self, key: &EventKey) -> bool {
        let blocked = self.blocked.get(&AggregateHash::of(&key.aggregate_id));
        let sequence = key.sequence.parse::<u64>();
        blocked.is_some_and(|blocked| sequence.is_ok_and(|sequence| sequence > *blocked))
    }

    fn count_remaining(&mut self, queue: &QueueRef) {
        let remaining = &mut self.walked.remaining;
        *remaining.entry(queue.name().to_owned()).or_default() += 1;
    }

    /// Skips an event and the later ones of its aggregate until the next walk.
    fn skip(&mut self, event: &Event) {
        self.count_remaining(&event.queue);
        self.block(event);
    }

    /// Leaves later events of an aggregate in the table until the next walk.
    fn block(&mut self, event: &Event) {
        let aggregate = AggregateHash::of(&event.key.aggregate_id);
        let blocked = self.blocked.get(&aggregate).copied();
        let lowest = blocked.map_or(event.sequence, |blocked| blocked.min(event.sequence));
        self.blocked.insert(aggregate, lowest);
    }

    /// Dispatches those events that are still pending in the table itself, as the index lags, and
    /// the ones before them in their aggregates.
    pub(super) async fn dispatch(&mut self, items: Vec<Item>) {
        let mut events = Vec::new();
        for item in items {
            match self.gate.ctx.config.classify(Change::Insert(item)) {
                Classified::Event(event) => events.push(event),
                Classified::Reject(rejected) => match self.gate.dispatch_rejected(rejected).await {
                    Dispatch::Done => {
                        self.walked.has_progress = true;
                        self.count_dispatched(1);
                    }
                    Dispatch::NoCapacity | Dispatch::Overtakes => self.walked.is_limited = true,
                },
                Classified::Skip(_) => {}
            }
        }
        events.sort_by_key(|event| event.sequence);
        let unknown = events.iter().filter(|event| !self.gate.may_follow(event));
        let keys = unknown.map(|event| predecessor(event)).collect();
        let statuses = self.gate.outbox.statuses(keys).await;
        for event in events {
            if !self.gate.was_dispatched(&event.key) {
                let is_published = statuses.is_published(&predecessor(&event));
                self.dispatch_event(&event, is_published).await;
            }
        }
    }

    /// Returns `true` if a reader of the stream may still have earlier events, or may still be
    /// marking them, because the event was left to the sweepers only recently.
    fn waits_for_readers(&self, event: &Event) -> bool {
        let now = (self.gate.ctx.config.clock)();
        let at = event.left_to_sweepers_at;
        at.is_some_and(|at| is_recent(at, now))
    }

    /// Dispatches an event. `is_published`: its predecessor is published.
    async fn dispatch_event(&mut self, event: &Arc<Event>, is_published: bool) {
        if self.full.contains(&event.queue) || self.is_blocked(&event.key) {
            self.skip(event);
            return;
        }
        let forgotten = self.gate.forgotten();
        if !is_published && !self.gate.may_follow(event) {
            let waits_for_readers = self.waits_for_readers(event);
            let path = Path::Table { waits_for_readers };
            let earlier = self.gate.dispatch_earlier(event, path, forgotten).await;
            let is_impaired = self.gate.ctx.queues.is_impaired(&event.queue);
            self.walked.has_progress |= earlier.count > 0 && !is_impaired;
            self.count_dispatched(earlier.count);
            if earlier.is_blocked {
                self.walked.awaits_readers |= waits_for_readers;
                self.skip(event);
                return;
            }
        }
        let dispatch = self
            .gate
            .dispatch_after(event, None, is_published, forgotten)
            .await;
        match dispatch {
            Dispatch::Done => {
                let is_impaired = self.gate.ctx.queues.is_impaired(&event.queue);
                if is_impaired {
                    // What waits behind it would fill the buffer.
                    self.skip(event);
                }
                self.walked.has_progress |= !is_impaired;
                self.count_dispatched(1);
            }
            Dispatch::Overtakes => self.skip(event),
            Dispatch::NoCapacity => {
                self.full.insert(event.queue.clone());
                self.walked.is_limited = true;
                self.skip(event);
            }
        }
    }

    fn count_dispatched(&mut self, count: usize) {
        self.walked.dispatched += count;
    }
}
