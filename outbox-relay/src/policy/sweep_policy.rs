//! Decides which pending events the sweeper may publish: those that every shard reader has passed,
//! so that the stream can no longer deliver them (the "sweeper" rule).

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::timestamp::Timestamp;

use crate::ports::{Lease, LeaseState};

/// Returns the lowest low-water mark of all shards that have a lease: every record created before
/// it is settled. Returns `None` if a shard has no low-water mark yet, or if no shard has a lease.
pub fn low_watermark(leases: &[Lease]) -> Option<Timestamp> {
    let parents: BTreeSet<_> = leases.iter().filter_map(|l| l.parent.as_ref()).collect();
    let mut lowest = None;
    for lease in leases.iter().filter(|lease| lease.shard.is_shard()) {
        // The children of a fully consumed shard stand for it once they are known.
        if lease.state == LeaseState::Open || !parents.contains(&lease.shard) {
            let mark = lease.low_watermark?;
            lowest = Some(lowest.map_or(mark, |lowest: Timestamp| lowest.min(mark)));
        }
    }
    lowest
}

/// Part of the pending buckets that one sweeper publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepPartition {
    /// Index of the sweeper, from 0.
    pub index: u32,
    /// Number of sweepers.
    pub count: u32,
}

impl SweepPartition {
    /// Returns those of `buckets` buckets that belong to this part.
    pub fn buckets(self, buckets: u32) -> impl Iterator<Item = u32> {
        (0..buckets).filter(move |bucket| bucket % self.count == self.index)
    }
}

/// Pause after a walk that published nothing, in multiples of the time that it read. Several
/// sweepers may read at the same time, and events of other queues need the capacity of the table.
const PAUSE_FACTOR: u32 = 10;

/// Upper bound on that pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Upper bound on the pause before a walk that is requested. The relay's own requests cannot be
/// distinguished from those of operators.
const MAX_REQUEST_PAUSE: Duration = Duration::from_secs(10);

/// Returns the pause after a walk that read for `reading_time` and published nothing: a backlog of
/// an unavailable queue makes it long.
pub fn pause_after(reading_time: Duration) -> Duration {
    (reading_time * PAUSE_FACTOR).min(MAX_PAUSE)
}

/// Returns the pause after the same walk before one that is requested.
pub fn request_pause_after(reading_time: Duration) -> Duration {
    reading_time.min(MAX_REQUEST_PAUSE)
}

/// Upper bound on the margin of [`is_past`]. It exceeds the difference between two clocks and the
/// time that a record takes to appear in the stream.
pub const MAX_MARGIN: Duration = Duration::from_secs(10);

/// Returns `true` if `low_watermark` is later than `moment` by `margin` or 10 seconds, whichever is
/// shorter.
pub fn is_past(low_watermark: Timestamp, moment: Timestamp, margin: Duration) -> bool {
    let margin = i64::try_from(margin.min(MAX_MARGIN).as_millis()).unwrap_or(i64::MAX);
    low_watermark.as_millis() >= moment.as_millis().saturating_add(margin)
}

/// Returns `true` if an event occurred at least `min_age` ago according to its writer. An event
/// without a time or with a time in the future counts as old, since its time proves nothing.
pub fn is_old(occurred_at: Option<Timestamp>, now: Timestamp, min_age: Duration) -> bool {
    let min_age = i64::try_from(min_age.as_millis()).unwrap_or(i64::MAX);
    occurred_at.is_none_or(|at| {
        let age = now.as_millis().saturating_sub(at.as_millis());
        age < 0 || age >= min_age
    })
}

/// Time after its deferral, retry or replay for which an event of the table waits for earlier ones
/// that are pending and not deferred: a reader of the stream may have them, and sends or defers
/// them as soon as it can. After that time they are treated as lost.
const READERS_FIRST: Duration = Duration::from_secs(30);

/// Returns `true` if an event was deferred, retried or replayed so recently that the readers of the
/// stream may still have earlier ones of its aggregate.
pub fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    let age = now.as_millis().saturating_sub(at.as_millis());
    u128::from(age.unsigned_abs()) < READERS_FIRST.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ShardId;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn lease(name: &str, low_watermark: Option<Timestamp>) -> Lease {
        Lease {
            low_watermark,
            ..Lease::unread(ShardId(name.into()), None)
        }
    }

    #[test]
    fn the_slowest_shard_determines_the_low_water_mark() {
        let mut leases = [lease("a", Some(at(9))), lease("b", Some(at(5)))];
        assert_eq!(low_watermark(&leases), Some(at(5)));
        leases[0].low_watermark = None;
        assert_eq!(low_watermark(&leases), None);
    }

    #[test]
    fn an_ended_shard_holds_the_mark_back_until_its_children_are_known() {
        let mut leases = [lease("a", Some(at(5))), lease("b", Some(at(9)))];
        leases[0].state = LeaseState::Ended;
        assert_eq!(low_watermark(&leases), Some(at(5)));
        leases[1].parent = Some(leases[0].shard.clone());
        assert_eq!(low_watermark(&leases), Some(at(9)));
    }

    #[test]
    fn without_a_shard_there_is_no_low_water_mark() {
        assert_eq!(low_watermark(&[]), None);
        assert_eq!(low_watermark(&[lease("sweeper", Some(at(9)))]), None);
    }

    #[test]
    fn every_bucket_belongs_to_one_sweeper() {
        let buckets = |index| SweepPartition { index, count: 3 }.buckets(8);
        let of_each: Vec<Vec<_>> = (0..3).map(|index| buckets(index).collect()).collect();
        assert_eq!(of_each, [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
    }

    #[test]
    fn a_sweeper_pauses_ten_times_as_long_as_it_read_but_at_most_a_minute() {
        let seconds = Duration::from_secs;
        assert_eq!(pause_after(seconds(2)), seconds(20));
        assert_eq!(pause_after(seconds(7)), seconds(60));
        assert_eq!(request_pause_after(seconds(2)), seconds(2));
        assert_eq!(request_pause_after(seconds(11)), seconds(10));
    }

    #[test]
    fn readers_are_past_a_moment_by_a_margin() {
        let past = |mark, margin| is_past(at(mark), at(100), Duration::from_secs(margin));
        assert!(past(105, 5));
        assert!(!past(104, 5));
        assert!(past(110, 3600));
        assert!(!past(109, 3600));
    }

    #[test]
    fn an_event_from_the_future_counts_as_old() {
        let old = |occurred_at| is_old(occurred_at, at(1000), Duration::from_secs(60));
        assert!(old(Some(at(940))));
        assert!(!old(Some(at(941))));
        assert!(!old(Some(at(1000))));
        assert!(old(Some(at(1001))));
        assert!(old(None));
    }

    #[test]
    fn a_deferral_is_recent_for_half_a_minute_whichever_clock_is_ahead() {
        for (deferred_at, now, expected) in [
            (100, 100, true),
            (100, 129, true),
            (100, 130, false),
            (129, 100, true),
            (130, 100, false),
        ] {
            assert_eq!(is_recent(at(deferred_at), at(now)), expected);
        }
    }
}
