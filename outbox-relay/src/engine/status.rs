//! What the engine is doing, for `/healthz`, `/readyz` and the gauges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::health::{Check, Report};
use shared::timestamp::Timestamp;
use tokio::time::Instant;

use super::recent::{Recent, Sent, Slot};
use crate::ports::ShardId;

/// Shared by the engine and whoever asks.
#[derive(Clone, Debug)]
pub struct Status {
    inner: Arc<Mutex<Inner>>,
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
    queues: BTreeMap<String, String>,
    /// Why events cannot be marked or quarantined, and since when.
    table: Option<(Instant, String)>,
    /// Why shards or leases cannot be looked at, and since when.
    coordination: Option<(Instant, String)>,
    /// How many leases nobody has, and since when there have been some.
    unowned: Option<(usize, Instant)>,
    pending: u64,
    oldest_pending: Option<Timestamp>,
}

#[derive(Debug)]
struct ShardStatus {
    last_read: Instant,
    /// Reading waits for room, because events are not published as fast as
    /// they are read: that is not the shard's fault.
    waits_for_room: bool,
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
                table: None,
                coordination: None,
                unowned: None,
                pending: 0,
                oldest_pending: None,
            })),
            lease_duration,
            recent: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self, shard: &ShardId, now: Instant) {
        let status = ShardStatus {
            last_read: now,
            waits_for_room: false,
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

    pub(crate) fn waits_for_room(&self, shard: &ShardId, waits: bool, now: Instant) {
        if let Some(shard) = self.lock().shards.get_mut(shard) {
            shard.waits_for_room = waits;
            shard.last_read = now;
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

    pub(crate) fn queue_failed(&self, queue: &str, reason: String) {
        self.lock().queues.insert(queue.to_owned(), reason);
    }

    pub(crate) fn queue_well(&self, queue: &str) {
        self.lock().queues.remove(queue);
    }

    /// The outcome of a mark or a quarantine.
    pub(crate) fn table(&self, outcome: Result<(), String>, now: Instant) {
        note(&mut self.lock().table, outcome, now);
    }

    /// The outcome of a look at shards and leases.
    pub(crate) fn coordination(&self, outcome: Result<(), String>, now: Instant) {
        note(&mut self.lock().coordination, outcome, now);
    }

    pub(crate) fn unowned(&self, count: usize, now: Instant) {
        let mut inner = self.lock();
        inner.unowned = match (count, inner.unowned) {
            (0, _) => None,
            (count, Some((_, since))) => Some((count, since)),
            (count, None) => Some((count, now)),
        };
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

    /// How many shards are held.
    pub fn shards_held(&self) -> usize {
        self.lock().shards.len()
    }

    /// The longest time since a held shard was last read.
    pub fn slowest_read(&self, now: Instant) -> Duration {
        self.lock()
            .shards
            .values()
            .map(|shard| now.saturating_duration_since(shard.last_read))
            .max()
            .unwrap_or_default()
    }

    /// How many events were pending when last looked.
    pub fn pending_events(&self) -> u64 {
        self.lock().pending
    }

    /// When the oldest of them occurred.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        self.lock().oldest_pending
    }

    /// Rule 13: red when progress has stopped.
    pub fn live(&self, now: Instant) -> Report {
        let limit = self.lease_duration * 3;
        let inner = self.lock();
        let shards = inner.shards.iter().map(|(id, shard)| {
            let name = format!("shard {id}");
            let unread = now.saturating_duration_since(shard.last_read);
            match &shard.checkpoint_failing {
                _ if unread > limit && !shard.waits_for_room => Check::fail(
                    name,
                    format!("no successful read for {} s", unread.as_secs()),
                ),
                Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                    Check::fail(name, format!("no checkpoint could be written: {reason}"))
                }
                _ => Check::pass(name),
            }
        });
        let unowned = match inner.unowned {
            Some((count, since)) if now.saturating_duration_since(since) > limit => Check::fail(
                "leases",
                format!("{count} that are free could not be taken"),
            ),
            _ => Check::pass("leases"),
        };
        let failing = |name: &str, failure: &Option<(Instant, String)>| match failure {
            Some((since, reason)) if now.saturating_duration_since(*since) > limit => {
                Check::fail(name, reason)
            }
            _ => Check::pass(name),
        };
        Report::new(shards.chain([
            unowned,
            failing("marks", &inner.table),
            failing("coordination", &inner.coordination),
        ]))
    }

    /// Whether events can be published now.
    pub fn ready(&self) -> Report {
        let inner = self.lock();
        let stream = match &inner.stream {
            Ok(()) => Check::pass("stream"),
            Err(reason) => Check::fail("stream", reason),
        };
        let queues = inner
            .queues
            .iter()
            .map(|(queue, reason)| Check::fail(format!("queue {queue}"), reason));
        let table = inner
            .table
            .iter()
            .map(|(_, reason)| Check::fail("marks", reason));
        Report::new([stream].into_iter().chain(queues).chain(table))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_red_when_a_shard_is_not_read_but_not_when_it_waits_for_room() {
        let status = Status::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.holds(&shard, start);
        let later = start + Duration::from_secs(31);
        assert!(status.live(start + Duration::from_secs(30)).healthy());
        assert!(!status.live(later).healthy());
        status.waits_for_room(&shard, true, start);
        assert!(status.live(later).healthy());
        status.waits_for_room(&shard, false, later);
        assert!(status.live(later + Duration::from_secs(30)).healthy());
        assert!(!status.live(later + Duration::from_secs(31)).healthy());
    }

    #[test]
    fn health_is_red_when_no_checkpoint_can_be_written() {
        let status = Status::new(Duration::from_secs(10));
        let shard = ShardId("s".into());
        let start = Instant::now();
        status.holds(&shard, start);
        status.checkpoint_failed(&shard, "away".to_owned(), start);
        let later = start + Duration::from_secs(31);
        status.read(&shard, later);
        assert!(!status.live(later).healthy());
        status.checkpoint_written(&shard);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn health_is_red_when_shards_stay_unowned() {
        let status = Status::new(Duration::from_secs(10));
        let start = Instant::now();
        status.unowned(2, start);
        status.unowned(1, start + Duration::from_secs(20));
        let later = start + Duration::from_secs(31);
        assert!(!status.live(later).healthy());
        status.unowned(0, later);
        assert!(status.live(later).healthy());
    }

    #[test]
    fn health_is_red_when_nothing_can_be_marked_or_leases_cannot_be_read() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        for fail in [Status::table, Status::coordination] {
            let status = Status::new(Duration::from_secs(10));
            fail(&status, Err("away".to_owned()), start);
            fail(&status, Err("away".to_owned()), later);
            assert!(status.live(start).healthy());
            assert!(!status.live(later).healthy());
            fail(&status, Ok(()), later);
            assert!(status.live(later).healthy());
        }
    }
}
