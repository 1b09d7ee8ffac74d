//! State of one queue: the aggregates whose next event it receives, and its circuit breaker.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::policy::circuit_breaker::CircuitBreaker;

#[derive(Debug)]
pub(super) struct QueueState {
    /// Aggregates whose next event is for this queue, in the order of service.
    pub(super) ready: VecDeque<String>,
    pub(super) breaker: CircuitBreaker,
}

impl Default for QueueState {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            // The publisher limits the requests of all queues together.
            breaker: CircuitBreaker::new(usize::MAX, 1),
        }
    }
}

impl QueueState {
    pub(super) fn may_send(&self, now: Instant) -> bool {
        !self.ready.is_empty() && self.breaker.allows(now)
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.breaker.in_flight() == 0
    }

    /// Returns the end of the current delay, if events wait for it and it is later than `now`.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.breaker
            .blocked_until(now)
            .filter(|_| !self.ready.is_empty())
    }
}
