//! Walk over the index of pending events: dispatches those that are due.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox::item::attribute;

use super::candidates::Candidates;
use crate::engine::context::ShardContext;
use crate::engine::outbox_reader::OutboxReader;
use crate::engine::shard::sequence_gate::SequenceGate;
use crate::engine::shard_state::ShardState;
use crate::policy::record_classifier::Classified;
use crate::policy::sweep_policy::{SweepPartition, is_old};
use crate::ports::{Change, EventKey, Item, PendingEntry};
use crate::routes::{QueueRef, Target};

/// Number of events that are read and dispatched at once.
const MAX_EVENTS: usize = 100;

/// Maximum number of pages with young events, of up to 500 events each, that a walk reads of one
/// bucket. An event that was made pending again is sorted among those of its time, and one with a
/// time in the future behind all others. Beyond this many pages it waits until it is old: reading
/// all of a backlog in every walk would cost capacity that is needed to publish it.
const MAX_YOUNG_PAGES: usize = 5;

/// Number of consecutive events without a mark after which a walk looks for no more marked ones in
/// the bucket: the rest is the backlog of the readers, and each look reads a whole item.
const MAX_UNMARKED: usize = 500;

/// Task of one walk.
pub(super) enum Task<'a> {
    /// Publishes marked events, and collects candidates. The index does not show which events are
    /// deferred: with `looks_for_deferred` their items are read.
    Collect {
        candidates: &'a mut Candidates,
        looks_for_deferred: bool,
    },
    /// Publishes the candidates that are still pending.
    Publish(&'a Candidates),
}

/// Outcome of one walk.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Number of events that were dispatched.
    pub(super) dispatched: usize,
    /// Number of events that wait in the table, by queue: it accepts nothing, or they wait for an
    /// earlier event.
    pub(super) remaining: BTreeMap<String, u64>,
}

pub(super) struct Walk<'a> {
    ctx: &'a ShardContext,
    shard: &'a Arc<ShardState>,
    partition: SweepPartition,
    outbox: &'a mut OutboxReader,
    gate: SequenceGate,
    walked: Walked,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        ctx: &'a ShardContext,
        shard: &'a Arc<ShardState>,
        partition: SweepPartition,
        outbox: &'a mut OutboxReader,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            ctx,
            shard,
            partition,
            outbox,
            gate: SequenceGate::new(ctx, shard, random),
            walked: Walked::default(),
        }
    }

    /// Walks over the buckets of the partition.
    pub(super) async fn run(mut self, mut task: Task<'_>) -> Walked {
        for bucket in self.partition.buckets(self.ctx.config.buckets.get()) {
            self.walk_bucket(bucket, &mut task).await;
        }
        self.walked
    }

    async fn walk_bucket(&mut self, bucket: u32, task: &mut Task<'_>) {
        let mut after = None;
        let mut young_pages = 0;
        let mut unmarked = 0;
        loop {
            let page = self.outbox.pending(bucket, after.as_ref()).await;
            let mut entries = page.entries;
            entries.retain(|entry| self.is_possible(entry));
            let (old, young): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| self.is_old(entry));
            young_pages += usize::from(!young.is_empty());
            match task {
                Task::Publish(candidates) => {
                    let due = old.into_iter().map(|entry| entry.key);
                    let due: Vec<_> = due.filter(|key| candidates.contains(key)).collect();
                    self.publish(&due).await;
                }
                Task::Collect {
                    candidates,
                    looks_for_deferred,
                } => {
                    let looks = *looks_for_deferred && unmarked < MAX_UNMARKED;
                    let (due, other): (Vec<_>, Vec<_>) =
                        old.into_iter().partition(|entry| entry.is_republished);
                    let due: Vec<_> = due.into_iter().map(|entry| entry.key).collect();
                    self.publish(&due).await;
                    if looks {
                        let all: Vec<_> = other.iter().chain(&young).collect();
                        self.publish_deferred(&all, &mut unmarked).await;
                    }
                    // Those that were dispatched just now are in flight.
                    for entry in &other {
                        if !self.shard.is_in_flight_from_table(&entry.key) {
                            candidates.insert(&entry.key);
                        }
                    }
                    if candidates.is_full() {
                        return;
                    }
                }
            }
            after = page.next;
            let looks = matches!(
                task,
                Task::Collect {
                    looks_for_deferred: true,
                    ..
                }
            ) && unmarked < MAX_UNMARKED;
            if after.is_none() || (young_pages >= MAX_YOUNG_PAGES && !looks) {
                return;
            }
        }
    }

    /// Returns `true` if the event can be dispatched: it is not in flight since an earlier walk,
    /// and its queue accepts events of the table. An event that is skipped because of its queue is
    /// counted.
    fn is_possible(&mut self, entry: &PendingEntry) -> bool {
        if self.shard.is_in_flight_from_table(&entry.key) {
            return false;
        }
        let Some(queue) = self.queue_of(entry) else {
            return true;
        };
        let is_possible = self.ctx.queues.accepts_table_events(&queue);
        if !is_possible {
            self.count_remaining(&queue);
        }
        is_possible
    }

    /// Returns the destination of an event, or `None` if it is to be quarantined.
    fn queue_of(&self, entry: &PendingEntry) -> Option<QueueRef> {
        let event_type = entry.event_type.as_deref()?;
        match self.ctx.config.routes.target_of(event_type) {
            Some(Target::Queue(queue)) => Some(queue.clone()),
            Some(Target::Quarantine) => None,
            None => Some(QueueRef::unrouted()),
        }
    }

    fn count_remaining(&mut self, queue: &QueueRef) {
        *self
            .walked
            .remaining
            .entry(queue.name().to_owned())
            .or_default() += 1;
    }

    /// Returns `true` if the event is old enough to sweep; younger events are still expected from
    /// the stream.
    fn is_old(&self, entry: &PendingEntry) -> bool {
        let now = (self.ctx.config.clock)();
        entry.is_republished || is_old(entry.occurred_at, now, self.ctx.config.sweep_after)
    }

    /// Publishes those of `entries` that are deferred. `unmarked` counts the consecutive ones that
    /// are not.
    async fn publish_deferred(&mut self, entries: &[&PendingEntry], unmarked: &mut usize) {
        for entries in entries.chunks(MAX_EVENTS) {
            // A queue that fails meanwhile accepts no more.
            let mut keys = Vec::new();
            for entry in entries {
                if self.is_possible(entry) {
                    keys.push(entry.key.clone());
                }
            }
            let mut items = self.outbox.items(&keys).await;
            items.retain(|item| item.contains_key(attribute::DEFERRED_AT));
            if items.is_empty() {
                *unmarked += keys.len();
            } else {
                *unmarked = 0;
            }
            self.dispatch(items).await;
            if *unmarked >= MAX_UNMARKED {
                return;
            }
        }
    }

    /// Publishes the events with these keys.
    async fn publish(&mut self, keys: &[EventKey]) {
        for keys in keys.chunks(MAX_EVENTS) {
            let items = self.outbox.items(keys).await;
            self.dispatch(items).await;
        }
    }

    /// Dispatches those events that are still pending in the table itself, as the index lags.
    async fn dispatch(&mut self, items: Vec<Item>) {
        let mut events = Vec::new();
        let mut rejected = Vec::new();
        for item in items {
            match self.ctx.config.classify(Change::Insert(item)) {
                Classified::Event(event) => events.push(event),
                Classified::Reject(reject) => rejected.push(reject),
                Classified::Skip(_) => {}
            }
        }
        let (dispatched, held) = self.gate.admit_pending(events, rejected).await;
        self.walked.dispatched += dispatched;
        for event in held {
            self.count_remaining(&event.queue);
        }
    }
}
