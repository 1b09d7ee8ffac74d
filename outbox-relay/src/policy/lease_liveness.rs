//! Observes heartbeats and checkpoints, to decide which leases have expired and how often
//! checkpoints are written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::{Lease, LeaseState, SequenceNumber, ShardId};

/// Minimum interval between two checkpoints of a shard.
pub const MIN_CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum rate of checkpoints of the whole group. All leases of a stream are in one partition of
/// the lease table, which accepts 1,000 writes a second.
const MAX_CHECKPOINTS_PER_SECOND: u32 = 400;

/// Time for which a shard counts as busy after its checkpoint changed.
const BUSY: Duration = Duration::from_secs(10);

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
    checkpoint: Option<SequenceNumber>,
    /// Time at which this checkpoint was first observed.
    checkpoint_since: Instant,
    is_open: bool,
}

impl LeaseLiveness {
    /// Records the leases as they were read at `now`, and forgets those that no longer exist.
    pub fn observe<'a>(&mut self, leases: impl Iterator<Item = &'a Lease>, now: Instant) {
        let mut existing = BTreeSet::new();
        for lease in leases {
            existing.insert(&lease.shard);
            let observed =
                self.observed
                    .entry(lease.shard.clone())
                    .or_insert_with(|| ObservedLease {
                        epoch: lease.epoch,
                        heartbeat: lease.heartbeat,
                        unchanged_since: now,
                        first_observed: now,
                        checkpoint: lease.checkpoint.clone(),
                        checkpoint_since: now,
                        is_open: true,
                    });
            if (observed.epoch, observed.heartbeat) != (lease.epoch, lease.heartbeat) {
                (observed.epoch, observed.heartbeat) = (lease.epoch, lease.heartbeat);
                observed.unchanged_since = now;
            }
            if observed.checkpoint != lease.checkpoint {
                observed.checkpoint.clone_from(&lease.checkpoint);
                observed.checkpoint_since = now;
            }
            observed.is_open = lease.state == LeaseState::Open;
        }
        self.observed.retain(|shard, _| existing.contains(shard));
    }

    /// Returns `true` if the lease was not observed before `now`.
    pub(super) fn is_new(&self, lease: &Lease, now: Instant) -> bool {
        let observed = self.observed.get(&lease.shard);
        observed.is_none_or(|observed| observed.first_observed >= now)
    }

    /// Returns `true` if the heartbeat of `lease` did not change for `duration`, or for the lease
    /// duration of its owner if that is longer.
    pub fn is_expired(&self, lease: &Lease, now: Instant, duration: Duration) -> bool {
        self.observed.get(&lease.shard).is_some_and(|observed| {
            let duration = lease
                .lease_duration
                .map_or(duration, |owners| owners.max(duration));
            now.saturating_duration_since(observed.unchanged_since) >= duration
        })
    }

    /// Returns the interval at which a shard's checkpoints are written, so that the whole group
    /// stays within the maximum rate. It grows with the number of shards whose checkpoints change.
    pub fn checkpoint_interval(&self, now: Instant) -> Duration {
        let busy = self
            .observed
            .iter()
            .filter(|(shard, _)| shard.is_shard())
            .filter(|(_, observed)| observed.is_open)
            .filter(|(_, observed)| now < observed.checkpoint_since + BUSY)
            .count();
        let busy = u32::try_from(busy).unwrap_or(u32::MAX);
        let interval = Duration::from_secs(1)
            .saturating_mul(busy)
            .checked_div(MAX_CHECKPOINTS_PER_SECOND);
        interval.map_or(MIN_CHECKPOINT_INTERVAL, |interval| {
            interval.max(MIN_CHECKPOINT_INTERVAL)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(count: usize) -> Vec<Lease> {
        let ids = (0..count).map(|n| ShardId(format!("shard-{n}").into()));
        ids.map(|id| Lease::unread(id, None)).collect()
    }

    #[test]
    fn the_checkpoint_interval_grows_with_the_busy_shards_of_the_group() {
        let mut liveness = LeaseLiveness::default();
        let start = Instant::now();
        let interval = |liveness: &LeaseLiveness, now| liveness.checkpoint_interval(now);
        assert_eq!(interval(&liveness, start), MIN_CHECKPOINT_INTERVAL);
        let mut leases = leases(1_000);
        liveness.observe(leases.iter(), start);
        assert_eq!(interval(&liveness, start), Duration::from_millis(2_500));
        let later = start + BUSY;
        for lease in &mut leases[..200] {
            lease.checkpoint = Some(SequenceNumber("1".into()));
        }
        liveness.observe(leases.iter(), later);
        assert_eq!(interval(&liveness, later), Duration::from_millis(500));
        for lease in &mut leases {
            lease.state = LeaseState::Ended;
        }
        liveness.observe(leases.iter(), later);
        assert_eq!(interval(&liveness, later), MIN_CHECKPOINT_INTERVAL);
    }

    #[test]
    fn a_longer_lease_duration_of_the_owner_counts() {
        let mut lease = leases(1).remove(0);
        lease.lease_duration = Some(Duration::from_secs(10));
        let mut liveness = LeaseLiveness::default();
        let start = Instant::now();
        liveness.observe([&lease].into_iter(), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let duration = Duration::from_secs(2);
        assert!(!liveness.is_expired(&lease, at(9), duration));
        assert!(liveness.is_expired(&lease, at(10), duration));
    }
}
