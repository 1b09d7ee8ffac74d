//! Decides for which consumed shards the holder of the maintenance lease looks up the children.
//!
//! An instance creates the leases of the children of a shard that it has consumed. If it ends in
//! between, no lease shows that the shard has children.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::{Lease, LeaseState, ShardId};

/// Number of look-ups of a shard. The last shards of a stream that was disabled have no children;
/// later ones are found by the regular listings.
const MAX_LOOK_UPS: u32 = 7;

/// Consumed shards without a child among the leases, and their look-ups so far.
#[derive(Debug, Default)]
pub struct ChildLookUps(BTreeMap<ShardId, LookUp>);

#[derive(Debug)]
struct LookUp {
    count: u32,
    next: Instant,
}

impl ChildLookUps {
    /// Returns the shards whose children are to be looked up at `now`, when the group has `leases`.
    /// The instance that consumed a shard has the time `delay` before the first look-up, and as
    /// long is the pause after it. The pause doubles with every look-up.
    pub fn due(&mut self, leases: &[Lease], delay: Duration, now: Instant) -> Vec<ShardId> {
        let parents = leases.iter().filter_map(|lease| lease.parent.as_ref());
        let parents: BTreeSet<_> = parents.collect();
        let is_childless = |lease: &&Lease| {
            lease.state == LeaseState::Ended
                && lease.unlisted_at.is_none()
                && !parents.contains(&lease.shard)
        };
        let mut before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for lease in leases.iter().filter(is_childless) {
            let mut look_up = before.remove(&lease.shard).unwrap_or(LookUp {
                count: 0,
                next: now + delay,
            });
            if look_up.count < MAX_LOOK_UPS && look_up.next <= now {
                look_up.next = now + delay * 2_u32.pow(look_up.count);
                look_up.count += 1;
                due.push(lease.shard.clone());
            }
            self.0.insert(lease.shard.clone(), look_up);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use outbox::timestamp::Timestamp;

    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    fn id(name: &str) -> ShardId {
        ShardId(name.into())
    }

    fn consumed(name: &str) -> Lease {
        Lease {
            state: LeaseState::Ended,
            ..Lease::unread(id(name), None)
        }
    }

    /// Returns the times, in milliseconds, at which polls every 50 ms look up children.
    fn look_ups(leases: &[Lease], until: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut look_ups = ChildLookUps::default();
        let polls = (0..=until).step_by(50);
        polls
            .filter(|at| {
                let now = start + Duration::from_millis(*at);
                !look_ups.due(leases, DELAY, now).is_empty()
            })
            .collect()
    }

    #[test]
    fn consumed_shards_without_a_child_are_looked_up_at_growing_intervals_and_a_bounded_number_of_times()
     {
        let times = look_ups(&[consumed("a")], 100_000);
        assert_eq!(times, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000]);
    }

    #[test]
    fn shards_that_are_open_or_have_a_child_or_are_deleted_are_not_looked_up() {
        let open = Lease::unread(id("open"), None);
        let child = Lease::unread(id("child"), Some(id("parent")));
        let deleted = Lease {
            unlisted_at: Some(Timestamp::from_millis(1)),
            ..consumed("deleted")
        };
        let leases = [open, consumed("parent"), child, deleted];
        assert!(look_ups(&leases, 10_000).is_empty());
    }

    #[test]
    fn a_shard_is_not_remembered_after_its_child_has_a_lease() {
        let start = Instant::now();
        let mut look_ups = ChildLookUps::default();
        let parent = consumed("a");
        assert!(
            look_ups
                .due(std::slice::from_ref(&parent), DELAY, start)
                .is_empty()
        );
        let child = Lease::unread(id("b"), Some(id("a")));
        let later = start + DELAY;
        assert!(look_ups.due(&[parent, child], DELAY, later).is_empty());
        assert!(look_ups.0.is_empty());
    }
}
