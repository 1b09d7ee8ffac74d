//! Decides which leases this instance acquires, gives up and requests, so that the leases are
//! divided evenly among the live instances (the "balance" rule).
//!
//! Every instance reads the same lease items and computes the same shares, so instances need not
//! send each other requests: one that has too many leases releases them, and those that have too
//! few acquire them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ports::{Lease, ShardId, maintenance_id};

/// Leases that are divided among the instances: those of the shards that may be read, or those of
/// maintenance.
#[derive(Clone, Debug)]
pub struct Division<'v, 'a> {
    /// Name of the instance that decides.
    pub name: &'v str,
    /// Live instances, among them the one that decides.
    pub live: &'v BTreeSet<&'v str>,
    /// Open leases whose shards may be read.
    pub leases: &'v [&'a Lease],
    /// Those of them that no live instance owns.
    pub available: &'v [&'a Lease],
    /// Those of `available` that no instance acquired for so long that the view of the live
    /// instances may be wrong.
    pub left_over: &'v [&'a Lease],
    /// Leases that the deciding instance holds and does not give up yet, in the order in which it
    /// acquired them.
    pub held: &'v [ShardId],
}

/// Changes that the deciding instance makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    pub acquire: Vec<&'a Lease>,
    pub give_up: Vec<ShardId>,
    /// Leases to request from owners of an older release, which release none by themselves.
    pub request: Vec<&'a Lease>,
}

/// Returns the instances that share the leases: the live members of the group, the live owners of
/// an older release, which have no member item, and the instances of an older release that request
/// a lease.
pub fn live_instances<'a>(
    name: &'a str,
    members: &'a [Lease],
    leases: &'a [Lease],
    is_alive: impl Fn(&Lease) -> bool,
) -> BTreeSet<&'a str> {
    let members = members
        .iter()
        .filter(|member| member.owner.is_some() && is_alive(member))
        .filter_map(|member| member.shard.member());
    let older_owners = leases
        .iter()
        .filter(|lease| is_of_older_release(lease) && is_alive(lease))
        .filter_map(|lease| lease.owner.as_deref());
    let requesters = leases
        .iter()
        .filter_map(|lease| lease.requests.requested_by.as_deref());
    members
        .chain(older_owners)
        .chain(requesters)
        .chain([name])
        .collect()
}

impl<'v, 'a> Division<'v, 'a> {
    /// Returns what the deciding instance does to hold its share.
    pub fn decide(&self) -> Decision<'a> {
        let counts = self.counts();
        let share = self.share(self.name, &counts);
        let held = self.held.len();
        if held > share {
            return Decision {
                give_up: self.surplus(held - share),
                ..Decision::default()
            };
        }
        let mut acquire = self.by_preference(&counts);
        let lacking = share - held;
        acquire.truncate(lacking);
        let request = self.to_request(&counts, lacking - acquire.len());
        let share: BTreeSet<_> = acquire.iter().map(|lease| &lease.shard).collect();
        let left_over = self.left_over.iter();
        let more = left_over.filter(|lease| !share.contains(&lease.shard));
        acquire.extend(more.copied().collect::<Vec<_>>());
        Decision {
            acquire,
            give_up: Vec::new(),
            request,
        }
    }

    /// Returns the number of leases of each live instance.
    fn counts(&self) -> BTreeMap<&'v str, usize> {
        let mut counts: BTreeMap<_, _> = self.live.iter().map(|name| (*name, 0)).collect();
        for lease in self.leases {
            if let Some(owner) = lease.owner.as_deref()
                && let Some(count) = counts.get_mut(owner)
            {
                *count += 1;
            }
        }
        counts
    }

    /// Returns the number of leases that `instance` is to hold. Shares differ by at most one; the
    /// instances with the most leases have the larger ones, so that as few leases as possible move.
    fn share(&self, instance: &str, counts: &BTreeMap<&str, usize>) -> usize {
        let count = |name: &str| Reverse(counts.get(name).copied().unwrap_or_default());
        let own = (count(instance), hash(&[instance]), instance);
        let is_earlier = |name: &&&str| (count(name), hash(&[**name]), **name) < own;
        let earlier = self.live.iter().filter(is_earlier).count();
        let remainder = self.leases.len() % self.live.len();
        self.leases.len() / self.live.len() + usize::from(earlier < remainder)
    }

    /// Returns the `count` leases to give up: the most recently acquired ones, so that after a
    /// restart the same leases return. The maintenance lease moves last, because its next holder
    /// starts the listing of the stream from the beginning.
    fn surplus(&self, count: usize) -> Vec<ShardId> {
        let maintenance = maintenance_id();
        let (last, rest): (Vec<_>, Vec<_>) =
            self.held.iter().partition(|shard| **shard == maintenance);
        let order = rest.into_iter().rev().chain(last);
        order.take(count).cloned().collect()
    }

    /// Returns the available leases in the order in which this instance acquires them: those that
    /// an earlier process of this instance owns, then the others by rendezvous hashing among the
    /// instances with too few leases, so that these rarely compete for the same lease.
    fn by_preference(&self, counts: &BTreeMap<&'v str, usize>) -> Vec<&'a Lease> {
        let most = self.leases.len().div_ceil(self.live.len());
        let takers: Vec<_> = counts
            .iter()
            .filter(|(name, count)| **name == self.name || **count < most)
            .map(|(name, _)| *name)
            .collect();
        let mut available = self.available.to_vec();
        available.sort_by_cached_key(|lease| {
            let own = hash(&[self.name, &lease.shard.0]);
            let rank = takers
                .iter()
                .filter(|taker| hash(&[taker, &lease.shard.0]) < own)
                .count();
            let is_owned = lease.owner.as_deref() == Some(self.name);
            (!is_owned, rank, own)
        });
        available
    }

    /// Returns up to `lacking` leases of owners of an older release that have more than their
    /// share, minus those that are requested already.
    fn to_request(&self, counts: &BTreeMap<&'v str, usize>, lacking: usize) -> Vec<&'a Lease> {
        let is_own = |lease: &&&Lease| lease.requests.requested_by.as_deref() == Some(self.name);
        let open = self.leases.iter().filter(is_own).count();
        let mut surplus: BTreeMap<&str, usize> = counts
            .iter()
            .map(|(name, count)| (*name, count.saturating_sub(self.share(name, counts))))
            .collect();
        let mut requested = Vec::new();
        for lease in self.leases {
            if let Some(owner) = lease.owner.as_deref()
                && is_of_older_release(lease)
                && requested.len() + open < lacking
                && let Some(surplus @ 1..) = surplus.get_mut(owner)
            {
                *surplus -= 1;
                if lease.requests.requested_by.is_none() {
                    requested.push(*lease);
                }
            }
        }
        requested
    }
}

/// Returns `true` if an older release, which writes no lease duration, wrote the item last.
pub fn is_of_older_release(lease: &Lease) -> bool {
    lease.owner.is_some() && lease.lease_duration.is_none()
}

/// Returns a hash (FNV-1a) that is the same in every instance and every release.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The last bytes have changed only the low bits so far.
    bytes ^ (bytes >> 32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ports::{LeaseState, member_id};

    /// Model of a group whose instances decide on the same lease items, one after the other.
    #[derive(Default)]
    struct Group {
        leases: Vec<Lease>,
        held: BTreeMap<String, Vec<ShardId>>,
        moves: BTreeMap<ShardId, usize>,
    }

    fn shard(n: usize) -> ShardId {
        ShardId(format!("shard-{n:03}").into())
    }

    fn lease(n: usize, owner: Option<&str>) -> Lease {
        Lease {
            owner: owner.map(str::to_owned),
            lease_duration: owner.map(|_| Duration::from_secs(10)),
            ..Lease::unread(shard(n), None)
        }
    }

    impl Group {
        fn new(shards: usize) -> Self {
            Self {
                leases: (0..shards).map(|n| lease(n, None)).collect(),
                ..Self::default()
            }
        }

        fn start(&mut self, name: &str) {
            self.held.insert(name.to_owned(), Vec::new());
        }

        fn stop(&mut self, name: &str) {
            self.held.remove(name);
            for lease in &mut self.leases {
                lease.owner.take_if(|owner| *owner == name);
            }
        }

        fn decide(&self, name: &str) -> (Vec<ShardId>, Vec<ShardId>) {
            let live = self.held.keys().map(String::as_str).collect();
            let leases: Vec<_> = self.leases.iter().collect();
            let available: Vec<_> = self.leases.iter().filter(|l| l.owner.is_none()).collect();
            let division = Division {
                name,
                live: &live,
                leases: &leases,
                available: &available,
                left_over: &[],
                held: &self.held[name],
            };
            let decision = division.decide();
            let acquire = decision.acquire.iter().map(|lease| lease.shard.clone());
            (acquire.collect(), decision.give_up)
        }

        /// Lets every instance decide on the same view, and returns the number of rounds until none
        /// has anything to do.
        fn settle(&mut self) -> usize {
            for round in 0..100 {
                let names: Vec<_> = self.held.keys().cloned().collect();
                let decisions: Vec<_> = names.iter().map(|name| self.decide(name)).collect();
                if decisions.iter().all(|(a, g)| a.is_empty() && g.is_empty()) {
                    return round;
                }
                for (name, (acquire, give_up)) in names.iter().zip(decisions) {
                    for shard in give_up {
                        self.of(&shard).owner = None;
                        self.held.get_mut(name).unwrap().retain(|s| *s != shard);
                    }
                    for shard in acquire {
                        // The first of two that acquire a lease succeeds.
                        if self.of(&shard).owner.is_none() {
                            self.of(&shard).owner = Some(name.clone());
                            self.held.get_mut(name).unwrap().push(shard.clone());
                            *self.moves.entry(shard).or_default() += 1;
                        }
                    }
                }
            }
            panic!("the group does not settle: {:?}", self.shares());
        }

        fn of(&mut self, shard: &ShardId) -> &mut Lease {
            let found = self.leases.iter_mut().find(|lease| lease.shard == *shard);
            found.unwrap()
        }

        fn shares(&self) -> Vec<usize> {
            self.held.values().map(Vec::len).collect()
        }
    }

    #[test]
    fn instances_that_start_together_share_the_leases_within_a_few_decisions() {
        let mut group = Group::new(96);
        for name in ["a", "b", "c"] {
            group.start(name);
        }
        let rounds = group.settle();
        assert_eq!(group.shares(), [32, 32, 32]);
        assert!(rounds <= 4, "{rounds} rounds");
        assert!(group.moves.values().all(|moves| *moves == 1));
    }

    #[test]
    fn a_rolling_restart_moves_each_lease_at_most_twice() {
        // Where the shares differ, single leases move once more.
        for (shards, limit) in [(60, 2), (300, 2), (61, 3), (62, 3)] {
            let mut group = Group::new(shards);
            for name in ["a", "b", "c"] {
                group.start(name);
            }
            group.settle();
            group.moves.clear();
            for name in ["a", "b", "c"] {
                group.stop(name);
                group.settle();
                group.start(name);
                group.settle();
                let (least, most) = (shards / 3, shards.div_ceil(3));
                let shares = group.shares();
                assert!(shares.iter().all(|share| (least..=most).contains(share)));
            }
            let most = group.moves.values().max();
            assert!(most <= Some(&limit), "{shards} shards: {most:?} moves");
        }
    }

    #[test]
    fn a_balanced_group_moves_nothing_when_a_shard_splits() {
        let mut group = Group::new(7);
        for name in ["a", "b", "c"] {
            group.start(name);
        }
        group.settle();
        let before = group.held.clone();
        group.leases.push(lease(100, None));
        group.leases.push(lease(101, None));
        group.settle();
        for (name, held) in before {
            assert!(held.iter().all(|shard| group.held[&name].contains(shard)));
        }
    }

    #[test]
    fn an_instance_acquires_more_than_its_share_only_of_what_is_left_over() {
        let leases = [lease(0, None), lease(1, None), lease(2, None)];
        let all: Vec<_> = leases.iter().collect();
        let live = BTreeSet::from(["me", "silent"]);
        let mut division = Division {
            name: "me",
            live: &live,
            leases: &all,
            available: &all,
            left_over: &[],
            held: &[],
        };
        assert!(division.decide().acquire.len() <= 2);
        division.left_over = &all;
        assert_eq!(division.decide().acquire.len(), 3);
    }

    #[test]
    fn leases_of_an_earlier_process_come_first() {
        let leases: Vec<_> = (0..10)
            .map(|n| lease(n, (n == 7).then_some("me")))
            .collect();
        let all: Vec<_> = leases.iter().collect();
        let live = BTreeSet::from(["me", "a", "b", "c", "d"]);
        let division = Division {
            name: "me",
            live: &live,
            leases: &all,
            available: &all,
            left_over: &[],
            held: &[],
        };
        assert_eq!(division.decide().acquire[0].shard, shard(7));
    }

    #[test]
    fn the_maintenance_lease_is_given_up_last() {
        let ids = [shard(0), maintenance_id(), shard(1)];
        let leases: Vec<_> = ids
            .iter()
            .map(|id| Lease {
                shard: id.clone(),
                ..lease(0, Some("me"))
            })
            .collect();
        let all: Vec<_> = leases.iter().collect();
        let live = BTreeSet::from(["me", "other", "third"]);
        let division = Division {
            name: "me",
            live: &live,
            leases: &all,
            available: &[],
            left_over: &[],
            held: &ids,
        };
        assert_eq!(division.decide().give_up, [shard(1), shard(0)]);
    }

    #[test]
    fn leases_that_an_instance_lacks_are_requested_from_owners_of_an_older_release() {
        let mut leases: Vec<_> = (0..6).map(|n| lease(n, Some("old"))).collect();
        for lease in &mut leases {
            lease.lease_duration = None;
        }
        let live = live_instances("me", &[], &leases, |_| true);
        assert_eq!(live, BTreeSet::from(["me", "old"]));
        let decide = |leases: &[Lease]| {
            let all: Vec<_> = leases.iter().collect();
            let division = Division {
                name: "me",
                live: &BTreeSet::from(["me", "old"]),
                leases: &all,
                available: &[],
                left_over: &[],
                held: &[],
            };
            division.decide().request.len()
        };
        assert_eq!(decide(&leases), 3);
        leases[0].requests.requested_by = Some("me".to_owned());
        assert_eq!(decide(&leases), 2);
        for lease in &mut leases {
            lease.lease_duration = Some(Duration::from_secs(10));
        }
        assert_eq!(decide(&leases), 0, "owners of this release release them");
    }

    #[test]
    fn members_owners_of_an_older_release_and_requesters_are_live() {
        let member = |name: &str, owner: Option<&str>| Lease {
            shard: member_id(name),
            ..lease(0, owner)
        };
        let members = [
            member("a", Some("a")),
            member("gone", None),
            member("dead", Some("dead")),
        ];
        let mut leases = [lease(1, Some("stopping")), lease(2, Some("old"))];
        leases[1].lease_duration = None;
        leases[1].requests.requested_by = Some("requester".to_owned());
        leases[0].state = LeaseState::Open;
        let is_alive = |lease: &Lease| lease.owner.as_deref() != Some("dead");
        let live = live_instances("me", &members, &leases, is_alive);
        assert_eq!(live, BTreeSet::from(["a", "me", "old", "requester"]));
    }
}
