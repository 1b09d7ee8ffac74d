//! Sweeper: publishes pending events that the stream can no longer deliver (the "sweeper" rule).
//!
//! After an outage of more than 24 hours, after a stream was disabled and enabled again, or after a
//! table was restored from a backup, the table contains pending events that no shard reader will
//! read. One instance at a time publishes them.
//!
//! The commit time of an event is unknown: `occurred_at` is set by its writer and may be a year
//! ago. So a sweep collects the pending events, waits until every reader is past the start of the
//! sweep, and publishes those that are still pending.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use outbox::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::context::ShardContext;
use super::outbox_reader::OutboxReader;
use super::shard::sequence_gate::SequenceGate;
use super::shard_state::ShardState;
use crate::policy::lease_assignment::with_registered;
use crate::policy::record_classifier::Classified;
use crate::policy::sweep_policy::{SweepPartition, is_old, is_past, low_watermark};
use crate::ports::{Change, EventKey, PendingEntry};

/// Maximum number of candidates of one sweep. Further ones are found by the next.
const MAX_CANDIDATES: usize = 100_000;

/// Number of events that are read and dispatched at once.
const MAX_EVENTS: usize = 100;

/// Maximum number of pages with young events, of up to 500 events each, that a pass reads of one
/// bucket. An event that was made pending again is sorted among those of its time, and one with a
/// time in the future behind all others. Beyond this many pages it waits until it is old: reading
/// all of a backlog in every pass would cost capacity that is needed to publish it.
const MAX_YOUNG_PAGES: usize = 5;

/// Task of one pass over the pending events.
enum Pass<'a> {
    /// Collects candidates, and publishes events that were made pending again.
    Collect(&'a mut Candidates),
    /// Publishes the candidates that are still pending.
    Publish(&'a Candidates),
}

/// Pending events by the hash of their key. Two events with the same hash cost at most a repeat.
#[derive(Default)]
struct Candidates(HashSet<u64>);

impl Candidates {
    fn hash(key: &EventKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_CANDIDATES
    }
}

pub(crate) struct Sweeper {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    partition: SweepPartition,
    outbox: OutboxReader,
    random: fastrand::Rng,
}

impl Sweeper {
    /// Creates the sweeper of `partition`, whose lease has the state `shard`.
    pub(crate) fn new(
        ctx: ShardContext,
        shard: Arc<ShardState>,
        partition: SweepPartition,
        mut random: fastrand::Rng,
    ) -> Self {
        let outbox = OutboxReader::new(
            Arc::clone(&ctx.ports.outbox),
            ctx.status.clone(),
            random.fork(),
        );
        Self {
            ctx,
            shard,
            partition,
            outbox,
            random,
        }
    }

    /// Sweeps at every interval and on request, until dropped.
    pub(crate) async fn run(mut self, requested: &Notify) {
        let mut ticks = tokio::time::interval(self.ctx.config.sweep_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {}
                () = requested.notified() => {}
            }
            while self.sweep(requested).await {}
        }
    }

    /// Sweeps once. Returns `true` if there may be more candidates.
    async fn sweep(&mut self, requested: &Notify) -> bool {
        let started_at = (self.ctx.config.clock)();
        let mut candidates = Candidates::default();
        self.pass(Pass::Collect(&mut candidates)).await;
        if candidates.0.is_empty() {
            return false;
        }
        while !self.is_passed(started_at).await {
            tokio::select! {
                biased;
                // Events that an operator made pending again do not wait for the readers.
                () = requested.notified() => {
                    self.pass(Pass::Collect(&mut Candidates::default())).await;
                }
                // About as often as leases are written.
                () = tokio::time::sleep(self.ctx.config.lease_duration / 3) => {}
            }
        }
        let count = self.pass(Pass::Publish(&candidates)).await;
        if count > 0 {
            tracing::warn!(
                count,
                "publishing pending events that the stream can no longer deliver"
            );
        }
        candidates.is_full()
    }

    /// Returns `true` if every record that was created before `moment` is settled.
    async fn is_passed(&self, moment: Timestamp) -> bool {
        match self.ctx.ports.leases.list(&self.ctx.stream, None).await {
            Ok(listed) if !listed.unreadable.is_empty() => false,
            Ok(listed) => {
                let leases = listed.leases;
                let shards = with_registered(self.ctx.directory.shards(), &leases);
                let margin = self.ctx.config.sweep_after;
                low_watermark(&shards, &leases).is_some_and(|mark| is_past(mark, moment, margin))
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be read for the sweep; retrying");
                false
            }
        }
    }

    /// Reads the pending events. Returns the number of events that were dispatched.
    async fn pass(&mut self, mut pass: Pass<'_>) -> usize {
        let mut gate = SequenceGate::new(&self.ctx, &self.shard, self.random.fork());
        let mut count = 0;
        for bucket in self.partition.buckets(self.ctx.config.buckets.get()) {
            let mut after = None;
            let mut young_pages = 0;
            loop {
                let page = self.outbox.pending(bucket, after.as_ref()).await;
                let found = page.entries.len();
                let mut old = page.entries;
                old.retain(|entry| self.is_old(entry));
                young_pages += usize::from(old.len() < found);
                // An earlier sweep dispatched them; their queue may be unavailable.
                old.retain(|entry| !self.shard.is_in_flight_from_table(&entry.key));
                let due: Vec<_> = due(old, &mut pass);
                for keys in due.chunks(MAX_EVENTS) {
                    count += self.dispatch(&mut gate, keys).await;
                }
                after = page.next;
                let is_full = matches!(&pass, Pass::Collect(found) if found.is_full());
                if after.is_none() || young_pages == MAX_YOUNG_PAGES || is_full {
                    break;
                }
            }
        }
        count
    }

    /// Returns `true` if the event is old enough to sweep; younger events are still expected from
    /// the stream.
    fn is_old(&self, entry: &PendingEntry) -> bool {
        let now = (self.ctx.config.clock)();
        entry.is_republished || is_old(entry.occurred_at, now, self.ctx.config.sweep_after)
    }

    /// Dispatches those events that are still pending in the table itself, as the index lags.
    async fn dispatch(&mut self, gate: &mut SequenceGate, keys: &[EventKey]) -> usize {
        let mut events = Vec::new();
        let mut rejected = Vec::new();
        for item in self.outbox.items(keys).await {
            match self.ctx.config.classify(Change::Insert(item)) {
                Classified::Event(event) => events.push(event),
                Classified::Reject(reject) => rejected.push(reject),
                Classified::Skip(_) => {}
            }
        }
        gate.admit_pending(events, rejected).await
    }
}

/// Returns those of `entries` that are to be published in this pass, and collects the candidates.
fn due(entries: Vec<PendingEntry>, pass: &mut Pass<'_>) -> Vec<EventKey> {
    let keys = entries.into_iter().filter_map(|entry| {
        let hash = Candidates::hash(&entry.key);
        let is_due = match pass {
            Pass::Collect(_) if entry.is_republished => true,
            Pass::Collect(candidates) => {
                candidates.0.insert(hash);
                false
            }
            Pass::Publish(candidates) => candidates.0.contains(&hash),
        };
        is_due.then_some(entry.key)
    });
    keys.collect()
}
