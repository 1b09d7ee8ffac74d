//! Rate limits, by principal and by address.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Upper bound of a configured rate, in requests per second.
const MAX_RATE: u32 = 1_000_000;

/// A configured rate: requests per second, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<NonZeroU32>);

impl Rate {
    pub(super) const OFF: Self = Self(None);

    pub(super) const fn per_second(requests: NonZeroU32) -> Self {
        Self(Some(requests))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse()
            .ok()
            .filter(|rate: &NonZeroU32| rate.get() <= MAX_RATE)
            .map(|rate| Self(Some(rate)))
            .ok_or_else(|| {
                format!("must be `off` or a number of requests per second, from 1 to {MAX_RATE}")
            })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{rate}"),
            None => f.write_str("off"),
        }
    }
}

/// Limits the requests of each key. A key that was idle for a second may send as many requests at
/// once as its rate has in a second.
pub(super) struct RateLimit<K: Clone + Eq + Hash> {
    limiter: Option<DefaultKeyedRateLimiter<K>>,
    clock: DefaultClock,
}

impl<K: Clone + Eq + Hash> RateLimit<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            limiter: rate
                .0
                .map(|rate| RateLimiter::keyed(Quota::per_second(rate))),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request of `key`.
    ///
    /// # Errors
    /// The time to wait, if the key has used up its rate. The request is not counted then.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        match &self.limiter {
            Some(limiter) => limiter
                .check_key(key)
                .map_err(|rejected| rejected.wait_time_from(self.clock.now())),
            None => Ok(()),
        }
    }

    /// Forgets the keys whose rate is fully restored. That takes at most a second, so the memory is
    /// bounded by the keys of the requests between two calls.
    pub(super) fn forget_idle_keys(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for RateLimit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("keys", &self.limiter.as_ref().map(RateLimiter::len))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn limit(rate: &str) -> RateLimit<&'static str> {
        RateLimit::new(rate.parse().unwrap())
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        let limit = limit("2");
        for key in ["a", "b"] {
            assert_eq!(limit.check(&key), Ok(()));
            assert_eq!(limit.check(&key), Ok(()));
            let wait = limit.check(&key).unwrap_err();
            assert!(wait <= Duration::from_millis(500), "{wait:?}");
        }
    }

    #[test]
    fn off_limits_nothing() {
        let limit = limit("off");
        assert!((0..10_000).all(|_| limit.check(&"a").is_ok()));
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let limit = RateLimit::new("1000000".parse().unwrap());
        for key in 0..1_000_u32 {
            limit.check(&key).unwrap();
        }
        let keys = || limit.limiter.as_ref().unwrap().len();
        assert!(keys() > 0);
        // At this rate a request is restored in a microsecond.
        let deadline = Instant::now() + Duration::from_secs(5);
        while keys() > 0 {
            assert!(Instant::now() < deadline, "{} keys remain", keys());
            limit.forget_idle_keys();
        }
    }

    #[test]
    fn a_rate_is_a_number_from_1_to_a_million_or_off() {
        for right in ["1", "1000000", "off"] {
            assert_eq!(right.parse::<Rate>().unwrap().to_string(), right);
        }
        for wrong in ["", "0", "1000001", "-1", "1.5", "Off", "5/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
