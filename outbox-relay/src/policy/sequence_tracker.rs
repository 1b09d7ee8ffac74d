//! Tracks which sequences of each aggregate were dispatched (the "per-aggregate order" rule).
//!
//! The stream keeps the order of changes to one item, not the order between items: two events of
//! one aggregate that were written by one transaction may appear in it in reverse order. Hence an
//! event is dispatched only after its predecessor was dispatched or is known to be settled.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::recent_map::RecentMap;

/// Hash of an aggregate's id. Ids may be long, and with 128 bits two of them do not collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AggregateHash(u64, u64);

impl AggregateHash {
    pub fn of(aggregate_id: &str) -> Self {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            aggregate_id.hash(&mut hasher);
            hasher.finish()
        };
        Self(half(0), half(1))
    }
}

/// Minimum number of forgotten aggregates that are remembered as such: more than are forgotten
/// while one event is dispatched.
const MAX_FORGOTTEN: usize = 1_000;

/// Highest dispatched sequence of each of the most recent aggregates of one shard. An event of an
/// aggregate that is no longer remembered costs a look-up of its predecessor in the table.
#[derive(Clone, Debug)]
pub struct SequenceTracker {
    highest: RecentMap<AggregateHash, u64>,
    /// Number of calls of [`Self::forget`].
    forgotten: u64,
    /// That number at the last call for each of the most recent aggregates.
    last_forgotten: RecentMap<AggregateHash, u64>,
}

impl SequenceTracker {
    /// Creates a tracker that remembers at least `capacity` aggregates, and at most twice as many.
    /// Each takes about 50 bytes, whatever the length of its id.
    pub fn new(capacity: usize) -> Self {
        Self {
            highest: RecentMap::new(capacity),
            forgotten: 0,
            last_forgotten: RecentMap::new(MAX_FORGOTTEN),
        }
    }

    /// Changes the capacity.
    pub const fn set_capacity(&mut self, capacity: usize) {
        self.highest.set_capacity(capacity);
    }

    /// Returns `true` if `sequence` is the first of its aggregate, or if its predecessor is
    /// remembered as dispatched.
    pub fn may_follow(&self, aggregate_id: &str, sequence: u64) -> bool {
        sequence <= 1 || self.is_repeat(aggregate_id, sequence - 1)
    }

    /// Returns `true` if this event or a later one of the aggregate was dispatched already.
    pub fn is_repeat(&self, aggregate_id: &str, sequence: u64) -> bool {
        self.highest(aggregate_id)
            .is_some_and(|highest| highest >= sequence)
    }

    fn highest(&self, aggregate_id: &str) -> Option<u64> {
        self.highest.get(&AggregateHash::of(aggregate_id)).copied()
    }

    /// Forgets an aggregate, because dispatched events of it are removed from the scheduler.
    pub fn forget(&mut self, aggregate_id: &str) {
        let aggregate = AggregateHash::of(aggregate_id);
        self.highest.remove(&aggregate);
        self.forgotten += 1;
        self.last_forgotten.insert(aggregate, self.forgotten);
    }

    /// Returns a number that increases when an aggregate is forgotten.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Returns `true` if an aggregate was not forgotten since [`Self::forgotten`] returned `since`,
    /// or `false` if that is no longer known.
    pub fn is_unchanged(&self, aggregate_id: &str, since: u64) -> bool {
        let count = self.forgotten - since;
        let last = self.last_forgotten.get(&AggregateHash::of(aggregate_id));
        usize::try_from(count).is_ok_and(|count| count <= MAX_FORGOTTEN)
            && last.is_none_or(|last| *last <= since)
    }

    /// Records that an event was dispatched.
    pub fn record_dispatched(&mut self, aggregate_id: &str, sequence: u64) {
        let aggregate = AggregateHash::of(aggregate_id);
        let highest = self.highest.get(&aggregate).copied().unwrap_or_default();
        self.highest.insert(aggregate, highest.max(sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_follows_its_predecessor() {
        let mut sequences = SequenceTracker::new(5_000);
        assert!(sequences.may_follow("a", 1));
        assert!(!sequences.may_follow("a", 2));
        sequences.record_dispatched("a", 1);
        assert!(sequences.may_follow("a", 2));
        assert!(!sequences.may_follow("a", 3));
        assert!(!sequences.may_follow("b", 2));
    }

    #[test]
    fn an_event_of_a_forgotten_aggregate_does_not_follow() {
        let mut sequences = SequenceTracker::new(5_000);
        sequences.record_dispatched("a", 1);
        sequences.record_dispatched("b", 1);
        sequences.forget("a");
        assert!(!sequences.may_follow("a", 2));
        assert!(!sequences.is_repeat("a", 1));
        assert!(sequences.may_follow("b", 2));
    }

    #[test]
    fn forgetting_one_aggregate_changes_no_other() {
        let mut sequences = SequenceTracker::new(10);
        sequences.forget("a");
        let since = sequences.forgotten();
        assert!(sequences.is_unchanged("a", since));
        sequences.forget("b");
        assert!(sequences.is_unchanged("a", since));
        assert!(!sequences.is_unchanged("b", since));
        sequences.forget("a");
        assert!(!sequences.is_unchanged("a", since));
        let since = sequences.forgotten();
        for n in 0..=MAX_FORGOTTEN {
            sequences.forget(&n.to_string());
        }
        assert!(!sequences.is_unchanged("never forgotten", since));
        assert!(sequences.is_unchanged("never forgotten", sequences.forgotten()));
    }

    #[test]
    fn a_repeated_event_follows_again() {
        let mut sequences = SequenceTracker::new(5_000);
        sequences.record_dispatched("a", 5);
        sequences.record_dispatched("a", 2);
        assert!(sequences.may_follow("a", 3));
        assert!(sequences.may_follow("a", 6));
        assert!(sequences.is_repeat("a", 5));
        assert!(!sequences.is_repeat("a", 6));
    }

    #[test]
    fn the_most_recent_aggregates_are_remembered() {
        let mut sequences = SequenceTracker::new(5_000);
        for n in 0..100_000 {
            sequences.record_dispatched(&n.to_string(), 1);
        }
        assert!(sequences.may_follow("99999", 2));
        assert!(sequences.may_follow("95001", 2));
        assert!(!sequences.may_follow("0", 2));

        sequences.set_capacity(20_000);
        for n in 0..20_000 {
            sequences.record_dispatched(&n.to_string(), 1);
        }
        assert!(sequences.may_follow("0", 2));
    }
}
