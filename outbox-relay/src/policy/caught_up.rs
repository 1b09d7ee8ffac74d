//! Decides whether the reader of a shard has caught up with the stream.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum number and upper bound on the minimum time of consecutive empty reads. The service may
/// return empty pages in the middle of a shard, but hardly that often in a row.
const MIN_READS: u32 = 20;
const MAX_TIME: Duration = Duration::from_secs(10);

/// Consecutive empty reads of one shard.
#[derive(Clone, Copy, Debug)]
pub struct CaughtUp {
    min_time: Duration,
    reads: u32,
    since: Option<Instant>,
}

impl CaughtUp {
    /// Requires empty reads for `min_time` or 10 seconds, whichever is shorter.
    pub fn new(min_time: Duration) -> Self {
        Self {
            min_time: min_time.min(MAX_TIME),
            reads: 0,
            since: None,
        }
    }

    /// Records a read at `now` that was empty or not. Returns `true` if the reader has caught up.
    pub fn record_read(&mut self, is_empty: bool, now: Instant) -> bool {
        if !is_empty {
            self.reads = 0;
            self.since = None;
            return false;
        }
        self.reads = self.reads.saturating_add(1);
        let since = *self.since.get_or_insert(now);
        self.reads >= MIN_READS && now.saturating_duration_since(since) >= self.min_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_empty_reads_during_ten_seconds_mean_caught_up() {
        let mut caught_up = CaughtUp::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..25 {
            assert!(!caught_up.record_read(true, at(0)));
        }
        assert!(!caught_up.record_read(true, at(9)));
        assert!(caught_up.record_read(true, at(10)));
        assert!(!caught_up.record_read(false, at(11)));
        for second in 0..19 {
            assert!(!caught_up.record_read(true, at(20 + second)));
        }
        assert!(caught_up.record_read(true, at(39)));
    }
}
