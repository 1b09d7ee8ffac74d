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

/// Returns the division by the instance "me", which holds nothing.
fn division<'v, 'a>(
    live: &'v BTreeSet<&'v str>,
    leases: &'v [&'a Lease],
    available: &'v [&'a Lease],
) -> Division<'v, 'a> {
    Division {
        name: "me",
        live,
        leases,
        available,
        left_over: &[],
        held: &[],
    }
}

/// Returns the number of leases that "me" requests.
fn requested(live: &BTreeSet<&str>, leases: &[Lease]) -> usize {
    let all: Vec<_> = leases.iter().collect();
    division(live, &all, &[]).decide().request.len()
}

/// Returns the decision of "me" if all leases are available.
fn decide_on_available<'a>(
    live: &BTreeSet<&str>,
    leases: &'a [Lease],
    left_over: &[&'a Lease],
) -> Decision<'a> {
    let all: Vec<_> = leases.iter().collect();
    let division = Division {
        left_over,
        ..division(live, &all, &all)
    };
    division.decide()
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
fn instances_prefer_different_leases() {
    let mut group = Group::new(96);
    for name in ["a", "b", "c"] {
        group.start(name);
    }
    let choices = ["a", "b", "c"].map(|name| group.decide(name).0);
    let different: BTreeSet<_> = choices.iter().flatten().collect();
    assert!(different.len() >= 80, "{} of 96", different.len());
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
            assert_eq!(shares.iter().sum::<usize>(), shards);
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
    let live = BTreeSet::from(["me", "silent"]);
    assert!(decide_on_available(&live, &leases, &[]).acquire.len() <= 2);
    let all: Vec<_> = leases.iter().collect();
    let decision = decide_on_available(&live, &leases, &all);
    assert_eq!(decision.acquire.len(), 3);
}

#[test]
fn leases_of_an_earlier_process_come_first() {
    let leases: Vec<_> = (0..10)
        .map(|n| lease(n, (n == 7).then_some("me")))
        .collect();
    let live = BTreeSet::from(["me", "a", "b", "c", "d"]);
    let decision = decide_on_available(&live, &leases, &[]);
    assert_eq!(decision.acquire[0].shard, shard(7));
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
    let live = BTreeSet::from(["me", "old"]);
    assert_eq!(live_instances("me", &[], &leases, |_| true), live);
    assert_eq!(requested(&live, &leases), 3);
    leases[0].requests.requested_by = Some("me".to_owned());
    assert_eq!(requested(&live, &leases), 2);
    for lease in &mut leases {
        lease.lease_duration = Some(Duration::from_secs(10));
    }
    assert_eq!(
        requested(&live, &leases),
        0,
        "owners of this release release them"
    );
}

#[test]
fn no_more_leases_are_requested_than_an_instance_lacks() {
    let mut leases: Vec<_> = (0..9).map(|n| lease(n, Some("old"))).collect();
    for lease in &mut leases {
        lease.lease_duration = None;
    }
    let live = BTreeSet::from(["me", "old", "other"]);
    assert_eq!(requested(&live, &leases), 3);
    leases[8].requests.requested_by = Some("me".to_owned());
    assert_eq!(requested(&live, &leases), 2);
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

#[test]
fn the_order_of_acquisition_depends_on_the_instances_with_too_few_leases_only() {
    let mut leases: Vec<_> = (0..24).map(|n| lease(n, None)).collect();
    let live = BTreeSet::from(["full", "me"]);
    for lease in &mut leases[12..] {
        lease.owner = Some("full".to_owned());
    }
    let all: Vec<_> = leases.iter().collect();
    let division = division(&live, &all, &all[..12]);
    let mut expected = all[..12].to_vec();
    expected.sort_by_key(|lease| hash(&["me", &lease.shard.0]));
    assert_eq!(division.decide().acquire, expected);
}

#[test]
fn no_leases_are_requested_for_those_that_are_acquired() {
    let mut leases: Vec<_> = (0..12).map(|n| lease(n, Some("old"))).collect();
    for lease in &mut leases {
        lease.lease_duration = None;
    }
    for lease in &mut leases[..3] {
        lease.owner = None;
    }
    let all: Vec<_> = leases.iter().collect();
    let live = BTreeSet::from(["me", "old", "other"]);
    let decision = division(&live, &all, &all[..3]).decide();
    assert_eq!((decision.acquire.len(), decision.request.len()), (3, 1));
}

#[test]
fn each_owner_of_an_older_release_is_left_its_share() {
    let mut leases: Vec<_> = (0..9).map(|n| lease(n, Some("old-1"))).collect();
    for lease in &mut leases {
        lease.lease_duration = None;
    }
    for lease in &mut leases[4..] {
        lease.owner = Some("old-2".to_owned());
    }
    let all: Vec<_> = leases.iter().collect();
    let live = BTreeSet::from(["me", "old-1", "old-2"]);
    let requested = division(&live, &all, &[]).decide().request;
    let requested: Vec<_> = requested
        .iter()
        .map(|lease| lease.owner.as_deref())
        .collect();
    assert_eq!(requested, [Some("old-1"), Some("old-2"), Some("old-2")]);
}
