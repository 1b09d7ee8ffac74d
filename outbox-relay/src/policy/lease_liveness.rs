//! Observes heartbeats and listings, to decide which leases have expired and which shards were
//! deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::{Lease, Shard, ShardId};

/// Heartbeats of other owners as this instance has observed them, on its own clock: clocks of two
/// machines are never compared (the "fencing" rule).
#[derive(Clone, Debug, Default)]
pub struct LeaseLiveness {
    observed: BTreeMap<ShardId, ObservedLease>,
}

#[derive(Clone, Debug)]
struct ObservedLease {
    epoch: u64,
    heartbeat: u64,
    /// Time at which this epoch and heartbeat were first observed.
    unchanged_since: Instant,
    /// Time at which the lease was first observed.
    first_observed: Instant,
    /// Start of the first listing that should have contained the shard and did not.
    unlisted_since: Option<Instant>,
}

impl LeaseLiveness {
    /// Records the leases as they were read at `now`, and forgets those that no longer exist.
    pub fn observe(&mut self, leases: &[Lease], now: Instant) {
        for lease in leases {
            let observed = self
                .observed
                .entry(lease.shard.clone())
                .or_insert(ObservedLease {
                    epoch: lease.epoch,
                    heartbeat: lease.heartbeat,
                    unchanged_since: now,
                    first_observed: now,
                    unlisted_since: None,
                });
            if (observed.epoch, observed.heartbeat) != (lease.epoch, lease.heartbeat) {
                (observed.epoch, observed.heartbeat) = (lease.epoch, lease.heartbeat);
                observed.unchanged_since = now;
            }
        }
        let existing: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        self.observed.retain(|shard, _| existing.contains(shard));
    }

    /// Records a complete listing of the stream's shards that started at `listed_at`. A lease that
    /// was first observed later may belong to a shard that is too new for this listing.
    pub fn observe_listing(&mut self, shards: &[Shard], listed_at: Instant) {
        let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
        for (shard, observed) in &mut self.observed {
            if listed.contains(shard) {
                observed.unlisted_since = None;
            } else if observed.first_observed < listed_at {
                observed.unlisted_since.get_or_insert(listed_at);
            }
        }
    }

    /// Returns `true` if a listing that should contain the shard of `lease` does not.
    pub(super) fn is_unlisted(&self, lease: &Lease) -> bool {
        self.observed
            .get(&lease.shard)
            .is_some_and(|observed| observed.unlisted_since.is_some())
    }

    /// Returns `true` if the shard of `lease` was missing from every listing for at least
    /// `duration` before `listed_at`.
    pub(super) fn is_unlisted_for(
        &self,
        lease: &Lease,
        listed_at: Instant,
        duration: Duration,
    ) -> bool {
        self.observed
            .get(&lease.shard)
            .and_then(|observed| observed.unlisted_since)
            .is_some_and(|since| listed_at.saturating_duration_since(since) >= duration)
    }

    /// Returns `true` if the heartbeat of `lease` did not change for `duration`, or for the lease
    /// duration of its owner if that is longer.
    pub(super) fn is_expired(&self, lease: &Lease, now: Instant, duration: Duration) -> bool {
        self.observed.get(&lease.shard).is_some_and(|observed| {
            let duration = lease
                .lease_duration
                .map_or(duration, |owners| owners.max(duration));
            now.saturating_duration_since(observed.unchanged_since) >= duration
        })
    }
}
