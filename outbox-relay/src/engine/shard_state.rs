//! State of one acquired lease that its reader, the publisher and the lease renewer share.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::policy::checkpoint_tracker::CheckpointTracker;
use crate::policy::send_scheduler::Permission;
use crate::policy::sequence_tracker::SequenceTracker;
use crate::ports::{EventKey, ShardId};

/// Time for which events are held back while it is uncertain whether the lease is still held.
const UNCERTAIN_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct ShardState {
    pub(crate) id: ShardId,
    // Locks are held for a few instructions, never across an await.
    tracker: Mutex<CheckpointTracker>,
    /// Events that the gate dispatched. The publisher makes it forget aggregates that it leaves to
    /// the table; the gate holds the lock while it checks and dispatches an event.
    sequences: Mutex<SequenceTracker>,
    fence: Mutex<Fence>,
    /// Returns the time for which the machine was suspended.
    suspended: fn() -> Duration,
    /// Number of dispatched and unsettled events.
    in_flight: AtomicUsize,
    /// Keys of those that were read from the table. A later read of the table returns them again
    /// until they are settled.
    from_table: Mutex<HashSet<EventKey>>,
    /// Those of them that are about to be quarantined.
    rejected: Mutex<HashSet<EventKey>>,
    /// Number of deferred events by queue, as of the last pass of a sweeper.
    deferred: Mutex<BTreeMap<String, u64>>,
}

/// Fence of the shard: decides whether its events may still be sent (the "fence on loss" rule).
#[derive(Clone, Copy, Debug)]
enum Fence {
    /// No other instance can have acquired the lease before this instant of the lease clock.
    HeldUntil(Instant),
    Closed,
}

impl ShardState {
    /// Creates the state of a lease that is held until `held_until` of the lease clock.
    pub(crate) fn new(
        id: ShardId,
        tracker: CheckpointTracker,
        held_until: Instant,
        suspended: fn() -> Duration,
    ) -> Self {
        Self {
            id,
            tracker: Mutex::new(tracker),
            sequences: Mutex::new(SequenceTracker::new(0)),
            fence: Mutex::new(Fence::HeldUntil(held_until)),
            suspended,
            in_flight: AtomicUsize::new(0),
            from_table: Mutex::default(),
            rejected: Mutex::default(),
            deferred: Mutex::default(),
        }
    }

    /// Stores the number of deferred events by queue. The lease renewer writes it into the lease.
    pub(crate) fn set_deferred(&self, counts: BTreeMap<String, u64>) {
        *self.deferred.lock() = counts;
    }

    /// Returns the number of deferred events by queue.
    pub(crate) fn deferred(&self) -> BTreeMap<String, u64> {
        self.deferred.lock().clone()
    }

    pub(crate) fn tracker(&self) -> MutexGuard<'_, CheckpointTracker> {
        self.tracker.lock()
    }

    pub(crate) fn sequences(&self) -> MutexGuard<'_, SequenceTracker> {
        self.sequences.lock()
    }

    /// Extends the fence after the lease was renewed by a request that started a lease duration
    /// before `until` of the lease clock. A closed fence stays closed.
    pub(crate) fn extend_until(&self, until: Instant) {
        let mut fence = self.fence.lock();
        if let Fence::HeldUntil(_) = *fence {
            *fence = Fence::HeldUntil(until);
        }
    }

    /// Closes the fence for good: another instance has the shard or will acquire it, so nothing
    /// more of it may be sent.
    pub(crate) fn close(&self) {
        *self.fence.lock() = Fence::Closed;
    }

    /// Returns `true` if no event of the shard is in flight.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Returns `true` if the event was read from the table and is in flight. A caller that checks
    /// this before it queries the table, and dispatches only events for which this is `false`,
    /// dispatches no event twice.
    pub(crate) fn is_in_flight_from_table(&self, key: &EventKey) -> bool {
        self.from_table.lock().contains(key)
    }

    /// Records that an event that was read from the table is about to be quarantined.
    pub(super) fn record_rejected(&self, key: &EventKey) {
        self.rejected.lock().insert(key.clone());
    }

    /// Returns the events of an aggregate that were read from the table and are about to be
    /// quarantined.
    pub(crate) fn rejected(&self, aggregate_id: &str) -> HashSet<EventKey> {
        let is_of_aggregate = |key: &&EventKey| key.aggregate_id == aggregate_id;
        let rejected = self.rejected.lock();
        rejected.iter().filter(is_of_aggregate).cloned().collect()
    }

    /// Returns the events of an aggregate that were read from the table and are in flight.
    pub(crate) fn in_flight_from_table(&self, aggregate_id: &str) -> HashSet<EventKey> {
        let is_of_aggregate = |key: &&EventKey| key.aggregate_id == aggregate_id;
        let from_table = self.from_table.lock();
        from_table.iter().filter(is_of_aggregate).cloned().collect()
    }

    /// Records the dispatch of an event; `table_key` is its key if it was read from the table.
    pub(super) fn begin_flight(&self, table_key: Option<&EventKey>) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(key) = table_key {
            self.from_table.lock().insert(key.clone());
        }
    }

    /// Records the end of an event's flight, whether it was settled or forgotten.
    pub(super) fn end_flight(&self, table_key: Option<&EventKey>) {
        if let Some(key) = table_key {
            self.rejected.lock().remove(key);
            self.from_table.lock().remove(key);
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the permission to send events of the shard at `now`. An instance that was suspended
    /// beyond its lease, or whose machine was, notices it here, before it sends.
    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match *self.fence.lock() {
            Fence::Closed => Permission::Never,
            Fence::HeldUntil(until) if now + (self.suspended)() < until => Permission::Send,
            Fence::HeldUntil(_) => Permission::Later(now + UNCERTAIN_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn suspended_time_counts_against_the_lease_until_it_is_renewed() {
        let lease_duration = Duration::from_secs(10);
        let now = Instant::now();
        let shard = ShardState::new(
            ShardId("shard".into()),
            CheckpointTracker::default(),
            now + lease_duration,
            || SUSPENDED.get(),
        );
        let later = now + Duration::from_secs(1);
        SUSPENDED.set(Duration::from_secs(8));
        assert_eq!(shard.permission(later), Permission::Send);
        SUSPENDED.set(Duration::from_secs(9));
        assert!(matches!(shard.permission(later), Permission::Later(_)));
        shard.extend_until(later + SUSPENDED.get() + lease_duration);
        assert_eq!(shard.permission(later), Permission::Send);
    }
}
