//! Observes whether the owners of leases are alive.
//!
//! A single read of a lease does not show it, because clocks of two machines are not compared. A
//! live owner increments `heartbeat` at least every third of a lease duration. An [`LeaseObserver`]
//! therefore compares repeated reads of the leases and measures with its own clock, as the relays
//! do among themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outbox_store::{Lease, LeaseState, Shard, ShardId};
use serde::Serialize;
use tokio::time::Instant;

/// Observed state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// The owner wrote a heartbeat while it was observed.
    Alive,
    /// The lease was not observed for long enough.
    Unknown,
    /// The owner wrote no heartbeat for a lease duration.
    #[serde(rename = "silent")]
    NoHeartbeat,
    /// No instance owned the lease for a lease duration.
    #[serde(rename = "free")]
    NoOwner,
    /// The shard is read once its parent is fully consumed.
    #[serde(rename = "waiting")]
    WaitsForParent,
    /// The shard is fully consumed.
    #[serde(rename = "ended")]
    FullyConsumed,
    /// The shard is no longer in the stream.
    #[serde(rename = "gone")]
    NotInStream,
    /// The item has a malformed attribute, so that no relay acquires the lease.
    Unreadable,
}

/// Earlier reads of the leases.
#[derive(Debug, Default)]
pub struct LeaseObserver {
    pub(super) stream: Option<(Arc<str>, Instant)>,
    observations: BTreeMap<ShardId, Observation>,
    pub(super) listed: Option<(Vec<Shard>, Instant)>,
}

#[derive(Debug)]
struct Observation {
    epoch: u64,
    heartbeat: u64,
    /// Time at which this epoch and heartbeat were first observed.
    since: Instant,
    /// `true` if they differ from the first observation.
    has_changed: bool,
}

impl LeaseObserver {
    pub(super) fn record(&mut self, leases: &[Lease], now: Instant) {
        for lease in leases {
            let (epoch, heartbeat) = (lease.epoch, lease.heartbeat);
            let known = self
                .observations
                .entry(lease.shard.clone())
                .or_insert(Observation {
                    epoch,
                    heartbeat,
                    since: now,
                    has_changed: false,
                });
            if (known.epoch, known.heartbeat) != (epoch, heartbeat) {
                *known = Observation {
                    epoch,
                    heartbeat,
                    since: now,
                    has_changed: true,
                };
            }
        }
        let listed: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        self.observations.retain(|shard, _| listed.contains(shard));
    }

    /// Returns the time for which the lease was observed to be unchanged.
    fn unchanged_for(&self, lease: &Lease, now: Instant) -> Duration {
        self.observations
            .get(&lease.shard)
            .map_or(Duration::ZERO, |known| {
                now.saturating_duration_since(known.since)
            })
    }

    fn has_changed(&self, lease: &Lease) -> bool {
        self.observations
            .get(&lease.shard)
            .is_some_and(|known| known.has_changed)
    }

    /// Returns the observed state of each of `leases`.
    pub(super) fn liveness(
        &self,
        leases: &[Lease],
        now: Instant,
        lease_duration: Duration,
    ) -> Vec<Liveness> {
        let ended: BTreeMap<_, _> = leases
            .iter()
            .map(|lease| (&lease.shard, lease.state == LeaseState::Ended))
            .collect();
        let existing = self.listed.as_ref().map(|(listed, _)| {
            let listed: BTreeSet<_> = listed.iter().map(|shard| &shard.id).collect();
            // A child that a relay registered since the listing exists like its parent.
            let children = leases
                .iter()
                .filter(|lease| lease.parent.as_ref().is_some_and(|id| listed.contains(id)))
                .map(|lease| &lease.shard);
            children
                .chain(listed.iter().copied())
                .collect::<BTreeSet<_>>()
        });
        leases
            .iter()
            .map(|lease| {
                let unchanged = self.unchanged_for(lease, now);
                let parent_ended = lease.parent.as_ref().and_then(|parent| ended.get(parent));
                let is_not_in_stream = || {
                    lease.shard.is_shard()
                        && existing
                            .as_ref()
                            .is_some_and(|ids| !ids.contains(&lease.shard))
                };
                let expiry = lease
                    .lease_duration
                    .map_or(lease_duration, |owners| owners.max(lease_duration));
                match &lease.owner {
                    _ if lease.state == LeaseState::Ended => Liveness::FullyConsumed,
                    None if parent_ended == Some(&false) => Liveness::WaitsForParent,
                    _ if unchanged >= expiry && is_not_in_stream() => Liveness::NotInStream,
                    None if unchanged >= expiry => Liveness::NoOwner,
                    Some(_) if unchanged >= expiry => Liveness::NoHeartbeat,
                    Some(_) if self.has_changed(lease) => Liveness::Alive,
                    _ => Liveness::Unknown,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use outbox_store::MAINTENANCE;

    use super::*;

    const LEASE_DURATION: Duration = Duration::from_secs(5);

    fn lease(shard: &str, owner: Option<&str>, heartbeat: u64) -> Lease {
        Lease {
            owner: owner.map(str::to_owned),
            heartbeat,
            ..Lease::unread(ShardId(shard.into()), None)
        }
    }

    #[test]
    fn an_owner_is_alive_after_a_heartbeat_and_has_none_after_a_lease_duration() {
        let mut observer = LeaseObserver::default();
        let start = Instant::now();
        let first = [lease("a", Some("x"), 1), lease("b", Some("y"), 1)];
        observer.record(&first, start);
        assert_eq!(
            observer.liveness(&first, start, LEASE_DURATION),
            [Liveness::Unknown; 2]
        );
        let later = start + Duration::from_secs(4);
        let second = [lease("a", Some("x"), 2), lease("b", Some("y"), 1)];
        observer.record(&second, later);
        assert_eq!(
            observer.liveness(&second, later, LEASE_DURATION),
            [Liveness::Alive, Liveness::Unknown]
        );
        let end = start + LEASE_DURATION;
        assert_eq!(
            observer.liveness(&second, end, LEASE_DURATION),
            [Liveness::Alive, Liveness::NoHeartbeat]
        );
    }

    #[test]
    fn a_lease_has_no_owner_after_a_lease_duration_without_one() {
        let mut observer = LeaseObserver::default();
        let start = Instant::now();
        let unowned = [lease("a", None, 1)];
        observer.record(&unowned, start);
        assert_eq!(
            observer.liveness(&unowned, start, LEASE_DURATION),
            [Liveness::Unknown]
        );
        assert_eq!(
            observer.liveness(&unowned, start + LEASE_DURATION, LEASE_DURATION),
            [Liveness::NoOwner]
        );
    }

    #[test]
    fn a_child_waits_for_its_parent_and_the_lease_of_an_unlisted_shard_is_not_in_stream() {
        let mut observer = LeaseObserver::default();
        let start = Instant::now();
        let mut child = lease("b", None, 0);
        child.parent = Some(ShardId("a".into()));
        let leases = [
            lease("a", Some("x"), 1),
            child,
            lease(MAINTENANCE, Some("x"), 1),
        ];
        observer.record(&leases, start);
        let later = start + LEASE_DURATION;
        assert_eq!(
            observer.liveness(&leases, later, LEASE_DURATION),
            [
                Liveness::NoHeartbeat,
                Liveness::WaitsForParent,
                Liveness::NoHeartbeat
            ]
        );
        observer.listed = Some((Vec::new(), later));
        assert_eq!(
            observer.liveness(&leases, later, LEASE_DURATION),
            [
                Liveness::NotInStream,
                Liveness::WaitsForParent,
                Liveness::NoHeartbeat
            ]
        );
    }
}
