//! Candidates of a lost-event sweep.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ports::EventKey;

/// Maximum number of candidates of one sweep. Further ones are found by the next.
const MAX_CANDIDATES: usize = 20_000;

/// Pending events by the hash of their key. Two events with the same hash cost at most a repeat.
pub(super) struct Candidates {
    hashes: HashSet<u64>,
    /// Maximum number for each bucket, so that a backlog in one leaves capacity for the others.
    part: usize,
    is_full: bool,
}

/// Number of candidates of one bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Collected(usize);

impl Candidates {
    /// Creates an empty set for the events of `buckets` buckets.
    pub(super) fn new(buckets: usize) -> Self {
        Self {
            hashes: HashSet::new(),
            part: (MAX_CANDIDATES / buckets.max(1)).max(1),
            is_full: false,
        }
    }

    /// Adds an event of the bucket of which `collected` were added, if there is capacity.
    pub(super) fn insert(&mut self, key: &EventKey, collected: &mut Collected) {
        if !self.has_capacity(*collected) {
            self.is_full = true;
        } else if self.hashes.insert(hash(key)) {
            collected.0 += 1;
        }
    }

    /// Returns `true` if there is capacity for more events of the bucket of which `collected` were
    /// added.
    pub(super) const fn has_capacity(&self, collected: Collected) -> bool {
        collected.0 < self.part
    }

    pub(super) fn contains(&self, key: &EventKey) -> bool {
        self.hashes.contains(&hash(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Returns `true` if there was no capacity for some event.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }
}

fn hash(key: &EventKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> EventKey {
        EventKey {
            aggregate_id: format!("a-{n}"),
            sequence: "1".to_owned(),
        }
    }

    #[test]
    fn a_backlog_in_one_bucket_leaves_capacity_for_the_others() {
        let mut candidates = Candidates::new(4);
        let mut collected = Collected::default();
        for n in 0..MAX_CANDIDATES {
            candidates.insert(&key(n), &mut collected);
        }
        assert!(candidates.is_full());
        assert!(!candidates.has_capacity(collected));
        assert!(candidates.contains(&key(MAX_CANDIDATES / 4 - 1)));
        assert!(!candidates.contains(&key(MAX_CANDIDATES / 4)));
        candidates.insert(&key(MAX_CANDIDATES), &mut Collected::default());
        assert!(candidates.contains(&key(MAX_CANDIDATES)));
    }
}
