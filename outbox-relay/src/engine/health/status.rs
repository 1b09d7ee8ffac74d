//! What the engine is doing, for `/healthz`, `/readyz` and the gauges.

mod checks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use crate::engine::health::publish_history::{Recent, Sent, Slot};
use crate::engine::health::table_health::{TableUse, Trouble, Troubles};
use crate::ports::ShardId;
use crate::routes::QueueRef;

/// Shared by the engine and whoever asks.
#[derive(Clone, Debug)]
pub struct Status {
    inner: Arc<Mutex<Inner>>,
    /// What does not go through at the outbox table.
    troubles: Troubles,
    lease_duration: Duration,
    /// Has a lock of its own: health must not wait for who looks at a page.
    recent: Arc<Mutex<Recent>>,
}

#[derive(Debug)]
struct Inner {
    shards: BTreeMap<ShardId, ShardStatus>,
    /// Why the stream cannot be read, when it cannot.
    stream: Result<(), String>,
    /// Why the last send to a queue failed.
    queues: BTreeMap<QueueRef, String>,
    /// Why shards or leases cannot be looked at, and since when.
    coordination: Option<(Instant, String)>,
    /// Leases that nobody has, and since when.
    unowned: BTreeMap<ShardId, Instant>,
    /// When the last lease was taken.
    took: Option<Instant>,
    pending: u64,
    oldest_pending: Option<Timestamp>,
    failed: u64,
}

#[derive(Debug)]
struct ShardStatus {
    last_read: Instant,
    /// How many wait for room, because events are not published as fast as
    /// they are read: that is not the shard's fault.
    waiting_for_room: usize,
    /// There is nothing more to read in it.
    read_to_end: bool,
    /// Why checkpoints cannot be written, and since when.
    checkpoint_failing: Option<(Instant, String)>,
}

impl Status {
    pub fn new(lease_duration: Duration) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                shards: BTreeMap::new(),
                stream: Err("the stream has not been found yet".to_owned()),
                queues: BTreeMap::new(),
                coordination: None,
                unowned: BTreeMap::new(),
                took: None,
                pending: 0,
                oldest_pending: None,
                failed: 0,
            })),
            troubles: Troubles::default(),
            lease_duration,
            recent: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease was taken.
    pub(crate) fn took(&self, now: Instant) {
        self.lock().took = Some(now);
    }

    pub(crate) fn holds(&self, shard: &ShardId, now: Instant) {
        let status = ShardStatus {
            last_read: now,
            waiting_for_room: 0,
            read_to_end: false,
            checkpoint_failing: None,
        };
        self.lock().shards.insert(shard.clone(), status);
    }

    pub(crate) fn gave_up(&self, shard: &ShardId) {
        self.lock().shards.remove(shard);
    }

    pub(crate) fn read(&self, shard: &ShardId, now: Instant) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.last_read = now;
        }
    }

    /// Somebody waits for room for the shard, until what is returned is
    /// dropped.
    pub(crate) fn waits_for_room(&self, shard: &ShardId) -> WaitsForRoom {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.waiting_for_room += 1;
        }
        WaitsForRoom {
            status: self.clone(),
            shard: shard.clone(),
        }
    }

    /// What is left to do is publishing.
    pub(crate) fn read_to_end(&self, shard: &ShardId) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.read_to_end = true;
        }
    }

    pub(crate) fn checkpoint_written(&self, shard: &ShardId) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.checkpoint_failing = None;
        }
    }

    pub(crate) fn checkpoint_failed(&self, shard: &ShardId, reason: String, now: Instant) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            let since = shard
                .checkpoint_failing
                .as_ref()
                .map_or(now, |(since, _)| *since);
            shard.checkpoint_failing = Some((since, reason));
        }
    }

    pub(crate) fn stream(&self, state: Result<(), String>) {
        self.lock().stream = state;
    }

    pub(crate) fn queue_failed(&self, queue: &QueueRef, reason: String) {
        self.lock().queues.insert(queue.clone(), reason);
    }

    pub(crate) fn queue_well(&self, queue: &QueueRef) {
        self.lock().queues.remove(queue);
    }

    /// Forgets failures of queues that nothing is sent to any more: nobody
    /// would notice that they are well again.
    pub(crate) fn forget_queues(&self, in_use: impl Fn(&QueueRef) -> bool) {
        self.lock().queues.retain(|queue, _| in_use(queue));
    }

    /// For what is asked of the outbox table until it goes through.
    pub(crate) fn trouble(&self, table_use: TableUse) -> Trouble {
        self.troubles.new_one(table_use)
    }

    /// The outcome of a look at shards and leases.
    pub(crate) fn coordination(&self, outcome: Result<(), String>, now: Instant) {
        note(&mut self.lock().coordination, outcome, now);
    }

    /// Leases that could be taken now.
    pub(crate) fn unowned(&self, shards: Vec<ShardId>, now: Instant) {
        let mut inner = self.lock();
        let mut before = std::mem::take(&mut inner.unowned);
        inner.unowned = shards
            .into_iter()
            .map(|shard| {
                let since = before.remove(&shard).unwrap_or(now);
                (shard, since)
            })
            .collect();
    }

    pub(crate) fn pending(&self, count: u64, oldest: Option<Timestamp>) {
        let mut inner = self.lock();
        inner.pending = count;
        inner.oldest_pending = oldest;
        drop(inner);
        self.recent().pending(count, Timestamp::now());
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn published(&self, sent: Sent) {
        self.recent().published(sent);
    }

    pub(crate) fn quarantined(&self, at: Timestamp) {
        self.recent().quarantined(at);
    }

    /// What was published after the `seen`-th event, as far as it is
    /// remembered, the oldest first; and the number of the last.
    pub fn published_after(&self, seen: u64) -> (Vec<Arc<Sent>>, u64) {
        self.recent().after(seen)
    }

    /// What happened from `start` (epoch seconds) on, the oldest first.
    pub fn slots_from(&self, start: i64) -> Vec<Slot> {
        self.recent().slots_from(start)
    }

    pub(crate) fn failed(&self, count: u64) {
        self.lock().failed = count;
    }

    /// How many shards are held.
    pub fn shards_held(&self) -> usize {
        self.lock().shards.len()
    }

    /// The longest time since a held shard was last read.
    pub fn slowest_read(&self, now: Instant) -> Duration {
        self.lock()
            .shards
            .values()
            .filter(|shard| !shard.read_to_end)
            .map(|shard| now.saturating_duration_since(shard.last_read))
            .max()
            .unwrap_or_default()
    }

    /// How many events were pending when last looked.
    pub fn pending_events(&self) -> u64 {
        self.lock().pending
    }

    /// How many events were quarantined in the table when it was last looked
    /// at: at least so many, when there are very many.
    pub fn failed_events(&self) -> u64 {
        self.lock().failed
    }

    /// When the oldest of the pending ones occurred.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        self.lock().oldest_pending
    }
}

#[derive(Debug)]
pub(crate) struct WaitsForRoom {
    status: Status,
    shard: ShardId,
}

impl Drop for WaitsForRoom {
    fn drop(&mut self) {
        if let Some(shard) = self.status.lock().shards.get_mut(&self.shard) {
            // None are left of a shard that was let go and taken again.
            shard.waiting_for_room = shard.waiting_for_room.saturating_sub(1);
            shard.last_read = Instant::now();
        }
    }
}

/// Keeps since when it fails.
fn note(failure: &mut Option<(Instant, String)>, outcome: Result<(), String>, now: Instant) {
    *failure = match outcome {
        Ok(()) => None,
        Err(reason) => {
            let since = failure.as_ref().map_or(now, |(since, _)| *since);
            Some((since, reason))
        }
    };
}
