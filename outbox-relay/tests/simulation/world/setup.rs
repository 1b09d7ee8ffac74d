//! What distinguishes the runs from each other, apart from the faults.

use std::time::Duration;

use outbox_relay::engine::OnFailure;

use crate::run::BUFFER_EVENTS;

/// Lease duration of most instances.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// Queue of orders, which is a FIFO queue in some runs, and queue of all other events.
pub(crate) const QUEUES: [&str; 2] = ["orders", "others"];

/// Setup of one run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) on_failure: OnFailure,
    /// Queue that becomes unavailable at some time and stays so until everything else is settled.
    pub(crate) failing_queue: Option<&'static str>,
    /// Queue that takes seconds to answer.
    pub(crate) slow_queue: Option<&'static str>,
    /// Orders go to a FIFO queue.
    pub(crate) has_fifo: bool,
    /// Sequences of some aggregates have holes.
    pub(crate) has_holes: bool,
    /// Writers choose their own event ids, which are not unique.
    pub(crate) has_event_ids: bool,
    /// Some payloads are so large that the limits in bytes are reached.
    pub(crate) has_large_payloads: bool,
    /// Some items have no `state_bucket`, so that they are in no index.
    pub(crate) has_items_without_bucket: bool,
    /// All instances together are limited in the rate of their requests.
    pub(crate) is_limited: bool,
    /// Instances have different lease durations.
    pub(crate) has_different_leases: bool,
    /// One instance does not know the route of some events yet.
    pub(crate) has_old_routes: bool,
    /// System that stops answering in the quiet phase, to examine health.
    pub(crate) health_fault: Option<HealthFault>,
}

/// Lasting fault that health must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthFault {
    /// One shard cannot be read.
    Shard,
    /// No lease can be written.
    Leases,
}

impl Setup {
    /// Returns the setup without any of the features.
    pub(crate) fn plain() -> Self {
        Self {
            on_failure: OnFailure::Pass,
            failing_queue: None,
            slow_queue: None,
            has_fifo: false,
            has_holes: false,
            has_event_ids: false,
            has_large_payloads: false,
            has_items_without_bucket: false,
            is_limited: false,
            has_different_leases: false,
            has_old_routes: false,
            health_fault: None,
        }
    }

    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5e70);
        let mut queue = |probability| {
            let index = random.usize(..QUEUES.len());
            (random.f64() < probability).then_some(QUEUES[index])
        };
        let (failing_queue, slow_queue) = (queue(0.3), queue(0.15));
        let health_fault = match random.u32(0..10) {
            0..2 => Some(HealthFault::Shard),
            2 => Some(HealthFault::Leases),
            _ => None,
        };
        let mut has = |probability| random.f64() < probability;
        Self {
            on_failure: if has(0.25) {
                OnFailure::Hold
            } else {
                OnFailure::Pass
            },
            failing_queue,
            slow_queue,
            has_fifo: has(0.3),
            has_holes: has(0.3),
            has_event_ids: has(0.3),
            has_large_payloads: has(0.1),
            // Those would stay in the buffer until the failing queue is available.
            has_items_without_bucket: has(0.2) && failing_queue.is_none(),
            is_limited: has(0.3),
            has_different_leases: has(0.2),
            has_old_routes: has(0.2),
            health_fault,
        }
    }

    /// Returns the number of events that fit the buffer of one instance; each takes at least 2 KiB.
    pub(crate) const fn buffer_events(&self) -> usize {
        // So many that the messages of a batch reach its limit in bytes.
        if self.has_large_payloads {
            1_024
        } else {
            BUFFER_EVENTS
        }
    }

    pub(crate) fn lease_duration(&self, instance: usize) -> Duration {
        match instance {
            1 if self.has_different_leases => LEASE * 2,
            _ => LEASE,
        }
    }

    /// Returns the routes of an instance.
    pub(crate) fn routes(&self, instance: usize) -> &'static str {
        match (self.has_old_routes && instance == 1, self.has_fifo) {
            (false, false) => "order.*=orders,*=others",
            (false, true) => "order.*=orders.fifo,*=others",
            (true, false) => "order.*=orders",
            (true, true) => "order.*=orders.fifo",
        }
    }
}
