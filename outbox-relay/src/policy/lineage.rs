//! Decides at which position the consumer group starts to read a new shard (the "gap" rule).

use std::collections::{BTreeMap, BTreeSet};

use crate::ports::{Lease, SequenceNumber, Shard, ShardId};

/// Listed shards, and which of their parents the group has begun to read.
#[derive(Debug)]
pub struct Lineage<'a> {
    /// Shards that the group has begun to read, and those whose start it knew before.
    known: BTreeSet<&'a ShardId>,
    /// Parents of the shards without a lease.
    parents: BTreeMap<&'a ShardId, &'a ShardId>,
}

impl<'a> Lineage<'a> {
    pub fn new(listed: &'a [Shard], leases: &'a [Lease]) -> Self {
        let known = leases
            .iter()
            .filter(|lease| lease.epoch > 0 || lease.start.is_some())
            .map(|lease| &lease.shard)
            .collect();
        let leased: BTreeSet<_> = leases.iter().map(|lease| &lease.shard).collect();
        let parents = listed
            .iter()
            .filter(|shard| !leased.contains(&shard.id))
            .filter_map(|shard| Some((&shard.id, shard.parent.as_ref()?)))
            .collect();
        Self { known, parents }
    }

    /// Returns the start of a shard that has no lease yet, if it continues one that the group knew
    /// before. The records of other shards may have been trimmed before the group existed.
    pub fn start_of(&self, shard: &Shard) -> Option<SequenceNumber> {
        let mut parent = shard.parent.as_ref()?;
        // Bounded, whatever the service lists.
        for _ in 0..=self.parents.len() {
            if self.known.contains(parent) {
                return shard.starts_at.clone();
            }
            parent = self.parents.get(parent)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, parent: Option<&str>) -> Shard {
        Shard {
            id: ShardId(name.into()),
            parent: parent.map(|parent| ShardId(parent.into())),
            starts_at: Some(SequenceNumber(format!("start of {name}").into())),
        }
    }

    fn lease(name: &str, epoch: u64) -> Lease {
        Lease {
            epoch,
            ..Lease::unread(ShardId(name.into()), None)
        }
    }

    #[test]
    fn descendants_of_a_shard_that_was_read_have_a_start() {
        let listed = [
            shard("child", Some("read")),
            shard("grandchild", Some("child")),
        ];
        let leases = [lease("read", 1)];
        let lineage = Lineage::new(&listed, &leases);
        for shard in &listed {
            assert_eq!(lineage.start_of(shard), shard.starts_at);
        }
    }

    #[test]
    fn a_child_of_a_shard_whose_start_was_known_has_a_start() {
        let listed = [shard("child", Some("unread"))];
        let leases = [Lease {
            start: Some(SequenceNumber("1".into())),
            ..lease("unread", 0)
        }];
        let lineage = Lineage::new(&listed, &leases);
        assert!(lineage.start_of(&listed[0]).is_some());
    }

    #[test]
    fn shards_of_the_first_listing_of_a_group_have_no_start() {
        let listed = [
            shard("root", None),
            shard("child", Some("root")),
            shard("late", Some("unread")),
            shard("circular", Some("circular")),
        ];
        let leases = [lease("unread", 0)];
        let lineage = Lineage::new(&listed, &leases);
        for shard in &listed {
            assert_eq!(lineage.start_of(shard), None, "{}", shard.id);
        }
    }
}
