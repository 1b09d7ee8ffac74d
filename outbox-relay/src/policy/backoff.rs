//! Exponential backoff with full jitter.

use std::time::Duration;

/// The first retry waits up to this long.
const BASE: Duration = Duration::from_millis(50);

/// No retry waits longer. After an outage a read, and then a send, may each
/// have to wait for their turn: events flow again within twice this time.
pub const MAX: Duration = Duration::from_secs(1);

/// How long to wait after the `attempt`-th failure in a row (from 1).
/// `jitter` is a random number from 0 to 1; full jitter keeps instances that
/// failed together from coming back together.
pub fn delay(attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = BASE.saturating_mul(1 << doublings).min(MAX);
    ceiling.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound() {
        assert_eq!(delay(1, 1.0), Duration::from_millis(50));
        assert_eq!(delay(2, 1.0), Duration::from_millis(100));
        assert_eq!(delay(7, 1.0), MAX);
        assert_eq!(delay(u32::MAX, 1.0), MAX);
        assert_eq!(delay(3, 0.5), Duration::from_millis(100));
        assert_eq!(delay(3, 0.0), Duration::ZERO);
    }
}
