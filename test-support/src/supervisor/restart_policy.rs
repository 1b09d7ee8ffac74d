//! The delay until an ended process is started again.

use std::time::Duration;

/// Delay between the end of an incarnation and the start of the next one, unless a command
/// specifies it.
#[derive(Clone, Copy, Debug)]
pub enum RestartPolicy {
    Fixed(Duration),
    /// `min` after the first early end, doubled after every further one, at most `max`. An end is
    /// early if the uptime was less than `stable_uptime`.
    Backoff {
        min: Duration,
        max: Duration,
        stable_uptime: Duration,
    },
}

impl RestartPolicy {
    /// Returns the number of consecutive early ends after one more end.
    pub(super) fn early_ends(self, before: u32, uptime: Duration) -> u32 {
        match self {
            Self::Backoff { stable_uptime, .. } if uptime < stable_uptime => before + 1,
            Self::Backoff { .. } | Self::Fixed(_) => 0,
        }
    }

    /// Returns the delay before the next start, after this many early ends.
    pub(super) fn delay(self, early_ends: u32) -> Duration {
        match self {
            Self::Fixed(delay) => delay,
            Self::Backoff { min, max, .. } => {
                let doublings = early_ends.saturating_sub(1).min(16);
                (min * 2_u32.pow(doublings)).min(max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_delay_doubles_up_to_its_limit() {
        let min = Duration::from_millis(100);
        let max = Duration::from_secs(5);
        let policy = RestartPolicy::Backoff {
            min,
            max,
            stable_uptime: Duration::from_secs(10),
        };
        assert_eq!(policy.delay(0), min);
        assert_eq!(policy.delay(1), min);
        assert_eq!(policy.delay(2), min * 2);
        assert_eq!(policy.delay(7), max);
        assert_eq!(policy.delay(u32::MAX), max);
    }
}
