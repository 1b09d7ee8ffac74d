//! Queue states: which queues accept events, as the publisher reports it to the other tasks.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::routes::QueueRef;

/// State of a queue that is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueCondition {
    /// Its events are deferred.
    pub(crate) is_deferring: bool,
    /// As many of its events from the table wait as may wait for an impaired queue, by number or
    /// by size.
    pub(crate) has_table_batch: bool,
}

/// States of the queues. Written by the publisher, read by the gates and the sweepers.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueStates {
    /// Queues that are healthy are left out.
    conditions: Arc<Mutex<BTreeMap<QueueRef, QueueCondition>>>,
    /// Number of recoveries so far.
    recoveries: Arc<AtomicU64>,
    /// A `watch` channel would wake its receivers in a random order, and a simulated run would not
    /// repeat exactly.
    recovered: Arc<Notify>,
    sweep_requested: Arc<Notify>,
}

impl QueueStates {
    /// Returns `true` if the queue has been unavailable for so long that its events are deferred.
    /// Events without a route are always deferred.
    pub(crate) fn is_deferring(&self, queue: &QueueRef) -> bool {
        !queue.is_routed()
            || self
                .conditions
                .lock()
                .get(queue)
                .is_some_and(|condition| condition.is_deferring)
    }

    /// Returns `true` if the queue is unavailable or slow. Events without a route have no queue.
    pub(crate) fn is_impaired(&self, queue: &QueueRef) -> bool {
        !queue.is_routed() || self.conditions.lock().contains_key(queue)
    }

    /// Returns `true` if events of the queue that are read from the table may be dispatched. An
    /// impaired queue accepts one batch of them at a time, as a probe.
    pub(crate) fn accepts_table_events(&self, queue: &QueueRef) -> bool {
        queue.is_routed()
            && self
                .conditions
                .lock()
                .get(queue)
                .is_none_or(|condition| !condition.has_table_batch)
    }

    /// Waits until a queue that failed accepts events again, and returns the number of recoveries.
    /// `seen` is the number that the caller knows, 0 at first.
    pub(crate) async fn recovered(&self, seen: u64) -> u64 {
        loop {
            let mut notified = pin!(self.recovered.notified());
            // From here on no signal is missed.
            notified.as_mut().enable();
            let count = self.recoveries.load(Ordering::Acquire);
            if count != seen {
                return count;
            }
            notified.await;
        }
    }

    /// Replaces the conditions of all queues that are not healthy.
    pub(crate) fn replace(&self, conditions: BTreeMap<QueueRef, QueueCondition>) {
        *self.conditions.lock() = conditions;
    }

    /// Signals that a queue that failed accepts events again.
    pub(crate) fn signal_recovery(&self) {
        self.recoveries.fetch_add(1, Ordering::AcqRel);
        self.recovered.notify_waiters();
    }

    /// Requests a sweep from the instances that hold the sweepers' leases.
    pub(crate) fn request_sweep(&self) {
        self.sweep_requested.notify_one();
    }

    /// Waits until a sweep is requested.
    pub(crate) async fn sweep_requested(&self) {
        self.sweep_requested.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impaired_queue_accepts_events_of_the_table_until_a_batch_of_them_waits() {
        let states = QueueStates::default();
        let queue = QueueRef::new("q");
        assert!(states.accepts_table_events(&queue));
        for (has_table_batch, accepts) in [(false, true), (true, false)] {
            let condition = QueueCondition {
                is_deferring: true,
                has_table_batch,
            };
            states.replace(BTreeMap::from([(queue.clone(), condition)]));
            assert!(states.is_deferring(&queue));
            assert!(states.is_impaired(&queue));
            assert_eq!(states.accepts_table_events(&queue), accepts);
        }
        states.replace(BTreeMap::new());
        assert!(!states.is_deferring(&queue));
        assert!(!states.is_impaired(&queue));
        assert!(states.accepts_table_events(&queue));
    }

    #[test]
    fn an_event_without_a_route_is_deferred_and_never_read_from_the_table() {
        let states = QueueStates::default();
        assert!(states.is_deferring(&QueueRef::unrouted()));
        assert!(!states.accepts_table_events(&QueueRef::unrouted()));
    }
}
