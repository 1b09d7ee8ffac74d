//! Rate limits of the stream, and counts of the requests to it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Limits of the service: requests a second, shared by all callers. `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// DescribeStream for the whole stream. The service: 10.
    pub(crate) describe_stream: Option<u32>,
    /// GetRecords for each shard. The service does not document it; 5 is the lowest number in
    /// reports.
    pub(crate) get_records: Option<u32>,
}

/// Requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) answered: u64,
    pub(crate) throttled: u64,
}

/// Token buckets of one stream.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    limits: Limits,
    stream: Option<TokenBucket>,
    shards: BTreeMap<String, TokenBucket>,
    requests: BTreeMap<&'static str, Requests>,
}

impl Throttle {
    pub(crate) fn set(&mut self, limits: Limits) {
        self.limits = limits;
        self.stream = None;
        self.shards.clear();
    }

    /// Returns whether the stream answers a DescribeStream request now.
    pub(crate) fn allows_describe_stream(&mut self) -> bool {
        let allowed = self.limits.describe_stream.is_none_or(|rate| {
            self.stream
                .get_or_insert_with(|| TokenBucket::new(rate))
                .take()
        });
        self.record("DescribeStream", allowed)
    }

    /// Returns whether the stream answers a GetRecords request for `shard` now.
    pub(crate) fn allows_get_records(&mut self, shard: &str) -> bool {
        let allowed = self.limits.get_records.is_none_or(|rate| {
            if !self.shards.contains_key(shard) {
                self.shards.insert(shard.to_owned(), TokenBucket::new(rate));
            }
            self.shards.get_mut(shard).is_some_and(TokenBucket::take)
        });
        self.record("GetRecords", allowed)
    }

    /// Counts a request and returns `answered`.
    pub(crate) fn record(&mut self, operation: &'static str, answered: bool) -> bool {
        let requests = self.requests.entry(operation).or_default();
        if answered {
            requests.answered += 1;
        } else {
            requests.throttled += 1;
        }
        answered
    }

    pub(crate) fn requests(&self, operation: &str) -> Requests {
        self.requests.get(operation).copied().unwrap_or_default()
    }
}

/// Bucket of one second's tokens.
#[derive(Debug)]
struct TokenBucket {
    rate: u32,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    fn new(rate: u32) -> Self {
        Self {
            rate,
            tokens: f64::from(rate),
            filled: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let since: Duration = now - self.filled;
        let rate = f64::from(self.rate);
        self.tokens = (self.tokens + since.as_secs_f64() * rate).min(rate);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}
