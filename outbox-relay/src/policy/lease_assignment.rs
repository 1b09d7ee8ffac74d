//! Which shards to read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use outbox_store::with_registered;
use tokio::time::Instant;

use super::lease_liveness::Observations;
use crate::ports::{Lease, LeaseState, SWEEPER, Shard, ShardId};

/// The instance that decides.
#[derive(Clone, Copy, Debug)]
pub struct Myself<'a> {
    /// Its name in the lease table.
    pub name: &'a str,
    /// What this process is reading already.
    pub held: &'a BTreeSet<ShardId>,
    pub now: Instant,
    pub lease_duration: Duration,
}

/// Shards that were listed and have no row yet.
pub fn unregistered<'a>(shards: &'a [Shard], leases: &[Lease]) -> Vec<&'a Shard> {
    let known: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
    shards
        .iter()
        .filter(|shard| !known.contains(&shard.id))
        .collect()
}

/// Rule 1: a shard may start when its parent is read to its end, or was trimmed
/// away: it has no row, and a listing has the child and not the parent. A
/// parent with a row is read to its end first, also when it is gone: somebody
/// must find that out.
fn may_start(
    lease: &Lease,
    leases: &BTreeMap<&ShardId, &Lease>,
    listed: &BTreeSet<&ShardId>,
    observations: &Observations,
) -> bool {
    match &lease.parent {
        None => true,
        Some(parent) => match leases.get(parent) {
            Some(parent) => parent.state == LeaseState::Ended,
            None if listed.contains(&lease.shard) => !listed.contains(parent),
            None => observations.is_unlisted(lease),
        },
    }
}

/// The rows to take now, in the order of their shard ids: free, its own from
/// an earlier life, or of an owner that stopped beating. Also those of shards
/// that are not listed: whoever reads one of them finds out whether it is too
/// new for the listing, or trimmed away before it was read to its end.
pub fn takable<'a>(
    shards: &[Shard],
    leases: &'a [Lease],
    observations: &Observations,
    me: Myself<'_>,
) -> Vec<&'a Lease> {
    let by_shard: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
    by_shard
        .values()
        .copied()
        .filter(|lease| lease.state == LeaseState::Open)
        .filter(|lease| may_start(lease, &by_shard, &listed, observations))
        .filter(|lease| is_free(lease, observations, me))
        .collect()
}

/// Whether another listing would tell more: of a shard that is free it is not
/// known whether it is too new for the last one or gone.
pub fn wants_listing(
    shards: &[Shard],
    leases: &[Lease],
    observations: &Observations,
    me: Myself<'_>,
) -> bool {
    let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
    leases.iter().any(|lease| {
        lease.state == LeaseState::Open
            && !listed.contains(&lease.shard)
            && is_free(lease, observations, me)
            && !observations.is_unlisted(lease)
    })
}

/// Rule 3: the row to ask its owner for, when this instance, which holds
/// `mine` shards, has at least two less than another. One at a time: asked
/// again only once the last request is answered.
pub fn to_ask<'a>(
    leases: &'a [Lease],
    observations: &Observations,
    mine: usize,
    me: &str,
    now: Instant,
    lease_duration: Duration,
) -> Option<&'a Lease> {
    if leases
        .iter()
        .any(|lease| lease.requests.requested_by.as_deref() == Some(me))
    {
        return None;
    }
    let mut owned: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        if let Some(owner) = lease.owner.as_deref()
            && owner != me
            && *lease.shard.0 != *SWEEPER
            && lease.state == LeaseState::Open
            && !observations.expired(lease, now, lease_duration)
        {
            owned.entry(owner).or_default().push(lease);
        }
    }
    let richest = owned.values().max_by_key(|leases| leases.len())?;
    if richest.len() < mine + 2 {
        return None;
    }
    richest
        .iter()
        .copied()
        .filter(|lease| lease.requests.requested_by.is_none())
        .min_by_key(|lease| &lease.shard)
}

/// Rows that say nothing any more: their shard is read to its end and trimmed
/// away. `listed_at` is when the last complete listing began. They are kept for
/// so long after no listing had the shard that no other instance can still be
/// at a listing that has: it would make the row again, of a shard that is gone.
pub fn removable<'a>(
    leases: &'a [Lease],
    observations: &Observations,
    listed_at: Instant,
    kept: Duration,
) -> Vec<&'a Lease> {
    leases
        .iter()
        .filter(|lease| lease.state == LeaseState::Ended && lease.owner.is_none())
        .filter(|lease| observations.is_unlisted_for(lease, listed_at, kept))
        .collect()
}

/// Neither held by this process nor owned by another that is alive.
fn is_free(lease: &Lease, observations: &Observations, me: Myself<'_>) -> bool {
    !me.held.contains(&lease.shard)
        && match lease.owner.as_deref() {
            None => true,
            Some(owner) if owner == me.name => true,
            Some(_) => observations.expired(lease, me.now, me.lease_duration),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(10);

    fn id(name: &str) -> ShardId {
        ShardId(name.into())
    }

    fn shard(name: &str, parent: Option<&str>) -> Shard {
        Shard {
            id: id(name),
            parent: parent.map(id),
        }
    }

    fn lease(name: &str, parent: Option<&str>) -> Lease {
        Lease::unread(id(name), parent.map(id))
    }

    fn myself(held: &BTreeSet<ShardId>, now: Instant) -> Myself<'_> {
        Myself {
            name: "me",
            held,
            now,
            lease_duration: DURATION,
        }
    }

    fn taken(
        shards: &[Shard],
        leases: &[Lease],
        observations: &Observations,
        now: Instant,
    ) -> Vec<String> {
        let held = BTreeSet::new();
        takable(shards, leases, observations, myself(&held, now))
            .into_iter()
            .map(|lease| lease.shard.to_string())
            .collect()
    }

    #[test]
    fn a_child_waits_for_its_parent() {
        let shards = [shard("a", None), shard("b", Some("a"))];
        let mut leases = [lease("a", None), lease("b", Some("a"))];
        let now = Instant::now();
        assert_eq!(
            taken(&shards, &leases, &Observations::default(), now),
            ["a"]
        );
        leases[0].state = LeaseState::Ended;
        assert_eq!(
            taken(&shards, &leases, &Observations::default(), now),
            ["b"]
        );
    }

    #[test]
    fn a_child_whose_parent_is_trimmed_starts() {
        let shards = [shard("b", Some("a"))];
        let leases = [lease("b", Some("a"))];
        let now = Instant::now();
        let mut observations = Observations::default();
        observations.note(&leases, now);
        assert_eq!(taken(&shards, &leases, &observations, now), ["b"]);
        let too_old = [];
        assert!(
            taken(&too_old, &leases, &observations, now).is_empty(),
            "who has not listed the child cannot tell whether its parent is gone"
        );
        let held = BTreeSet::new();
        assert!(wants_listing(
            &too_old,
            &leases,
            &observations,
            myself(&held, now)
        ));
        observations.note_listing(&too_old, now + DURATION);
        assert_eq!(
            taken(&too_old, &leases, &observations, now),
            ["b"],
            "both are gone"
        );
    }

    #[test]
    fn a_parent_that_is_gone_is_found_to_be_first() {
        let shards = [shard("b", Some("a"))];
        let leases = [lease("a", None), lease("b", Some("a"))];
        let now = Instant::now();
        let observations = Observations::default();
        assert_eq!(taken(&shards, &leases, &observations, now), ["a"]);
    }

    #[test]
    fn a_beating_owner_keeps_its_lease_and_a_silent_one_loses_it() {
        let shards = [shard("a", None)];
        let mut leases = [lease("a", None)];
        leases[0].owner = Some("other".to_owned());
        let start = Instant::now();
        let mut observations = Observations::default();
        observations.note(&leases, start);
        leases[0].heartbeat += 1;
        observations.note(&leases, start + DURATION / 2);
        let almost = start + DURATION / 2 + DURATION - Duration::from_millis(1);
        assert!(taken(&shards, &leases, &observations, almost).is_empty());
        let silent = start + DURATION / 2 + DURATION;
        assert_eq!(taken(&shards, &leases, &observations, silent), ["a"]);
    }

    #[test]
    fn free_leases_and_those_of_an_earlier_life_are_taken_at_once() {
        let shards = [shard("a", None), shard("b", None)];
        let mut leases = [lease("a", None), lease("b", None)];
        leases[1].owner = Some("me".to_owned());
        let now = Instant::now();
        assert_eq!(
            taken(&shards, &leases, &Observations::default(), now),
            ["a", "b"]
        );
    }

    #[test]
    fn only_unknown_shards_are_registered() {
        let shards = [shard("a", None), shard("b", None)];
        let unknown = unregistered(&shards, &[lease("a", None)]);
        assert_eq!(unknown, [&shards[1]]);
    }

    #[test]
    fn shards_that_another_instance_registered_are_known_unless_they_may_be_gone() {
        let leases = [
            lease("c", Some("b")),
            lease("b", Some("a")),
            lease("z", Some("y")),
        ];
        let known = with_registered(vec![shard("a", None)], &leases);
        assert_eq!(
            known,
            [
                shard("a", None),
                shard("b", Some("a")),
                shard("c", Some("b"))
            ]
        );
    }

    fn owned(name: &str, owner: &str) -> Lease {
        Lease {
            owner: Some(owner.to_owned()),
            ..lease(name, None)
        }
    }

    fn asked(leases: &[Lease], mine: usize) -> Option<String> {
        to_ask(
            leases,
            &Observations::default(),
            mine,
            "me",
            Instant::now(),
            DURATION,
        )
        .map(|lease| lease.shard.to_string())
    }

    #[test]
    fn an_instance_with_too_few_asks_the_richest_for_one() {
        let mut leases = vec![owned("a", "x"), owned("b", "y"), owned("c", "y")];
        assert_eq!(asked(&leases, 0), Some("b".to_owned()));
        assert_eq!(asked(&leases, 1), None, "one more or less is even");
        leases[1].requests.requested_by = Some("another".to_owned());
        assert_eq!(asked(&leases, 0), Some("c".to_owned()));
        leases[2].requests.requested_by = Some("me".to_owned());
        assert_eq!(asked(&leases, 0), None, "one at a time");
    }

    #[test]
    fn the_sweeper_is_no_share() {
        let leases = [owned(SWEEPER, "x"), owned("a", "x")];
        assert_eq!(asked(&leases, 0), None);
    }

    #[test]
    fn rows_of_shards_that_are_read_and_trimmed_are_removed_after_a_while() {
        let mut leases = [lease("a", None), lease("b", None), owned("c", "x")];
        for lease in &mut leases {
            lease.state = LeaseState::Ended;
        }
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let kept = Duration::from_secs(30);
        let mut observations = Observations::default();
        observations.note(&leases, at(0));
        let shards = [shard("a", None)];
        observations.note_listing(&shards, at(0));
        observations.note_listing(&shards, at(10));
        assert!(
            removable(&leases, &observations, at(39), kept).is_empty(),
            "another may be at a listing that has it"
        );
        assert_eq!(
            removable(&leases, &observations, at(40), kept),
            [&leases[1]]
        );
        observations.note_listing(&[shard("a", None), shard("b", None)], at(40));
        assert!(removable(&leases, &observations, at(99), kept).is_empty());
    }
}
