//! Decides which leases are available to this instance (the "lineage" rule).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use super::lease_liveness::LeaseLiveness;
use crate::ports::{Lease, LeaseState, ShardId};

/// View of the lease table by the instance that decides.
#[derive(Clone, Copy, Debug)]
pub struct InstanceView<'a> {
    /// Name of the instance in the lease table.
    pub name: &'a str,
    /// Items that cannot be parsed. Their shards count as not fully consumed.
    pub unreadable: &'a BTreeSet<ShardId>,
    pub liveness: &'a LeaseLiveness,
    pub now: Instant,
    pub lease_duration: Duration,
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

/// Returns `true` if the lease of a shard that is not listed can be deleted: the shard is fully
/// consumed, and the stream has not had it for `kept`.
pub fn is_deletable(lease: &Lease, now: Timestamp, kept: Duration) -> bool {
    let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    let age = |at: Timestamp| now.as_millis().saturating_sub(at.as_millis());
    lease.state == LeaseState::Ended
        && lease.owner.is_none()
        && lease.unlisted_at.is_some_and(|at| age(at) >= kept)
}

impl InstanceView<'_> {
    /// Returns the open leases whose shards may be read: those that an instance owns, and those of
    /// which the parent is fully consumed or no longer exists (the "lineage" rule).
    pub fn startable<'b>(&self, leases: &'b [Lease]) -> Vec<&'b Lease> {
        let by_shard: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
        leases
            .iter()
            .filter(|lease| lease.state == LeaseState::Open)
            .filter(|lease| lease.owner.is_some() || self.may_start(lease, &by_shard))
            .collect()
    }

    /// A parent no longer exists if it has no lease: the lease of a parent is created before those
    /// of its children, and deleted after its shard was. A list that is read while leases are
    /// created may contain a child without its parent, so a new lease starts with the next list.
    fn may_start(&self, lease: &Lease, by_shard: &BTreeMap<&ShardId, &Lease>) -> bool {
        match &lease.parent {
            None => true,
            Some(parent) => match by_shard.get(parent) {
                Some(parent) => parent.state == LeaseState::Ended,
                None => !self.unreadable.contains(parent) && !self.liveness.is_new(lease, self.now),
            },
        }
    }

    /// Returns those of `leases` that this instance can acquire: those without an owner, those that
    /// an earlier process of it owns, and those whose owner's heartbeat has expired. `is_held`
    /// returns `true` for the leases of this process.
    pub fn available<'b>(
        &self,
        leases: &[&'b Lease],
        is_held: impl Fn(&ShardId) -> bool,
    ) -> Vec<&'b Lease> {
        let is_available = |lease: &Lease| match lease.owner.as_deref() {
            None => true,
            Some(owner) if owner == self.name => true,
            Some(_) => self.is_expired(lease),
        };
        leases
            .iter()
            .copied()
            .filter(|lease| !is_held(&lease.shard) && is_available(lease))
            .collect()
    }

    /// Returns those of the `available` leases that have been available for a lease duration, or
    /// expired for half of one: the instances whose share they belong to do not acquire them.
    pub fn left_over<'b>(&self, available: &[&'b Lease]) -> Vec<&'b Lease> {
        let limit = |lease: &Lease| match lease.owner {
            None => self.lease_duration,
            // All instances that were running then have noticed by now that the lease has expired.
            // One that started later notices it a lease duration after its start.
            Some(_) => self.longest(lease) + self.lease_duration / 2,
        };
        available
            .iter()
            .copied()
            .filter(|lease| self.liveness.is_expired(lease, self.now, limit(lease)))
            .collect()
    }

    /// Returns `true` if the owner of `lease` wrote no heartbeat for a lease duration.
    pub fn is_expired(&self, lease: &Lease) -> bool {
        self.liveness
            .is_expired(lease, self.now, self.lease_duration)
    }

    fn longest(&self, lease: &Lease) -> Duration {
        let own = self.lease_duration;
        lease.lease_duration.map_or(own, |owners| owners.max(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(10);

    fn id(name: &str) -> ShardId {
        ShardId(name.into())
    }

    fn lease(name: &str, parent: Option<&str>) -> Lease {
        Lease::unread(id(name), parent.map(id))
    }

    struct Observer {
        liveness: LeaseLiveness,
        unreadable: BTreeSet<ShardId>,
        start: Instant,
    }

    impl Observer {
        fn new() -> Self {
            Self {
                liveness: LeaseLiveness::default(),
                unreadable: BTreeSet::new(),
                start: Instant::now(),
            }
        }

        fn observe(&mut self, leases: &[Lease], after: Duration) {
            self.liveness.observe(leases.iter(), self.start + after);
        }

        fn view(&self, after: Duration) -> InstanceView<'_> {
            InstanceView {
                name: "me",
                unreadable: &self.unreadable,
                liveness: &self.liveness,
                now: self.start + after,
                lease_duration: DURATION,
            }
        }

        fn available(&self, leases: &[Lease], after: Duration) -> Vec<String> {
            let view = self.view(after);
            let startable = view.startable(leases);
            let available = view.available(&startable, |_| false);
            available
                .into_iter()
                .map(|lease| lease.shard.to_string())
                .collect()
        }
    }

    #[test]
    fn a_child_waits_for_its_parent() {
        let mut leases = [lease("a", None), lease("b", Some("a"))];
        let observer = Observer::new();
        assert_eq!(observer.available(&leases, Duration::ZERO), ["a"]);
        leases[0].state = LeaseState::Ended;
        assert_eq!(observer.available(&leases, Duration::ZERO), ["b"]);
    }

    #[test]
    fn a_child_of_a_parent_without_a_lease_starts_with_the_second_list() {
        let leases = [lease("b", Some("a"))];
        let mut observer = Observer::new();
        observer.observe(&leases, Duration::ZERO);
        assert!(observer.available(&leases, Duration::ZERO).is_empty());
        let later = Duration::from_millis(1);
        assert_eq!(observer.available(&leases, later), ["b"]);
        observer.unreadable.insert(id("a"));
        assert!(
            observer.available(&leases, later).is_empty(),
            "whether the parent is fully consumed is unknown"
        );
    }

    #[test]
    fn a_lease_expires_when_its_heartbeat_stops() {
        let mut leases = [lease("a", None)];
        leases[0].owner = Some("other".to_owned());
        let mut observer = Observer::new();
        observer.observe(&leases, Duration::ZERO);
        leases[0].heartbeat += 1;
        observer.observe(&leases, DURATION / 2);
        let expires = DURATION / 2 + DURATION;
        let almost = expires - Duration::from_millis(1);
        assert!(observer.available(&leases, almost).is_empty());
        assert_eq!(observer.available(&leases, expires), ["a"]);
    }

    #[test]
    fn unowned_leases_and_those_of_an_earlier_process_are_available_at_once() {
        let mut leases = [lease("a", None), lease("b", None)];
        leases[1].owner = Some("me".to_owned());
        let observer = Observer::new();
        assert_eq!(observer.available(&leases, Duration::ZERO), ["a", "b"]);
    }

    #[test]
    fn an_available_lease_is_left_over_after_a_lease_duration() {
        let mut leases = [lease("a", None), lease("b", None)];
        leases[1].owner = Some("other".to_owned());
        let mut observer = Observer::new();
        observer.observe(&leases, Duration::ZERO);
        let left_over = |after| {
            let view = observer.view(after);
            let startable = view.startable(&leases);
            let available = view.available(&startable, |_| false);
            view.left_over(&available).len()
        };
        assert_eq!(left_over(DURATION - Duration::from_millis(1)), 0);
        assert_eq!(left_over(DURATION), 1);
        assert_eq!(left_over(DURATION * 3 / 2), 2);
    }

    #[test]
    fn leases_of_consumed_and_trimmed_shards_are_deleted_after_a_while() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let kept = Duration::from_secs(120);
        let mut ended = lease("a", None);
        ended.state = LeaseState::Ended;
        assert!(!is_deletable(&ended, at(1_000), kept), "it is listed");
        ended.unlisted_at = Some(at(100));
        assert!(
            !is_deletable(&ended, at(219), kept),
            "an older release may still process a listing that contains it"
        );
        assert!(is_deletable(&ended, at(220), kept));
        let open = Lease {
            state: LeaseState::Open,
            ..ended.clone()
        };
        assert!(!is_deletable(&open, at(220), kept), "it is not consumed");
        ended.owner = Some("other".to_owned());
        assert!(!is_deletable(&ended, at(220), kept));
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
}
