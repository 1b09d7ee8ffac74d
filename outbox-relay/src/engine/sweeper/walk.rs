//! Walk over the index of pending events: dispatches those that are due.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox::item::attribute;

use super::candidates::{Candidates, Collected};
use super::sweep_gate::{SweepGate, Walked};
use crate::engine::context::ShardContext;
use crate::engine::outbox_reader::OutboxReader;
use crate::engine::shard_state::ShardState;
use crate::policy::sweep_policy::{SweepPartition, is_old};
use crate::ports::{EventKey, PendingCursor, PendingEntry};

/// Number of events that are read and dispatched at once.
const MAX_EVENTS: usize = 100;

/// Maximum number of pages with young events, of up to 500 events each, that a walk reads of one
/// bucket. An event that was made pending again is sorted among those of its time, and one with a
/// time in the future behind all others. Beyond this many pages it waits until it is old: reading
/// all of a backlog in every walk would cost capacity that is needed to publish it.
const MAX_YOUNG_PAGES: usize = 5;

/// Number of consecutive events that are not deferred after which a walk looks for no more deferred
/// ones in the bucket: the rest is the backlog of the readers, and each look-up reads a whole item.
/// The next walk continues there.
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
    /// Searches for marked events from where an earlier walk stopped.
    Search,
}

pub(super) struct Walk<'a> {
    ctx: &'a ShardContext,
    shard: &'a Arc<ShardState>,
    partition: SweepPartition,
    outbox: &'a OutboxReader,
    gate: SweepGate,
    resume: &'a mut ResumePoints,
}

/// Positions at which the next walk continues to look for deferred events, by bucket.
pub(super) type ResumePoints = BTreeMap<u32, PendingCursor>;

impl<'a> Walk<'a> {
    pub(super) fn new(
        ctx: &'a ShardContext,
        shard: &'a Arc<ShardState>,
        partition: SweepPartition,
        outbox: &'a OutboxReader,
        resume: &'a mut ResumePoints,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            ctx,
            shard,
            partition,
            outbox,
            gate: SweepGate::new(ctx, shard, random),
            resume,
        }
    }

    /// Walks over the buckets of the partition.
    pub(super) async fn run(mut self, mut task: Task<'_>) -> Walked {
        for bucket in self.partition.buckets(self.ctx.config.buckets.get()) {
            if !matches!(task, Task::Search) {
                self.walk_bucket(bucket, &mut task).await;
            }
            let searches = match task {
                Task::Collect {
                    looks_for_deferred, ..
                } => looks_for_deferred,
                Task::Publish(_) => false,
                Task::Search => true,
            };
            if searches {
                self.resume_search(bucket).await;
            }
        }
        self.gate.walked
    }

    async fn walk_bucket(&mut self, bucket: u32, task: &mut Task<'_>) {
        let mut after = None;
        let mut young_pages = 0;
        let mut unmarked = 0;
        let mut collected = Collected::default();
        loop {
            let page = self.outbox.pending(bucket, after.as_ref()).await;
            let mut entries = page.entries;
            entries.retain(|entry| self.gate.is_possible(entry));
            let (old, young): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| self.is_old(entry));
            young_pages += usize::from(!young.is_empty());
            let mut searches = false;
            match task {
                Task::Search => return,
                Task::Publish(candidates) => {
                    let due = old.into_iter().map(|entry| entry.key);
                    let due: Vec<_> = due.filter(|key| candidates.contains(key)).collect();
                    self.publish(&due).await;
                }
                Task::Collect {
                    candidates,
                    looks_for_deferred,
                } => {
                    let (due, other): (Vec<_>, Vec<_>) =
                        old.into_iter().partition(|entry| entry.is_republished);
                    let due: Vec<_> = due.into_iter().map(|entry| entry.key).collect();
                    self.publish(&due).await;
                    searches = *looks_for_deferred && unmarked < MAX_UNMARKED;
                    if searches {
                        let all: Vec<_> = other.iter().chain(&young).collect();
                        self.publish_deferred(&all, &mut unmarked).await;
                        searches = unmarked < MAX_UNMARKED;
                        if !searches && let Some(next) = &page.next {
                            self.resume.entry(bucket).or_insert_with(|| next.clone());
                        }
                    }
                    // Those that were dispatched just now are in flight.
                    let shard = self.shard;
                    let other = other.iter().map(|entry| &entry.key);
                    for key in other.filter(|key| !shard.is_in_flight_from_table(key)) {
                        candidates.insert(key, &mut collected);
                    }
                    if candidates.is_full() && !candidates.has_capacity(collected) && !searches {
                        return;
                    }
                }
            }
            after = page.next;
            if after.is_none() || (young_pages >= MAX_YOUNG_PAGES && !searches) {
                return;
            }
        }
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
            // A queue may have failed since the entry was checked.
            let mut keys = Vec::new();
            for entry in entries {
                if self.gate.is_possible(entry) {
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
            self.gate.dispatch(items).await;
        }
    }

    /// Searches for marked events in the same way, from the position at which this walk or an
    /// earlier one stopped.
    async fn resume_search(&mut self, bucket: u32) {
        let mut unmarked = 0;
        // Pages of queues that do not accept events have none that are unmarked.
        for _ in 0..MAX_YOUNG_PAGES {
            let Some(after) = self.resume.remove(&bucket) else {
                return;
            };
            let page = self.outbox.pending(bucket, Some(&after)).await;
            // Those that have to stay in the table are counted already.
            let entries = page.entries.iter();
            let (due, other): (Vec<_>, Vec<_>) = entries
                .filter(|entry| self.gate.accepts(entry))
                .partition(|entry| entry.is_republished);
            let due: Vec<_> = due.into_iter().map(|entry| entry.key.clone()).collect();
            self.publish(&due).await;
            self.publish_deferred(&other, &mut unmarked).await;
            if let Some(next) = page.next {
                self.resume.insert(bucket, next);
            }
            if unmarked >= MAX_UNMARKED {
                return;
            }
        }
    }

    /// Publishes the events with these keys.
    async fn publish(&mut self, keys: &[EventKey]) {
        for keys in keys.chunks(MAX_EVENTS) {
            let items = self.outbox.items(keys).await;
            self.gate.dispatch(items).await;
        }
    }
}
