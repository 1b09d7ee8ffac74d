//! What the sweeper may publish (rule 12): pending events that the stream
//! readers have passed, and so will never bring.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox::timestamp::Timestamp;

use crate::ports::{Lease, LeaseState, Shard};

/// Until when every listed shard is done: the least of their low-water marks.
/// `None` while one of them has not been read at all, or none is listed.
pub fn low_water(shards: &[Shard], leases: &[Lease]) -> Option<Timestamp> {
    let by_shard: BTreeMap<_, _> = leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let parents: BTreeSet<_> = shards.iter().filter_map(|s| s.parent.as_ref()).collect();
    let mut least = None;
    for shard in shards {
        let lease = by_shard.get(&shard.id)?;
        // A shard that ended speaks through its children, once they are known.
        if lease.state == LeaseState::Open || !parents.contains(&shard.id) {
            let passed = lease.low_watermark?;
            least = Some(least.map_or(passed, |least: Timestamp| least.min(passed)));
        }
    }
    least
}

/// At most so far must readers be past a moment: more than clocks differ and
/// than a record takes to come into the stream.
const MARGIN: Duration = Duration::from_secs(10);

/// Whether readers that are done with everything before `low_water` are past
/// `moment`, by `margin` or 10 seconds, whichever is less.
pub fn is_past(low_water: Timestamp, moment: Timestamp, margin: Duration) -> bool {
    let margin = i64::try_from(margin.min(MARGIN).as_millis()).unwrap_or(i64::MAX);
    low_water.as_millis() >= moment.as_millis().saturating_add(margin)
}

/// Whether a pending event is older than `after`, by its writer's word. One
/// from the future says nothing, nor does one without a time: they count.
pub fn is_old(occurred_at: Option<Timestamp>, now: Timestamp, after: Duration) -> bool {
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    occurred_at.is_none_or(|at| {
        let age = now.as_millis().saturating_sub(at.as_millis());
        age < 0 || age >= after
    })
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
            low_watermark: passed,
            ..Lease::unread(ShardId(name.into()), None)
        }
    }

    #[test]
    fn the_slowest_shard_sets_the_low_water_mark() {
        let shards = [shard("a"), shard("b")];
        let mut leases = [lease("a", Some(at(9))), lease("b", Some(at(5)))];
        assert_eq!(low_water(&shards, &leases), Some(at(5)));
        leases[0].low_watermark = None;
        assert_eq!(low_water(&shards, &leases), None);
    }

    #[test]
    fn a_shard_that_ended_holds_the_mark_until_its_children_are_known() {
        let child = Shard {
            parent: Some(shard("a").id),
            ..shard("b")
        };
        let mut leases = [lease("a", Some(at(5))), lease("b", Some(at(9)))];
        leases[0].state = LeaseState::Ended;
        assert_eq!(low_water(&[shard("a")], &leases), Some(at(5)));
        assert_eq!(low_water(&[shard("a"), child], &leases), Some(at(9)));
    }

    #[test]
    fn a_shard_that_nobody_knows_stops_the_sweeper() {
        let leases = [lease("a", Some(at(9)))];
        assert_eq!(low_water(&[shard("a"), shard("new")], &leases), None);
        assert_eq!(low_water(&[], &leases), None);
    }

    #[test]
    fn readers_are_past_a_moment_by_a_margin() {
        let past = |low_water, margin| is_past(at(low_water), at(100), Duration::from_secs(margin));
        assert!(past(105, 5));
        assert!(!past(104, 5));
        assert!(past(110, 3600));
        assert!(!past(109, 3600));
    }

    #[test]
    fn an_event_from_the_future_is_no_younger_than_others() {
        let old = |occurred_at| is_old(occurred_at, at(1000), Duration::from_secs(60));
        assert!(old(Some(at(940))));
        assert!(!old(Some(at(941))));
        assert!(!old(Some(at(1000))));
        assert!(old(Some(at(1001))));
        assert!(old(None));
    }
}
