//! What an instance has watched of the leases and shards of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::{Lease, Shard, ShardId};

/// What this instance has seen of other owners' beats, on its own clock: no
/// clocks are compared.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    seen: BTreeMap<ShardId, Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    epoch: u64,
    heartbeat: u64,
    /// Since when they are like this.
    since: Instant,
    /// When the row was first seen.
    first: Instant,
    /// When the first listing began that should have had the shard and had not.
    unlisted: Option<Instant>,
}

impl Seen {
    fn is_of(&self, lease: &Lease) -> bool {
        (self.epoch, self.heartbeat) == (lease.epoch, lease.heartbeat)
    }
}

impl Observations {
    /// Notes the rows as they were listed at `now`.
    pub fn note(&mut self, leases: &[Lease], now: Instant) {
        for lease in leases {
            let seen = self.seen.entry(lease.shard.clone()).or_insert(Seen {
                epoch: lease.epoch,
                heartbeat: lease.heartbeat,
                since: now,
                first: now,
                unlisted: None,
            });
            if !seen.is_of(lease) {
                (seen.epoch, seen.heartbeat) = (lease.epoch, lease.heartbeat);
                seen.since = now;
            }
        }
        let listed: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        self.seen.retain(|shard, _| listed.contains(shard));
    }

    /// Notes what a complete listing, begun at `listed_at`, has. A row that is
    /// younger than that may be of a shard that is too new for it.
    pub fn note_listing(&mut self, shards: &[Shard], listed_at: Instant) {
        let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
        for (shard, seen) in &mut self.seen {
            if listed.contains(shard) {
                seen.unlisted = None;
            } else if seen.first < listed_at {
                seen.unlisted.get_or_insert(listed_at);
            }
        }
    }

    /// Whether a listing that should have the shard of `lease` has not.
    pub(super) fn is_unlisted(&self, lease: &Lease) -> bool {
        self.seen
            .get(&lease.shard)
            .is_some_and(|seen| seen.unlisted.is_some())
    }

    /// Whether no listing had the shard of `lease` for so long.
    pub(super) fn is_unlisted_for(
        &self,
        lease: &Lease,
        listed_at: Instant,
        duration: Duration,
    ) -> bool {
        self.seen
            .get(&lease.shard)
            .and_then(|seen| seen.unlisted)
            .is_some_and(|since| listed_at.saturating_duration_since(since) >= duration)
    }

    /// Whether the owner of `lease` has not moved for `duration`.
    pub(super) fn expired(&self, lease: &Lease, now: Instant, duration: Duration) -> bool {
        self.seen
            .get(&lease.shard)
            .is_some_and(|seen| now.saturating_duration_since(seen.since) >= duration)
    }
}
