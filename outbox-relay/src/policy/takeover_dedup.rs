//! Decides which events of an acquired shard are looked up in the table before they are sent.

use std::time::Duration;

use outbox::timestamp::Timestamp;

/// Window of records that the previous owner of a shard may have published beyond the checkpoint.
///
/// Their events are looked up (the "takeover" rule), so that only those that were in flight at a
/// crash are sent twice. Once the reader has caught up, the window ends at a point in time.
#[derive(Clone, Copy, Debug)]
pub struct TakeoverDedup {
    /// Time on this instance's wall clock from which on the previous owner no longer reads the
    /// shard.
    ends_at: Timestamp,
    caught_up: bool,
    /// Upper bound on the pending events that the previous owner may have had in flight and that
    /// were not found yet.
    max_in_flight: usize,
}

impl TakeoverDedup {
    /// Creates the window of a shard that was acquired at `acquired_at` (wall clock). The previous
    /// owner may continue for a lease duration. Clocks that differ by more than that lead to
    /// repeated events, never to lost ones. `max_in_flight` is the number of events that an
    /// instance can have read and not settled.
    pub fn new(acquired_at: Timestamp, lease_duration: Duration, max_in_flight: usize) -> Self {
        let millis = i64::try_from(lease_duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            ends_at: Timestamp::from_millis(acquired_at.as_millis().saturating_add(millis)),
            caught_up: false,
            max_in_flight,
        }
    }

    /// Records an empty read. The service may return an empty page in the middle of a shard, so
    /// this alone does not end the window: the creation time of a record is checked as well.
    pub const fn record_caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Records that `count` events were looked up and are still pending. An owner publishes an
    /// event only while it has all pending events before it in flight. Beyond as many pending
    /// events as it can have in flight, it cannot have published anything.
    pub const fn record_pending(&mut self, count: usize) {
        self.max_in_flight = self.max_in_flight.saturating_sub(count);
    }

    /// Returns `true` if a record created at `created_at` may have been published already.
    pub fn must_look_up(&self, created_at: Option<Timestamp>) -> bool {
        self.max_in_flight > 0
            && (!self.caught_up || created_at.is_none_or(|at| at <= self.ends_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_looked_up_until_caught_up_and_a_lease_duration_after_the_takeover() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let acquired_at = Timestamp::from_millis(100_000);
        let mut dedup = TakeoverDedup::new(acquired_at, Duration::from_secs(10), 9);
        assert!(dedup.must_look_up(at(500)));
        dedup.record_caught_up();
        assert!(dedup.must_look_up(at(50)));
        assert!(dedup.must_look_up(at(110)));
        assert!(!dedup.must_look_up(at(111)));
        assert!(dedup.must_look_up(None));
    }

    #[test]
    fn nothing_is_looked_up_beyond_the_in_flight_bound_of_an_owner() {
        let acquired_at = Timestamp::from_millis(0);
        let mut dedup = TakeoverDedup::new(acquired_at, Duration::from_secs(10), 5);
        dedup.record_pending(4);
        assert!(dedup.must_look_up(None));
        dedup.record_pending(1);
        assert!(!dedup.must_look_up(None));
    }
}
