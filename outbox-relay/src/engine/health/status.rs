//! Current state of the engine, for `/healthz`, `/readyz`, the gauges and the console.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::publish_history::{HistorySlot, PublishHistory, PublishRecord};
use super::queue_outages::QueueOutages;
use super::table_health::{OperationMonitor, TableHealth, TableOperation};
use crate::ports::ShardId;
use crate::routes::QueueRef;

/// State of the engine. Written by its tasks, read by the HTTP handlers.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    state: Arc<Mutex<State>>,
    table: TableHealth,
    lease_duration: Duration,
    /// Has a lock of its own, so that health checks do not wait for readers of the history.
    history: Arc<Mutex<PublishHistory>>,
}

#[derive(Debug)]
struct State {
    shards: BTreeMap<ShardId, ShardStatus>,
    /// Reason for which the stream cannot be read.
    stream: Result<(), String>,
    queues: QueueOutages,
    /// Event types without a route, and the time at which each was seen last.
    unrouted: BTreeMap<String, Instant>,
    /// Reason for which shards or leases cannot be read, and the start of the failure.
    coordination: Option<(Instant, String)>,
    /// Available leases, and the time since which they are available.
    unowned: BTreeMap<ShardId, Instant>,
    /// Time of the last lease acquisition.
    acquired_at: Option<Instant>,
    /// Lease items that cannot be parsed.
    unreadable: BTreeSet<ShardId>,
    /// Last counts, if this instance counts for the group.
    counts: Option<Counts>,
}

/// Counts of the events in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub pending: u64,
    /// Time at which the oldest pending event occurred.
    pub oldest_pending: Option<Timestamp>,
    /// Number of quarantined events. Very large numbers are lower bounds.
    pub failed: u64,
}

#[derive(Debug)]
struct ShardStatus {
    last_read: Instant,
    /// Number of tasks that wait for the buffer budget, because events are published more slowly
    /// than they are read. Such a shard is not stalled.
    budget_waits: usize,
    /// Reason for which the last read failed.
    read_failure: Option<ReadFailure>,
    /// Nothing is left to read.
    is_fully_read: bool,
    /// Reason for which checkpoints cannot be written, and the start of the failure.
    checkpoint_failure: Option<(Instant, String)>,
}

#[derive(Debug)]
struct ReadFailure {
    reason: String,
    /// The credentials lack the permission, which a restart does not change.
    is_denied: bool,
}

/// Maximum number of event types without a route that are remembered.
const MAX_UNROUTED: usize = 100;

/// Time for which an event type without a route is remembered after its last event was seen.
const REMEMBER_UNROUTED: Duration = Duration::from_secs(600);

impl State {
    fn retain_unrouted(&mut self, now: Instant) {
        self.unrouted
            .retain(|_, seen| now < *seen + REMEMBER_UNROUTED);
    }
}

impl EngineStatus {
    pub fn new(lease_duration: Duration) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                shards: BTreeMap::new(),
                stream: Err("the stream has not been found yet".to_owned()),
                queues: QueueOutages::default(),
                unrouted: BTreeMap::new(),
                coordination: None,
                unowned: BTreeMap::new(),
                acquired_at: None,
                unreadable: BTreeSet::new(),
                counts: None,
            })),
            table: TableHealth::default(),
            lease_duration,
            history: Arc::default(),
        }
    }

    /// Records that a lease was acquired.
    pub(crate) fn record_acquired(&self, now: Instant) {
        self.state.lock().acquired_at = Some(now);
    }

    /// Records that reading of a shard starts.
    pub(crate) fn add_shard(&self, shard: &ShardId, now: Instant) {
        let status = ShardStatus {
            last_read: now,
            budget_waits: 0,
            read_failure: None,
            is_fully_read: false,
            checkpoint_failure: None,
        };
        self.state.lock().shards.insert(shard.clone(), status);
    }

    /// Records that a shard is no longer held.
    pub(crate) fn remove_shard(&self, shard: &ShardId) {
        self.state.lock().shards.remove(shard);
    }

    /// Records a successful read.
    pub(crate) fn record_read(&self, shard: &ShardId, now: Instant) {
        self.update_shard(shard, |shard| {
            shard.last_read = now;
            shard.read_failure = None;
        });
    }

    /// Records a failed read, and whether the credentials lack the permission for it.
    pub(crate) fn record_read_failure(&self, shard: &ShardId, reason: String, is_denied: bool) {
        let failure = ReadFailure { reason, is_denied };
        self.update_shard(shard, |shard| shard.read_failure = Some(failure));
    }

    /// Records that a task of the shard waits for the buffer budget until the returned guard is
    /// dropped.
    pub(crate) fn wait_for_budget(&self, shard: &ShardId) -> BudgetWait {
        self.update_shard(shard, |shard| shard.budget_waits += 1);
        BudgetWait {
            status: self.clone(),
            shard: shard.clone(),
        }
    }

    /// Records that the shard is read to its end, so that only publishing is left.
    pub(crate) fn record_fully_read(&self, shard: &ShardId) {
        self.update_shard(shard, |shard| shard.is_fully_read = true);
    }

    pub(crate) fn record_checkpoint(&self, shard: &ShardId) {
        self.update_shard(shard, |shard| shard.checkpoint_failure = None);
    }

    pub(crate) fn record_checkpoint_failure(&self, shard: &ShardId, reason: String, now: Instant) {
        self.update_shard(shard, |shard| {
            update_failure(&mut shard.checkpoint_failure, Err(reason), now);
        });
    }

    fn update_shard(&self, shard: &ShardId, update: impl FnOnce(&mut ShardStatus)) {
        if let Some(shard) = self.state.lock().shards.get_mut(shard) {
            update(shard);
        }
    }

    /// Records the outcome of a request to the stream.
    pub(crate) fn record_stream(&self, outcome: Result<(), String>) {
        self.state.lock().stream = outcome;
    }

    /// Records that a request with `count` messages failed.
    pub(crate) fn record_queue_failure(
        &self,
        queue: &QueueRef,
        kind: &str,
        reason: String,
        count: usize,
    ) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.queues.record_failure(queue, kind, reason, count, now);
    }

    pub(crate) fn record_queue_success(&self, queue: &QueueRef) {
        let now = Instant::now();
        self.state.lock().queues.record_success(queue, now);
    }

    /// Records an event without a route, and logs its type unless it is known to have none.
    pub(crate) fn record_unrouted(&self, event_type: &str) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.retain_unrouted(now);
        if let Some(seen) = state.unrouted.get_mut(event_type) {
            *seen = now;
        } else if state.unrouted.len() < MAX_UNROUTED {
            state.unrouted.insert(event_type.to_owned(), now);
            tracing::error!(
                event_type,
                "no route matches the event type; its events stay pending in the table; add a route to RELAY_ROUTES"
            );
        }
    }

    /// Returns `true` if events are held because no route matches them.
    pub(crate) fn has_unrouted(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.retain_unrouted(now);
        !state.unrouted.is_empty()
    }

    /// Returns `true` unless the last send to the queue failed.
    pub(crate) fn is_available(&self, queue: &QueueRef) -> bool {
        !self.state.lock().queues.contains(queue)
    }

    /// Forgets failures of queues that are no longer used, since no send would end the failure.
    pub(crate) fn retain_queues(&self, is_in_use: impl Fn(&QueueRef) -> bool) {
        self.state.lock().queues.retain(is_in_use);
    }

    /// Returns a monitor of an operation on the outbox table that is retried until it succeeds.
    pub(crate) fn monitor(&self, operation: TableOperation) -> OperationMonitor {
        self.table.monitor(operation)
    }

    /// Records the outcome of a request for shards or leases.
    pub(crate) fn record_coordination(&self, outcome: Result<(), String>, now: Instant) {
        update_failure(&mut self.state.lock().coordination, outcome, now);
    }

    /// Records the leases that are available now.
    pub(crate) fn record_unowned(&self, shards: Vec<ShardId>, now: Instant) {
        let mut state = self.state.lock();
        let mut before = std::mem::take(&mut state.unowned);
        state.unowned = shards
            .into_iter()
            .map(|shard| {
                let since = before.remove(&shard).unwrap_or(now);
                (shard, since)
            })
            .collect();
    }

    /// Records the lease items that cannot be parsed.
    pub(crate) fn record_unreadable(&self, leases: &BTreeSet<ShardId>) {
        self.state.lock().unreadable.clone_from(leases);
    }

    /// Records counts that were made at `at` (wall clock).
    pub(crate) fn record_counts(&self, counts: Counts, at: Timestamp) {
        self.state.lock().counts = Some(counts);
        self.history.lock().record_pending(counts.pending, at);
    }

    /// Forgets the counts, because another instance counts from now on.
    pub(crate) fn forget_counts(&self) {
        self.state.lock().counts = None;
    }

    pub(crate) fn record_published(&self, record: PublishRecord) {
        self.history.lock().record_published(record);
    }

    pub(crate) fn record_quarantined(&self, at: Timestamp) {
        self.history.lock().record_quarantined(at);
    }

    /// Returns the events that were published after number `seen` and are still in the history,
    /// oldest first, and the number of the last event.
    pub fn published_after(&self, seen: u64) -> (Vec<Arc<PublishRecord>>, u64) {
        self.history.lock().after(seen)
    }

    /// Returns the slots of the history from `start` (epoch seconds) on, oldest first.
    pub fn slots_from(&self, start: i64) -> Vec<HistorySlot> {
        self.history.lock().slots_from(start)
    }

    /// Returns the number of shards that this instance reads.
    pub fn shards_held(&self) -> usize {
        self.state.lock().shards.len()
    }

    /// Returns the longest time since the last successful read of a held shard.
    pub fn longest_since_read(&self, now: Instant) -> Duration {
        self.state
            .lock()
            .shards
            .values()
            .filter(|shard| !shard.is_fully_read)
            .map(|shard| now.saturating_duration_since(shard.last_read))
            .max()
            .unwrap_or_default()
    }

    /// Returns the last counts of the events in the table, or `None` if another instance of the
    /// group counts them.
    pub fn counts(&self) -> Option<Counts> {
        self.state.lock().counts
    }
}

/// Guard of one wait for the buffer budget.
#[derive(Debug)]
pub(crate) struct BudgetWait {
    status: EngineStatus,
    shard: ShardId,
}

impl Drop for BudgetWait {
    fn drop(&mut self) {
        self.status.update_shard(&self.shard, |shard| {
            // The count of a shard that was released and acquired again starts at zero.
            shard.budget_waits = shard.budget_waits.saturating_sub(1);
            shard.last_read = Instant::now();
        });
    }
}

/// Updates the current failure; its start is that of the first failure in a row.
fn update_failure(
    failure: &mut Option<(Instant, String)>,
    outcome: Result<(), String>,
    now: Instant,
) {
    *failure = match outcome {
        Ok(()) => None,
        Err(reason) => {
            let since = failure.as_ref().map_or(now, |(since, _)| *since);
            Some((since, reason))
        }
    };
}
