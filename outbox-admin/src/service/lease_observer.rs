//! Whether the owners of leases are alive.
//!
//! A single read of a lease does not show that, because clocks of two machines are not compared. A
//! live owner increments `heartbeat` at least every third of a lease duration. An [`Observer`]
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
pub enum Life {
    /// The owner wrote a heartbeat while it was observed.
    Alive,
    /// The lease was not observed for long enough.
    Unknown,
    /// The owner wrote no heartbeat for a lease duration.
    Silent,
    /// The lease has no owner.
    Free,
    /// The shard starts once its parent is fully read.
    Waiting,
    /// The shard is fully read.
    Ended,
    /// The shard is no longer in the stream.
    #[serde(rename = "gone")]
    NotInStream,
}

/// Earlier observations of the leases.
#[derive(Debug, Default)]
pub struct Observer {
    pub(super) stream: Option<(Arc<str>, Instant)>,
    seen: BTreeMap<ShardId, Seen>,
    pub(super) listed: Option<(Vec<Shard>, Instant)>,
}

#[derive(Debug)]
struct Seen {
    epoch: u64,
    heartbeat: u64,
    /// Time at which this epoch and heartbeat were first observed.
    since: Instant,
    /// `true` if they differ from the first observation.
    moved: bool,
}

impl Observer {
    pub(super) fn note(&mut self, leases: &[Lease], now: Instant) {
        for lease in leases {
            let (epoch, heartbeat) = (lease.epoch, lease.heartbeat);
            let seen = self.seen.entry(lease.shard.clone()).or_insert(Seen {
                epoch,
                heartbeat,
                since: now,
                moved: false,
            });
            if (seen.epoch, seen.heartbeat) != (epoch, heartbeat) {
                *seen = Seen {
                    epoch,
                    heartbeat,
                    since: now,
                    moved: true,
                };
            }
        }
        let listed: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        self.seen.retain(|shard, _| listed.contains(shard));
    }

    /// Returns the time for which the lease was observed to be unchanged.
    fn unchanged_for(&self, lease: &Lease, now: Instant) -> Duration {
        self.seen.get(&lease.shard).map_or(Duration::ZERO, |seen| {
            now.saturating_duration_since(seen.since)
        })
    }

    fn moved(&self, lease: &Lease) -> bool {
        self.seen.get(&lease.shard).is_some_and(|seen| seen.moved)
    }

    /// Returns the observed state of each of `leases`.
    pub(super) fn lives(&self, leases: &[Lease], now: Instant, silence: Duration) -> Vec<Life> {
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
                let silence = lease
                    .lease_duration
                    .map_or(silence, |owners| owners.max(silence));
                match &lease.owner {
                    _ if lease.state == LeaseState::Ended => Life::Ended,
                    None if parent_ended == Some(&false) => Life::Waiting,
                    _ if unchanged >= silence && is_not_in_stream() => Life::NotInStream,
                    None if unchanged >= silence => Life::Free,
                    Some(_) if unchanged >= silence => Life::Silent,
                    Some(_) if self.moved(lease) => Life::Alive,
                    _ => Life::Unknown,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use outbox_store::MAINTENANCE;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    fn lease(shard: &str, owner: Option<&str>, heartbeat: u64) -> Lease {
        Lease {
            owner: owner.map(str::to_owned),
            heartbeat,
            ..Lease::unread(ShardId(shard.into()), None)
        }
    }

    #[test]
    fn an_owner_is_alive_after_a_heartbeat_and_silent_without_one() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let first = [lease("a", Some("x"), 1), lease("b", Some("y"), 1)];
        observer.note(&first, start);
        assert_eq!(observer.lives(&first, start, SILENCE), [Life::Unknown; 2]);
        let later = start + Duration::from_secs(4);
        let second = [lease("a", Some("x"), 2), lease("b", Some("y"), 1)];
        observer.note(&second, later);
        assert_eq!(
            observer.lives(&second, later, SILENCE),
            [Life::Alive, Life::Unknown]
        );
        let end = start + SILENCE;
        assert_eq!(
            observer.lives(&second, end, SILENCE),
            [Life::Alive, Life::Silent]
        );
    }

    #[test]
    fn a_lease_is_free_after_a_lease_duration_without_owner() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let free = [lease("a", None, 1)];
        observer.note(&free, start);
        assert_eq!(observer.lives(&free, start, SILENCE), [Life::Unknown]);
        assert_eq!(
            observer.lives(&free, start + SILENCE, SILENCE),
            [Life::Free]
        );
    }

    #[test]
    fn a_child_waits_for_its_parent_and_the_lease_of_an_unlisted_shard_is_not_in_stream() {
        let mut observer = Observer::default();
        let start = Instant::now();
        let mut child = lease("b", None, 0);
        child.parent = Some(ShardId("a".into()));
        let leases = [
            lease("a", Some("x"), 1),
            child,
            lease(MAINTENANCE, Some("x"), 1),
        ];
        observer.note(&leases, start);
        let later = start + SILENCE;
        assert_eq!(
            observer.lives(&leases, later, SILENCE),
            [Life::Silent, Life::Waiting, Life::Silent]
        );
        observer.listed = Some((Vec::new(), later));
        assert_eq!(
            observer.lives(&leases, later, SILENCE),
            [Life::NotInStream, Life::Waiting, Life::Silent]
        );
    }
}
