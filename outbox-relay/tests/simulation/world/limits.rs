//! Rate limits that all instances share.

use std::collections::BTreeMap;

use outbox_relay::ports::ShardId;
use tokio::time::Instant;

use super::World;

/// Kind of request that is limited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    /// `DescribeStream`, for the whole stream.
    Listing,
    /// Writes of the lease table.
    LeaseWrites,
    /// `GetRecords` of a shard.
    Reads(ShardId),
}

impl Limit {
    /// Returns the number of requests that are granted in a second, and at once. It is scaled to
    /// the few shards and instances of a run, except that of reads.
    fn per_second(&self) -> f64 {
        match self {
            Self::Listing => 2.0,
            Self::LeaseWrites => 30.0,
            Self::Reads(_) => 5.0,
        }
    }
}

/// Number of requests that are still granted, and the time of the last request, by limit.
#[derive(Debug, Default)]
pub(crate) struct TokenBuckets(BTreeMap<Limit, (f64, Instant)>);

impl TokenBuckets {
    fn take(&mut self, limit: Limit) -> bool {
        let now = Instant::now();
        let rate = limit.per_second();
        let (tokens, at) = self.0.entry(limit).or_insert((rate, now));
        *tokens = now
            .duration_since(*at)
            .as_secs_f64()
            .mul_add(rate, *tokens)
            .min(rate);
        *at = now;
        let is_granted = *tokens >= 1.0;
        if is_granted {
            *tokens -= 1.0;
        }
        is_granted
    }
}

impl World {
    /// Returns `true` if a request exceeds the rate that is granted to all instances together.
    pub(crate) fn is_throttled(&mut self, limit: Limit) -> bool {
        if !self.setup.is_limited {
            return false;
        }
        let kind = match limit {
            Limit::Listing => "listing throttled",
            Limit::LeaseWrites => "lease write throttled",
            Limit::Reads(_) => "read throttled",
        };
        let is_throttled = !self.limits.take(limit);
        if is_throttled {
            self.faults.note(kind);
        }
        is_throttled
    }
}
