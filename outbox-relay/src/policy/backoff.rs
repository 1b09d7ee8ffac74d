//! Exponential backoff with full jitter.
//!
//! `backon`, which the other services use, only adds jitter on top of the exponential delay. Full
//! jitter draws the whole delay at random, so that instances which failed together do not retry
//! together. The random number is an argument, so that a simulated run repeats exactly.

use std::time::Duration;

/// Upper bound on the first delay.
const BASE: Duration = Duration::from_millis(50);

/// Upper bound on every delay. After an outage, a read and then a send may each have to wait once:
/// events are published again within twice this time.
pub const MAX: Duration = Duration::from_secs(1);

/// Returns the delay after the `attempt`-th consecutive failure (from 1). `jitter` is a random
/// number from 0 to 1.
pub fn delay(attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = BASE.saturating_mul(1 << doublings).min(MAX);
    ceiling.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_its_bound() {
        assert_eq!(delay(1, 1.0), Duration::from_millis(50));
        assert_eq!(delay(2, 1.0), Duration::from_millis(100));
        assert_eq!(delay(7, 1.0), MAX);
        assert_eq!(delay(u32::MAX, 1.0), MAX);
        assert_eq!(delay(3, 0.5), Duration::from_millis(100));
        assert_eq!(delay(3, 0.0), Duration::ZERO);
    }
}
