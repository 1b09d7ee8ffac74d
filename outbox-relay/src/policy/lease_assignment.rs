//! Decides which shards this instance reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::lease_liveness::LeaseLiveness;
use crate::ports::{Lease, LeaseState, Shard, ShardId};

/// View of the lease table by the instance that decides.
#[derive(Clone, Copy, Debug)]
pub struct InstanceView<'a> {
    /// Name of the instance in the lease table.
    pub name: &'a str,
    /// Shards whose leases this process holds.
    pub held: &'a BTreeSet<ShardId>,
    pub now: Instant,
    pub lease_duration: Duration,
}

/// Returns `shards` and, in addition, the shards that other instances have registered in the lease
/// table since they were listed: those whose parent is known.
pub fn with_registered(mut shards: Vec<Shard>, leases: &[Lease]) -> Vec<Shard> {
    let mut known: BTreeSet<_> = shards.iter().map(|shard| shard.id.clone()).collect();
    loop {
        let before = shards.len();
        for lease in leases {
            if let Some(parent) = &lease.parent
                && known.contains(parent)
                && known.insert(lease.shard.clone())
            {
                shards.push(Shard {
                    id: lease.shard.clone(),
                    parent: lease.parent.clone(),
                    starts_at: lease.start.clone(),
                });
            }
        }
        if shards.len() == before {
            return shards;
        }
    }
}

/// Returns the listed shards that have no lease yet.
pub fn without_lease<'a>(shards: &'a [Shard], leases: &[Lease]) -> Vec<&'a Shard> {
    let known: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
    shards
        .iter()
        .filter(|shard| !known.contains(&shard.id))
        .collect()
}

/// Returns the leases by generation: each lease comes after that of its parent, if that is among
/// them.
pub fn generations(mut leases: Vec<Lease>) -> Vec<Vec<Lease>> {
    let mut generations = Vec::new();
    while !leases.is_empty() {
        let ids: BTreeSet<_> = leases.iter().map(|lease| lease.shard.clone()).collect();
        let has_parent = |lease: &Lease| lease.parent.as_ref().is_some_and(|id| ids.contains(id));
        let (rest, generation): (Vec<_>, Vec<_>) = leases.into_iter().partition(has_parent);
        if generation.is_empty() {
            // A cycle, which no stream has.
            generations.push(rest);
            break;
        }
        generations.push(generation);
        leases = rest;
    }
    generations
}

/// Returns `true` if the parent of a shard is fully consumed or no longer exists (the "lineage"
/// rule). A parent no longer exists if it has no lease and a listing contains the child but not the
/// parent. A parent that has a lease is read first even if it was deleted: its reader finds that
/// out.
fn may_start(
    lease: &Lease,
    leases: &BTreeMap<&ShardId, &Lease>,
    listed: &BTreeSet<&ShardId>,
    liveness: &LeaseLiveness,
) -> bool {
    match &lease.parent {
        None => true,
        Some(parent) => match leases.get(parent) {
            Some(parent) => parent.state == LeaseState::Ended,
            None if listed.contains(&lease.shard) => !listed.contains(parent),
            None => liveness.is_unlisted(lease),
        },
    }
}

/// Returns the leases to acquire now, in the order of their shard ids: those without an owner,
/// those of an earlier process of this instance, and those whose owner's heartbeat has expired.
/// Leases of unlisted shards are included: their reader finds out whether the shard is too new for
/// the listing or was trimmed before it was fully consumed.
pub fn acquirable<'a>(
    shards: &[Shard],
    leases: &'a [Lease],
    liveness: &LeaseLiveness,
    view: InstanceView<'_>,
) -> Vec<&'a Lease> {
    let by_shard: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
    by_shard
        .values()
        .copied()
        .filter(|lease| lease.state == LeaseState::Open)
        .filter(|lease| may_start(lease, &by_shard, &listed, liveness))
        .filter(|lease| is_available(lease, liveness, view))
        .collect()
}

/// Returns `true` if another listing is needed: of an available shard it is unknown whether it is
/// too new for the last listing or was deleted.
pub fn needs_listing(
    shards: &[Shard],
    leases: &[Lease],
    liveness: &LeaseLiveness,
    view: InstanceView<'_>,
) -> bool {
    let listed: BTreeSet<_> = shards.iter().map(|shard| &shard.id).collect();
    leases.iter().any(|lease| {
        lease.state == LeaseState::Open
            && !listed.contains(&lease.shard)
            && is_available(lease, liveness, view)
            && !liveness.is_unlisted(lease)
    })
}

/// Returns the lease to request from its owner, if this instance, which holds `held_count` shards,
/// has at least two fewer than another (the "balance" rule). Only one request is open at a time.
pub fn lease_to_request<'a>(
    leases: &'a [Lease],
    liveness: &LeaseLiveness,
    held_count: usize,
    instance: &str,
    now: Instant,
    lease_duration: Duration,
) -> Option<&'a Lease> {
    if leases
        .iter()
        .any(|lease| lease.requests.requested_by.as_deref() == Some(instance))
    {
        return None;
    }
    let mut by_owner: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        if let Some(owner) = lease.owner.as_deref()
            && owner != instance
            && lease.shard.is_shard()
            && lease.state == LeaseState::Open
            && !liveness.is_expired(lease, now, lease_duration)
        {
            by_owner.entry(owner).or_default().push(lease);
        }
    }
    let most = by_owner.values().max_by_key(|leases| leases.len())?;
    if most.len() < held_count + 2 {
        return None;
    }
    most.iter()
        .copied()
        .filter(|lease| lease.requests.requested_by.is_none())
        .min_by_key(|lease| &lease.shard)
}

/// Returns the leases that can be deleted: their shard is fully consumed and no longer exists in
/// the stream. `listed_at` is the start of the last complete listing. A lease is kept for `kept`
/// after its shard was last listed, so that no other instance can still be processing a listing
/// that contains the shard: it would create the lease again.
pub fn deletable<'a>(
    leases: &'a [Lease],
    liveness: &LeaseLiveness,
    listed_at: Instant,
    kept: Duration,
) -> Vec<&'a Lease> {
    leases
        .iter()
        .filter(|lease| lease.state == LeaseState::Ended && lease.owner.is_none())
        .filter(|lease| liveness.is_unlisted_for(lease, listed_at, kept))
        .collect()
}

/// Returns `true` if the lease is neither held by this process nor owned by another live instance.
fn is_available(lease: &Lease, liveness: &LeaseLiveness, view: InstanceView<'_>) -> bool {
    !view.held.contains(&lease.shard)
        && match lease.owner.as_deref() {
            None => true,
            Some(owner) if owner == view.name => true,
            Some(_) => liveness.is_expired(lease, view.now, view.lease_duration),
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
            starts_at: None,
        }
    }

    fn lease(name: &str, parent: Option<&str>) -> Lease {
        Lease::unread(id(name), parent.map(id))
    }

    fn view(held: &BTreeSet<ShardId>, now: Instant) -> InstanceView<'_> {
        InstanceView {
            name: "me",
            held,
            now,
            lease_duration: DURATION,
        }
    }

    fn acquired(
        shards: &[Shard],
        leases: &[Lease],
        liveness: &LeaseLiveness,
        now: Instant,
    ) -> Vec<String> {
        let held = BTreeSet::new();
        acquirable(shards, leases, liveness, view(&held, now))
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
            acquired(&shards, &leases, &LeaseLiveness::default(), now),
            ["a"]
        );
        leases[0].state = LeaseState::Ended;
        assert_eq!(
            acquired(&shards, &leases, &LeaseLiveness::default(), now),
            ["b"]
        );
    }

    #[test]
    fn a_child_of_a_trimmed_parent_starts() {
        let shards = [shard("b", Some("a"))];
        let leases = [lease("b", Some("a"))];
        let now = Instant::now();
        let mut liveness = LeaseLiveness::default();
        liveness.observe(&leases, now);
        assert_eq!(acquired(&shards, &leases, &liveness, now), ["b"]);
        let old_listing = [];
        assert!(
            acquired(&old_listing, &leases, &liveness, now).is_empty(),
            "without a listing of the child, its parent may still exist"
        );
        let held = BTreeSet::new();
        assert!(needs_listing(
            &old_listing,
            &leases,
            &liveness,
            view(&held, now)
        ));
        liveness.observe_listing(&old_listing, now + DURATION);
        assert_eq!(
            acquired(&old_listing, &leases, &liveness, now),
            ["b"],
            "both were deleted"
        );
    }

    #[test]
    fn a_deleted_parent_with_a_lease_is_read_first() {
        let shards = [shard("b", Some("a"))];
        let leases = [lease("a", None), lease("b", Some("a"))];
        let now = Instant::now();
        let liveness = LeaseLiveness::default();
        assert_eq!(acquired(&shards, &leases, &liveness, now), ["a"]);
    }

    #[test]
    fn a_lease_expires_when_its_heartbeat_stops() {
        let shards = [shard("a", None)];
        let mut leases = [lease("a", None)];
        leases[0].owner = Some("other".to_owned());
        let start = Instant::now();
        let mut liveness = LeaseLiveness::default();
        liveness.observe(&leases, start);
        leases[0].heartbeat += 1;
        liveness.observe(&leases, start + DURATION / 2);
        let almost = start + DURATION / 2 + DURATION - Duration::from_millis(1);
        assert!(acquired(&shards, &leases, &liveness, almost).is_empty());
        let expired = start + DURATION / 2 + DURATION;
        assert_eq!(acquired(&shards, &leases, &liveness, expired), ["a"]);
    }

    #[test]
    fn unowned_leases_and_those_of_an_earlier_process_are_acquired_at_once() {
        let shards = [shard("a", None), shard("b", None)];
        let mut leases = [lease("a", None), lease("b", None)];
        leases[1].owner = Some("me".to_owned());
        let now = Instant::now();
        assert_eq!(
            acquired(&shards, &leases, &LeaseLiveness::default(), now),
            ["a", "b"]
        );
    }

    #[test]
    fn leases_are_created_parents_first() {
        let leases = vec![
            lease("c", Some("b")),
            lease("b", Some("a")),
            lease("a", None),
            lease("y", Some("x")),
        ];
        let order: Vec<Vec<_>> = generations(leases)
            .iter()
            .map(|generation| {
                generation
                    .iter()
                    .map(|lease| lease.shard.to_string())
                    .collect()
            })
            .collect();
        assert_eq!(order, [vec!["a", "y"], vec!["b"], vec!["c"]]);
    }

    #[test]
    fn only_shards_without_a_lease_are_registered() {
        let shards = [shard("a", None), shard("b", None)];
        let unknown = without_lease(&shards, &[lease("a", None)]);
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

    fn requested(leases: &[Lease], held_count: usize) -> Option<String> {
        lease_to_request(
            leases,
            &LeaseLiveness::default(),
            held_count,
            "me",
            Instant::now(),
            DURATION,
        )
        .map(|lease| lease.shard.to_string())
    }

    #[test]
    fn an_instance_with_too_few_shards_requests_one_from_the_largest_owner() {
        let mut leases = vec![owned("a", "x"), owned("b", "y"), owned("c", "y")];
        assert_eq!(requested(&leases, 0), Some("b".to_owned()));
        assert_eq!(
            requested(&leases, 1),
            None,
            "a difference of one is balanced"
        );
        leases[1].requests.requested_by = Some("another".to_owned());
        assert_eq!(requested(&leases, 0), Some("c".to_owned()));
        leases[2].requests.requested_by = Some("me".to_owned());
        assert_eq!(requested(&leases, 0), None, "one request at a time");
    }

    #[test]
    fn the_sweeper_lease_does_not_count_as_a_shard() {
        let leases = [owned("sweeper", "x"), owned("a", "x")];
        assert_eq!(requested(&leases, 0), None);
    }

    #[test]
    fn leases_of_consumed_and_trimmed_shards_are_deleted_after_a_while() {
        let mut leases = [lease("a", None), lease("b", None), owned("c", "x")];
        for lease in &mut leases {
            lease.state = LeaseState::Ended;
        }
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let kept = Duration::from_secs(30);
        let mut liveness = LeaseLiveness::default();
        liveness.observe(&leases, at(0));
        let shards = [shard("a", None)];
        liveness.observe_listing(&shards, at(0));
        liveness.observe_listing(&shards, at(10));
        assert!(
            deletable(&leases, &liveness, at(39), kept).is_empty(),
            "another instance may still process a listing that contains it"
        );
        assert_eq!(deletable(&leases, &liveness, at(40), kept), [&leases[1]]);
        liveness.observe_listing(&[shard("a", None), shard("b", None)], at(40));
        assert!(deletable(&leases, &liveness, at(99), kept).is_empty());
    }
}
