//! Service clock: the wall clock of the host, corrected by that of the stream service.
//!
//! Low-water marks are compared across hosts and with the times of records, which the service sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use outbox::timestamp::Timestamp;

/// Maximum deviation for which the host's clock is used unchanged: the service reports whole
/// seconds, some time before its response arrives.
const TOLERANCE_MILLIS: i64 = 5_000;

#[derive(Clone, Debug)]
pub(crate) struct ServiceClock {
    host: fn() -> Timestamp,
    /// Time by which the host's clock is ahead of the service's.
    ahead_millis: Arc<AtomicI64>,
}

impl ServiceClock {
    pub(crate) fn new(host: fn() -> Timestamp) -> Self {
        Self {
            host,
            ahead_millis: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let ahead = self.ahead_millis.load(Ordering::Relaxed);
        Timestamp::from_millis((self.host)().as_millis().saturating_sub(ahead))
    }

    /// Records that a response that has just arrived was sent at `served_at` of the service's
    /// clock.
    pub(crate) fn observe(&self, served_at: Timestamp) {
        let measured = (self.host)()
            .as_millis()
            .saturating_sub(served_at.as_millis());
        let ahead = if measured.abs() > TOLERANCE_MILLIS {
            measured
        } else {
            0
        };
        if self.ahead_millis.swap(ahead, Ordering::Relaxed) == 0 && ahead != 0 {
            tracing::warn!(
                ahead_seconds = ahead / 1000,
                "the clock of this host deviates from that of the stream; using the stream's clock for low-water marks; synchronise the clock of this host"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MILLIS: i64 = 24 * 60 * 60 * 1_000;

    #[test]
    fn a_deviation_of_the_host_clock_is_corrected() {
        let clock = ServiceClock::new(|| Timestamp::from_millis(DAY_MILLIS + 1_500));
        clock.observe(Timestamp::from_millis(1_000));
        assert_eq!(clock.now(), Timestamp::from_millis(1_000));
        clock.observe(Timestamp::from_millis(DAY_MILLIS));
        assert_eq!(clock.now(), Timestamp::from_millis(DAY_MILLIS + 1_500));
    }
}
