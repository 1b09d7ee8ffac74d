//! Computes the shares of the buffer and of the send slots that one queue may use.
//!
//! The outbox table is the durable buffer: what exceeds a queue's share of the memory buffer is
//! deferred, that is, left pending in the table until the queue accepts it (the "deferral" rule).

use std::time::Duration;

use tokio::time::Instant;

/// Maximum number of send requests in flight: enough to hide the round trip of a busy queue.
pub const MAX_SENDS: usize = 16;

/// Number of send slots that are left free for every other queue with events, and for all of them
/// together by the queues that are impaired, whose requests hold a slot for long.
const RESERVED_SENDS: usize = 4;

/// Time after its last request for which a queue counts as having events: between two batches of a
/// busy queue there are moments without any.
const ACTIVE_FOR: Duration = Duration::from_secs(10);

/// Age of the oldest request in flight from which a queue is impaired.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Time for which a queue fails before all of its events are deferred. Shorter outages are bridged
/// by the buffer, because the table path costs a write and several reads for each event.
pub const DEFER_AFTER: Duration = Duration::from_secs(10);

/// Divisor of the buffer for the share of an impaired queue.
const IMPAIRED_DIVISOR: usize = 4;

/// Health of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueHealth {
    Healthy,
    /// Its last request failed, or one has been in flight for a second or more.
    Impaired,
    /// It has failed for so long that its events are deferred.
    Deferring,
}

/// Consecutive failures of a queue: the times of the first and of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    pub first: Instant,
    pub last: Instant,
}

impl Failures {
    /// Adds a failure at `now` to those before it.
    pub fn add(before: Option<Self>, now: Instant) -> Self {
        Self {
            first: before.map_or(now, |failures| failures.first),
            last: now,
        }
    }
}

impl QueueHealth {
    /// Returns the health at `now` of a queue with these consecutive failures, whose oldest request
    /// in flight started at `oldest_request`. Time in which nothing was tried does not count as
    /// failure.
    pub fn of(failures: Option<Failures>, oldest_request: Option<Instant>, now: Instant) -> Self {
        match failures {
            Some(Failures { first, last }) if last - first >= DEFER_AFTER => Self::Deferring,
            Some(_) => Self::Impaired,
            None if oldest_request.is_some_and(|start| start + SLOW_AFTER <= now) => Self::Impaired,
            None => Self::Healthy,
        }
    }

    /// Returns the share of a buffer of `buffer_kib` for the waiting events of a queue.
    pub const fn buffer_share(self, buffer_kib: usize) -> usize {
        match self {
            Self::Healthy => buffer_kib,
            Self::Impaired => buffer_kib / IMPAIRED_DIVISOR,
            Self::Deferring => 0,
        }
    }
}

/// Use of the send slots, from the view of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotUse {
    /// Requests in flight to the queue itself.
    pub(super) own: usize,
    pub(super) health: QueueHealth,
    /// Number of other queues that have events, or had some a moment ago.
    pub(super) active_others: usize,
    /// Number of other queues that ever had events.
    pub(super) others: usize,
    /// Requests in flight to all impaired queues.
    pub(super) impaired: usize,
}

impl SlotUse {
    /// Returns `true` if the queue may use one more send slot.
    pub(super) fn allows_another(&self) -> bool {
        let reserved = RESERVED_SENDS * self.active_others;
        let limit = MAX_SENDS.saturating_sub(reserved).max(RESERVED_SENDS);
        let leaves_slots = self.health == QueueHealth::Healthy
            || self.others == 0
            || self.impaired < MAX_SENDS - RESERVED_SENDS;
        self.own < limit && leaves_slots
    }
}

/// Returns `true` if a queue whose last request started at `last_request` is expected to have
/// events again soon.
pub(super) fn was_active(last_request: Option<Instant>, now: Instant) -> bool {
    last_request.is_some_and(|at| now < at + ACTIVE_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_impaired_by_a_failure_or_a_slow_request_and_defers_after_ten_seconds() {
        let now = Instant::now();
        let failing = |seconds| {
            Some(Failures {
                first: now,
                last: now + Duration::from_secs(seconds),
            })
        };
        let later = now + Duration::from_secs(60);
        for (failures, oldest_request, at, expected) in [
            (None, None, later, QueueHealth::Healthy),
            (None, Some(now), now + SLOW_AFTER / 2, QueueHealth::Healthy),
            (None, Some(now), now + SLOW_AFTER, QueueHealth::Impaired),
            // Nothing was tried since the only failure.
            (failing(0), None, later, QueueHealth::Impaired),
            (failing(9), None, later, QueueHealth::Impaired),
            (failing(10), None, later, QueueHealth::Deferring),
        ] {
            assert_eq!(QueueHealth::of(failures, oldest_request, at), expected);
        }
    }

    #[test]
    fn failures_count_from_the_first() {
        let now = Instant::now();
        let one = Failures::add(None, now);
        let two = Failures::add(Some(one), now + DEFER_AFTER);
        assert_eq!((two.first, two.last), (now, now + DEFER_AFTER));
    }

    #[test]
    fn the_share_of_the_buffer_follows_the_health() {
        assert_eq!(QueueHealth::Healthy.buffer_share(1000), 1000);
        assert_eq!(QueueHealth::Impaired.buffer_share(1000), 250);
        assert_eq!(QueueHealth::Deferring.buffer_share(1000), 0);
    }

    /// Returns the number of slots that a queue can use, if all in use are its own.
    fn limit(health: QueueHealth, active_others: usize, others: usize) -> usize {
        (0..=MAX_SENDS)
            .take_while(|own| {
                let slots = SlotUse {
                    own: *own,
                    health,
                    active_others,
                    others,
                    impaired: if health == QueueHealth::Healthy {
                        0
                    } else {
                        *own
                    },
                };
                *own < MAX_SENDS && slots.allows_another()
            })
            .count()
    }

    #[test]
    fn a_queue_leaves_slots_to_every_other_that_has_events_and_keeps_four() {
        assert_eq!(limit(QueueHealth::Healthy, 0, 0), 16);
        assert_eq!(limit(QueueHealth::Healthy, 0, 3), 16);
        assert_eq!(limit(QueueHealth::Healthy, 1, 1), 12);
        assert_eq!(limit(QueueHealth::Healthy, 2, 2), 8);
        assert_eq!(limit(QueueHealth::Healthy, 9, 9), 4);
    }

    #[test]
    fn impaired_queues_together_leave_slots_to_the_others_even_if_these_are_idle() {
        assert_eq!(limit(QueueHealth::Impaired, 0, 0), 16);
        assert_eq!(limit(QueueHealth::Impaired, 0, 1), 12);
        let slots = SlotUse {
            own: 0,
            health: QueueHealth::Impaired,
            active_others: 4,
            others: 4,
            impaired: 12,
        };
        assert!(!slots.allows_another());
        let healthy = SlotUse {
            health: QueueHealth::Healthy,
            ..slots
        };
        assert!(healthy.allows_another());
    }

    #[test]
    fn a_queue_is_active_for_a_while_after_its_last_request() {
        let now = Instant::now();
        assert!(!was_active(None, now));
        assert!(was_active(Some(now), now + ACTIVE_FOR / 2));
        assert!(!was_active(Some(now), now + ACTIVE_FOR));
    }
}
