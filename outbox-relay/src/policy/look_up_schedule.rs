//! Schedule of the look-ups of the predecessor of a waiting event (the "per-aggregate order" rule).

use std::time::Duration;

use tokio::time::Instant;

/// Delay after the first look-up, and the longest one.
///
/// A shard may be read twenty times a second, and hundreds of events may wait behind a burst. With
/// a look-up in each read they would take the capacity of the table from marks.
pub const MIN_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// Look-ups for one event: at once, and then after delays that double up to a bound, however often
/// its shard is read.
#[derive(Clone, Copy, Debug)]
pub struct LookUpSchedule {
    next: Instant,
    /// Delay before `next`; zero before the first look-up.
    delay: Duration,
}

impl LookUpSchedule {
    /// Creates the schedule of an event that was read at `now`.
    pub const fn new(now: Instant) -> Self {
        Self {
            next: now,
            delay: Duration::ZERO,
        }
    }

    /// Returns the time of the next look-up.
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// Returns `true` before the first look-up.
    pub const fn is_first(&self) -> bool {
        self.delay.is_zero()
    }

    /// Returns `true` if a look-up is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next <= now
    }

    /// Records a look-up.
    pub fn record(&mut self, now: Instant) {
        self.delay = (self.delay * 2).clamp(MIN_DELAY, MAX_DELAY);
        self.next = now + self.delay;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_become_rarer_up_to_a_bound() {
        let now = Instant::now();
        let mut schedule = LookUpSchedule::new(now);
        assert!(schedule.is_first() && schedule.is_due(now));
        schedule.record(now);
        assert!(!schedule.is_first() && !schedule.is_due(now));
        let mut times = Vec::new();
        for _ in 0..6 {
            times.push((schedule.next() - now).as_millis());
            schedule.record(schedule.next());
        }
        assert_eq!(times, [50, 150, 350, 750, 1_250, 1_750]);
    }
}
