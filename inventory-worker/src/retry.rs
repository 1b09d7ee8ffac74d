//! Pauses between attempts, by the kind of failure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::attempt_error::AttemptError;

/// Pauses after conflicts. The other transaction ends within milliseconds, so the first pause is
/// about one transaction; the longest bounds how long a free item is left unused. Jitter at most
/// doubles a pause.
const CONFLICT: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_factor(1.5)
    .with_min_delay(Duration::from_millis(8))
    .with_max_delay(Duration::from_millis(200))
    .without_max_times();

/// Pauses while DynamoDB is unavailable or throttles. The longest bounds how much later than
/// DynamoDB an order recovers.
const OUTAGE: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(4))
    .without_max_times();

/// Pauses are the longest from here on.
const LONGEST_FROM: usize = 16;

/// Consecutive failures of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    conflicts: usize,
    outages: usize,
}

impl Failures {
    /// Counts a failure.
    pub(crate) fn record(&mut self, error: &AttemptError) {
        match error {
            AttemptError::Conflict => {
                self.conflicts += 1;
                self.outages = 0;
            }
            _ => self.outages += 1,
        }
    }

    /// Returns the number of attempts since the last one to which DynamoDB responded.
    pub(crate) fn outages(self) -> usize {
        self.outages
    }

    /// Returns the pause after a failure of this kind that is not counted yet.
    pub(crate) fn pause(self, error: &AttemptError) -> Duration {
        let (pauses, count) = match error {
            AttemptError::Conflict => (CONFLICT, self.conflicts),
            _ => (OUTAGE, self.outages),
        };
        let pause = pauses.build().nth(count.min(LONGEST_FROM));
        pause.unwrap_or(Duration::from_secs(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(error: &AttemptError, count: usize) -> Vec<Duration> {
        let mut failures = Failures::default();
        let next = |_| {
            let pause = failures.pause(error);
            failures.record(error);
            pause
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn a_conflict_pauses_for_milliseconds_and_an_outage_for_seconds() {
        for _ in 0..100 {
            let conflicts = pauses(&AttemptError::Conflict, 40);
            assert!(conflicts[0] >= Duration::from_millis(8));
            assert!(conflicts[0] <= Duration::from_millis(16));
            assert!(
                conflicts
                    .iter()
                    .all(|pause| *pause <= Duration::from_millis(400))
            );
            let outages = pauses(&AttemptError::Throttled, 40);
            assert!(outages[0] <= Duration::from_millis(200));
            assert!(outages.iter().all(|pause| *pause <= Duration::from_secs(8)));
            assert!(outages[39] >= Duration::from_secs(4));
        }
    }

    #[test]
    fn a_response_ends_the_count_of_outages() {
        let mut failures = Failures::default();
        failures.record(&AttemptError::Unavailable(String::new()));
        assert_eq!(failures.outages(), 1);
        failures.record(&AttemptError::Conflict);
        assert_eq!(failures.outages(), 0);
    }
}
