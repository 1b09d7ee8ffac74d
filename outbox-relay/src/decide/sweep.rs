//! What the sweeper may publish (rule 12): pending events that the stream
//! readers have passed, and so will never bring.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::timestamp::Timestamp;

use crate::ports::{Lease, LeaseState, Shard};

/// Until when every listed shard is done: the least of their low-water marks.
/// `None` while one of them has not been read at all, or none is listed.
pub fn low_water(shards: &[Shard], leases: &[Lease]) -> Option<Timestamp> {
    let by_shard: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    // A stream whose shards are all ended has nothing left to bring.
    let mut least = Timestamp::from_millis(i64::MAX);
    for shard in shards {
        let lease = by_shard.get(&shard.id)?;
        if lease.state == LeaseState::Open {
            least = least.min(lease.passed?);
        }
    }
    (!shards.is_empty()).then_some(least)
}

/// Whether a pending event is overdue. `occurred_at` is its writer's word; it
/// may be committed a while later, so readers count as past it only once they
/// are past it by `after`, the same time that it must be old. A relay that is
/// merely behind is so never overtaken by its own sweeper.
pub fn is_overdue(
    occurred_at: Option<Timestamp>,
    now: Timestamp,
    after: Duration,
    low_water: Timestamp,
) -> bool {
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    // Who knows when that was: wait until readers are about at the tip.
    let occurred_at = occurred_at.map_or_else(
        || now.as_millis().saturating_sub(2 * after),
        Timestamp::as_millis,
    );
    let due = occurred_at.saturating_add(after);
    now.as_millis() >= due && low_water.as_millis() >= due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ShardId;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn shard(name: &str) -> Shard {
        Shard {
            id: ShardId(name.into()),
            parent: None,
        }
    }

    fn lease(name: &str, passed: Option<Timestamp>) -> Lease {
        Lease {
            passed,
            ..Lease::unread(ShardId(name.into()), None)
        }
    }

    #[test]
    fn the_slowest_shard_sets_the_low_water_mark() {
        let shards = [shard("a"), shard("b")];
        let mut leases = [lease("a", Some(at(9))), lease("b", Some(at(5)))];
        assert_eq!(low_water(&shards, &leases), Some(at(5)));
        leases[1].state = LeaseState::Ended;
        assert_eq!(low_water(&shards, &leases), Some(at(9)));
        leases[0].passed = None;
        assert_eq!(low_water(&shards, &leases), None);
    }

    #[test]
    fn a_shard_that_nobody_knows_stops_the_sweeper() {
        let leases = [lease("a", Some(at(9)))];
        assert_eq!(low_water(&[shard("a"), shard("new")], &leases), None);
        assert_eq!(low_water(&[], &leases), None);
    }

    #[test]
    fn an_event_is_overdue_when_it_is_old_and_passed() {
        let overdue = |occurred, now, low| {
            is_overdue(
                Some(at(occurred)),
                at(now),
                Duration::from_secs(60),
                at(low),
            )
        };
        assert!(overdue(100, 160, 160));
        assert!(!overdue(100, 159, 160), "too young");
        assert!(!overdue(100, 500, 159), "a relay behind is not overtaken");
    }

    #[test]
    fn an_event_without_a_time_waits_for_readers_at_the_tip() {
        let overdue = |low| is_overdue(None, at(1000), Duration::from_secs(60), at(low));
        assert!(overdue(940));
        assert!(!overdue(939));
    }
}
