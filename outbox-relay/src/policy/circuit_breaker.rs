//! Circuit breaker: limits the requests to a service that fails.

use std::time::Duration;

use tokio::time::Instant;

/// Counts the requests in flight and the consecutive failures of one service.
///
/// A failure blocks further requests for a delay. Afterwards only a limited number of requests
/// probe the service, until one of them succeeds.
#[derive(Debug)]
pub struct CircuitBreaker {
    max_in_flight: usize,
    max_probes: usize,
    in_flight: usize,
    consecutive_failures: u32,
    blocked_until: Option<Instant>,
}

impl CircuitBreaker {
    /// Allows `max_in_flight` requests at a time, and `max_probes` of them while the service fails.
    pub const fn new(max_in_flight: usize, max_probes: usize) -> Self {
        Self {
            max_in_flight,
            max_probes,
            in_flight: 0,
            consecutive_failures: 0,
            blocked_until: None,
        }
    }

    /// Returns `true` if a request may start at `now`.
    pub fn allows(&self, now: Instant) -> bool {
        let limit = if self.consecutive_failures > 0 {
            self.max_probes
        } else {
            self.max_in_flight
        };
        !self.is_blocked(now) && self.in_flight < limit
    }

    /// Returns `true` during the delay after a failure.
    pub fn is_blocked(&self, now: Instant) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
    }

    /// Returns the end of the current delay, if it is later than `now`.
    pub fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.blocked_until.filter(|until| *until > now)
    }

    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Records the start of a request. It ends with exactly one of [`Self::record_success`],
    /// [`Self::record_failure`] and [`Self::record_end`].
    pub const fn record_start(&mut self) {
        self.in_flight += 1;
    }

    /// Records a request that succeeded, and closes the breaker.
    pub const fn record_success(&mut self) {
        self.record_end();
        self.reset();
    }

    /// Records a request that failed at `now`. `delay` maps the number of consecutive failures to
    /// the time for which further requests are blocked.
    pub fn record_failure(&mut self, now: Instant, delay: impl FnOnce(u32) -> Duration) {
        self.record_end();
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.blocked_until = Some(now + delay(self.consecutive_failures));
    }

    /// Forgets the failures.
    pub const fn reset(&mut self) {
        self.consecutive_failures = 0;
        self.blocked_until = None;
    }

    /// Records the end of a request without a conclusion about the service.
    pub const fn record_end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_blocks_and_then_one_probe_at_a_time_is_allowed() {
        let mut breaker = CircuitBreaker::new(2, 1);
        let now = Instant::now();
        breaker.record_start();
        assert!(breaker.allows(now));
        breaker.record_start();
        assert!(!breaker.allows(now), "the limit is reached");
        breaker.record_end();
        breaker.record_failure(now, |failures| DELAY * failures);
        assert!(!breaker.allows(now));
        assert_eq!(breaker.blocked_until(now), Some(now + DELAY));
        let later = now + DELAY;
        assert_eq!(breaker.blocked_until(later), None);
        assert!(breaker.allows(later));
        breaker.record_start();
        assert!(!breaker.allows(later), "one probe at a time");
        breaker.record_failure(later, |failures| DELAY * failures);
        assert_eq!(breaker.blocked_until(later), Some(later + DELAY * 2));
    }

    #[test]
    fn a_success_closes_the_breaker() {
        let mut breaker = CircuitBreaker::new(2, 1);
        let now = Instant::now();
        breaker.record_start();
        breaker.record_start();
        breaker.record_failure(now, |_| DELAY);
        breaker.record_success();
        assert_eq!(breaker.in_flight(), 0);
        assert!(breaker.allows(now));
        breaker.record_start();
        assert!(breaker.allows(now), "no longer limited to probes");
    }
}
