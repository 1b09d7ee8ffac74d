//! Decides when a shard is read again (the "pacing" rule).
//!
//! DynamoDB Streams charges every read and limits their rate per shard, but returns up to 1,000
//! records or 1 MB at once. So only a page that was nearly full, which means that more records are
//! waiting, is followed by the next read at once.

use std::time::Duration;

/// Number of records from which a page counts as nearly full: half of what a read returns at most.
const NEARLY_FULL_RECORDS: usize = 500;

/// Size from which a page counts as nearly full, in bytes: half of what a read returns at most.
const NEARLY_FULL_BYTES: usize = 500_000;

/// Intervals between the reads of one shard.
#[derive(Clone, Copy, Debug)]
pub struct ReadPacing {
    min: Duration,
    max: Duration,
    /// Interval after the next empty page.
    idle: Duration,
}

impl ReadPacing {
    /// Creates the pacing of a shard that is read at intervals from `min` to `max` unless its pages
    /// are nearly full.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            idle: min,
        }
    }

    /// Returns the time between the start of the read that returned a page of `records` records of
    /// `bytes` bytes, and the start of the next one. It doubles with each further empty page.
    pub fn interval_after(&mut self, records: usize, bytes: usize) -> Duration {
        if records == 0 {
            let interval = self.idle.min(self.max);
            self.idle = (self.idle * 2).min(self.max);
            return interval;
        }
        self.idle = self.min;
        if records >= NEARLY_FULL_RECORDS || bytes >= NEARLY_FULL_BYTES {
            Duration::ZERO
        } else {
            self.min
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_millis(200);

    #[test]
    fn a_nearly_full_page_is_followed_by_a_read_at_once() {
        let mut pacing = ReadPacing::new(MIN, MAX);
        assert_eq!(pacing.interval_after(500, 0), Duration::ZERO);
        assert_eq!(pacing.interval_after(1, 500_000), Duration::ZERO);
        assert_eq!(pacing.interval_after(499, 499_999), MIN);
    }

    #[test]
    fn empty_pages_double_the_interval_up_to_its_bound() {
        let mut pacing = ReadPacing::new(MIN, MAX);
        for expected in [50, 100, 200, 200] {
            let interval = pacing.interval_after(0, 0);
            assert_eq!(interval, Duration::from_millis(expected));
        }
        assert_eq!(pacing.interval_after(1, 100), MIN);
        assert_eq!(pacing.interval_after(0, 0), MIN);
    }
}
