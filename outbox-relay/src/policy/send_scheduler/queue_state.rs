//! One queue's turn: whose events go there next, and whether it is well.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Aggregates whose next event goes here.
    pub(super) ready: VecDeque<String>,
    in_flight: usize,
    /// Failures in a row of whole batches.
    failures: u32,
    blocked_until: Option<Instant>,
}

impl Lane {
    pub(super) fn may_send(&self, now: Instant) -> bool {
        !self.ready.is_empty()
            && self.blocked_until.is_none_or(|until| until <= now)
            // While it fails, one batch finds out whether it is well again.
            && (self.failures == 0 || self.in_flight == 0)
    }

    pub(super) fn batch_starts(&mut self) {
        self.in_flight += 1;
    }

    pub(super) fn batch_went_through(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = 0;
        self.blocked_until = None;
    }

    /// `delay` is given the number of failures in a row.
    pub(super) fn batch_failed(&mut self, now: Instant, delay: impl FnOnce(u32) -> Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = self.failures.saturating_add(1);
        self.blocked_until = Some(now + delay(self.failures));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// When what waits here may go, if that is after `now`.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.blocked_until
            .filter(|until| *until > now && !self.ready.is_empty())
    }
}
