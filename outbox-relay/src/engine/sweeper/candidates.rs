//! Candidates of a lost-event sweep.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ports::EventKey;

/// Maximum number of candidates of one sweep. Further ones are found by the next.
const MAX_CANDIDATES: usize = 100_000;

/// Pending events by the hash of their key. Two events with the same hash cost at most a repeat.
#[derive(Default)]
pub(super) struct Candidates(HashSet<u64>);

impl Candidates {
    pub(super) fn insert(&mut self, key: &EventKey) {
        self.0.insert(hash(key));
    }

    pub(super) fn contains(&self, key: &EventKey) -> bool {
        self.0.contains(&hash(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_CANDIDATES
    }
}

fn hash(key: &EventKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
