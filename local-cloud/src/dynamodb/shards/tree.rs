//! The shards of one stream: their lineage, hash ranges and bounds. Plain data without clock or
//! database.
//!
//! Sequence numbers are those of the database. A shard contains the records of its hash range from
//! its first sequence number up to its end. The hash ranges of the open shards divide the whole
//! range, and so do the shards of any earlier time, so every record is in exactly one shard.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

/// Sequence number of the first record that a new stream can have.
pub(super) const FIRST: i64 = 1;

/// Microseconds since the epoch.
pub(super) type Micros = i64;

/// One shard.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) parent: Option<String>,
    hashes: RangeInclusive<u64>,
    /// Lowest sequence number that its records can have.
    pub(super) start: i64,
    /// Sequence numbers are times, so that no record of the shard has a lower one.
    pub(super) opened_at: Micros,
    pub(super) end: Option<End>,
}

/// End of a closed shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// Highest sequence number that its records can have. Lower than the start if the shard was
    /// closed before any record was written.
    pub(super) last: i64,
    closed_at: Micros,
}

impl Shard {
    /// Returns `true` if the records of this partition key belong to the shard.
    pub(super) fn contains_key(&self, partition_key: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        partition_key.hash(&mut hasher);
        self.hashes.contains(&hasher.finish())
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Returns the ending sequence number of a closed shard. It is never below the starting one,
    /// even without records.
    pub(super) fn ending(&self) -> Option<i64> {
        self.end.map(|end| end.last.max(self.start))
    }

    /// Returns `true` if it has no readable record and is not listed any more.
    fn is_trimmed(&self, horizon: Horizon) -> bool {
        let ending = self.ending();
        ending.is_some_and(|ending| ending < horizon.by_request)
            || self.end.is_some_and(|end| end.closed_at < horizon.by_age)
    }
}

/// Trim horizon: the lowest sequence number that can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    by_request: i64,
    /// Of the records that are too old. Sequence numbers are microseconds since the epoch, unless
    /// there is more than one record in a microsecond.
    by_age: Micros,
}

impl Horizon {
    pub(super) fn first(self) -> i64 {
        self.by_request.max(self.by_age)
    }
}

/// Number of children of a shard that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Children {
    /// The child has the hash range of its parent, as after the four hours after which DynamoDB
    /// closes every shard.
    One,
    /// The hash range is divided in halves, as after a partition split.
    Two,
}

/// All shards of a stream, except those whose records were trimmed long ago.
#[derive(Debug)]
pub(super) struct ShardTree {
    /// By shard id. An id begins with the time of its creation, so parents precede their children.
    shards: BTreeMap<String, Shard>,
    /// Trim horizon by request: the lowest sequence number that can be read.
    horizon: i64,
    /// Number in the last shard id.
    last_id: i64,
}

impl ShardTree {
    /// Returns a tree of `roots` open shards.
    pub(super) fn new(roots: u32, now: Micros) -> Self {
        let mut tree = Self {
            shards: BTreeMap::new(),
            horizon: FIRST,
            last_id: 0,
        };
        let width = u64::MAX / u64::from(roots.max(1));
        for root in 0..u64::from(roots.max(1)) {
            let is_last = root + 1 == u64::from(roots.max(1));
            let to = if is_last {
                u64::MAX
            } else {
                (root + 1) * width - 1
            };
            tree.open(None, root * width..=to, FIRST, now);
        }
        tree
    }

    /// Closes the open shard `id` after the record `last`, the current end of the stream, and opens
    /// its children. Returns their ids, or `None` if there is no such open shard. A hash range of a
    /// single value is not divided.
    pub(super) fn close(
        &mut self,
        id: &str,
        children: Children,
        last: i64,
        now: Micros,
    ) -> Option<Vec<String>> {
        let shard = self.shards.get_mut(id).filter(|shard| shard.is_open())?;
        let end = End {
            last: last.max(shard.start - 1),
            closed_at: now,
        };
        shard.end = Some(end);
        let (from, to) = shard.hashes.clone().into_inner();
        let middle = from + (to - from) / 2;
        let ranges = match children {
            Children::Two if from < to => vec![from..=middle, middle + 1..=to],
            _ => vec![from..=to],
        };
        let open = |range| self.open(Some(id.to_owned()), range, end.last + 1, now);
        Some(ranges.into_iter().map(open).collect())
    }

    fn open(
        &mut self,
        parent: Option<String>,
        hashes: RangeInclusive<u64>,
        start: i64,
        now: Micros,
    ) -> String {
        self.last_id = (now / 1_000).max(self.last_id + 1);
        let mut hasher = DefaultHasher::new();
        (self.last_id, start).hash(&mut hasher);
        let id = format!("shardId-{:020}-{:08x}", self.last_id, hasher.finish() >> 32);
        let shard = Shard {
            parent,
            hashes,
            start,
            opened_at: now,
            end: None,
        };
        self.shards.insert(id.clone(), shard);
        id
    }

    /// Moves the trim horizon forward: records before `first` cannot be read any more.
    pub(super) fn trim_before(&mut self, first: i64) {
        self.horizon = self.horizon.max(first);
    }

    /// Returns the trim horizon. `by_age` is the time before which records are too old.
    pub(super) fn horizon(&self, by_age: Micros) -> Horizon {
        Horizon {
            by_request: self.horizon,
            by_age,
        }
    }

    /// Forgets the shards that have no readable record and were closed before `closed_before`, the
    /// time before which no reader can have an iterator.
    pub(super) fn prune(&mut self, horizon: Horizon, closed_before: Micros) {
        self.shards.retain(|_, shard| {
            !shard.is_trimmed(horizon) || shard.end.is_some_and(|end| end.closed_at > closed_before)
        });
    }

    /// Returns a shard, also one that is not listed any more.
    pub(super) fn get(&self, id: &str) -> Option<&Shard> {
        self.shards.get(id)
    }

    /// Returns the shards with readable records and the open ones, in the order of their ids.
    pub(super) fn listed(&self, horizon: Horizon) -> impl Iterator<Item = (&str, &Shard)> {
        let shards = self.shards.iter();
        shards
            .filter(move |(_, shard)| !shard.is_trimmed(horizon))
            .map(|(id, shard)| (id.as_str(), shard))
    }

    /// Returns the ids of the open shards, the oldest one first.
    pub(super) fn open_shards(&self) -> Vec<String> {
        let shards = self.shards.iter().filter(|(_, shard)| shard.is_open());
        shards.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = 1_700_000_000_000_000;

    fn owners(tree: &ShardTree, key: &str) -> Vec<String> {
        let open = tree.open_shards();
        let contains = |id: &String| tree.get(id).unwrap().contains_key(key);
        open.into_iter().filter(contains).collect()
    }

    #[test]
    fn each_key_is_in_one_open_shard_whatever_was_split() {
        for roots in 1..=7 {
            let mut tree = ShardTree::new(roots, NOW);
            for step in 0..20 {
                let open = tree.open_shards();
                let id = &open[step * 7 % open.len()];
                tree.close(id, Children::Two, NOW, NOW).unwrap();
                for key in 0..100 {
                    assert_eq!(owners(&tree, &key.to_string()).len(), 1);
                }
            }
        }
    }

    #[test]
    fn children_begin_after_their_parent_and_sort_after_it() {
        let mut tree = ShardTree::new(1, NOW);
        let root = tree.open_shards().remove(0);
        let children = tree.close(&root, Children::Two, 500, NOW - 10_000).unwrap();
        assert_eq!(children.len(), 2);
        for id in &children {
            assert!(*id > root);
            let child = tree.get(id).unwrap();
            assert_eq!(child.parent.as_deref(), Some(root.as_str()));
            assert_eq!((child.start, child.ending()), (501, None));
        }
        assert_eq!(tree.get(&root).unwrap().ending(), Some(500));
        assert_eq!(tree.close(&root, Children::One, 600, NOW), None);
    }

    #[test]
    fn shard_ids_have_the_form_of_dynamodb() {
        let tree = ShardTree::new(1, NOW);
        let id = tree.open_shards().remove(0);
        assert!(id.starts_with("shardId-00000001700000000000-"), "{id}");
        assert_eq!(id.len(), 37);
    }

    #[test]
    fn shard_without_records_ends_where_it_starts() {
        let mut tree = ShardTree::new(1, NOW);
        let root = tree.open_shards().remove(0);
        let child = tree.close(&root, Children::One, 0, NOW).unwrap().remove(0);
        let grandchild = tree.close(&child, Children::One, 0, NOW).unwrap().remove(0);
        for id in [root, child] {
            let shard = tree.get(&id).unwrap();
            assert_eq!((shard.start, shard.ending()), (FIRST, Some(FIRST)));
        }
        // No record is skipped.
        assert_eq!(tree.get(&grandchild).unwrap().start, FIRST);
    }

    #[test]
    fn parents_leave_the_listing_before_their_children() {
        let mut tree = ShardTree::new(1, NOW);
        let root = tree.open_shards().remove(0);
        let child = tree.close(&root, Children::One, 10, NOW).unwrap().remove(0);
        let last = tree
            .close(&child, Children::One, 20, NOW)
            .unwrap()
            .remove(0);
        let listed = |tree: &ShardTree, by_age| -> Vec<_> {
            let listed = tree.listed(tree.horizon(by_age));
            listed.map(|(id, _)| id.to_owned()).collect()
        };
        for (first, expected) in [
            (10, vec![&root, &child, &last]),
            (11, vec![&child, &last]),
            (21, vec![&last]),
        ] {
            tree.trim_before(first);
            assert!(listed(&tree, 0).iter().eq(expected), "{first}");
        }
        let horizon = tree.horizon(0);
        tree.prune(horizon, NOW - 1);
        assert!(tree.get(&root).is_some(), "it may have an iterator");
        tree.prune(horizon, NOW);
        assert!(tree.get(&root).is_none() && tree.get(&last).is_some());
    }

    #[test]
    fn closed_shard_is_listed_until_its_end_is_too_old() {
        let mut tree = ShardTree::new(1, NOW);
        let root = tree.open_shards().remove(0);
        tree.close(&root, Children::One, 0, NOW).unwrap();
        assert_eq!(tree.listed(tree.horizon(NOW)).count(), 2);
        assert_eq!(tree.listed(tree.horizon(NOW + 1)).count(), 1);
    }

    #[test]
    fn horizon_never_moves_back() {
        let mut tree = ShardTree::new(1, NOW);
        tree.trim_before(10);
        tree.trim_before(5);
        assert_eq!(tree.horizon(3).first(), 10);
        assert_eq!(tree.horizon(12).first(), 12);
    }
}
