//! Tracks which sequences of each aggregate were dispatched (the "per-aggregate order" rule).
//!
//! The stream keeps the order of changes to one item, not the order between items: two events of
//! one aggregate that were written by one transaction may appear in it in reverse order. Hence an
//! event is dispatched only after its predecessor was dispatched or is known to be settled.

use super::recent_map::RecentMap;

/// Lower bound on the aggregates that are remembered. An event of a forgotten aggregate costs a
/// look-up of its predecessor in the table.
const REMEMBERED: usize = 5_000;

/// Highest dispatched sequence of each of the most recent aggregates of one shard.
#[derive(Clone, Debug)]
pub struct SequenceTracker {
    highest: RecentMap<String, u64>,
    /// Number of calls of [`Self::forget`].
    forgotten: u64,
}

impl Default for SequenceTracker {
    fn default() -> Self {
        Self {
            highest: RecentMap::new(REMEMBERED),
            forgotten: 0,
        }
    }
}

impl SequenceTracker {
    /// Returns `true` if `sequence` is the first of its aggregate, or if its predecessor is
    /// remembered as dispatched.
    pub fn may_follow(&self, aggregate_id: &str, sequence: u64) -> bool {
        sequence <= 1
            || self
                .highest(aggregate_id)
                .is_some_and(|highest| highest >= sequence - 1)
    }

    /// Returns `true` if this event or a later one of the aggregate was dispatched already.
    pub fn is_repeat(&self, aggregate_id: &str, sequence: u64) -> bool {
        self.highest(aggregate_id)
            .is_some_and(|highest| highest >= sequence)
    }

    fn highest(&self, aggregate_id: &str) -> Option<u64> {
        self.highest.get(aggregate_id).copied()
    }

    /// Forgets an aggregate: dispatched events of it were left to the table.
    pub fn forget(&mut self, aggregate_id: &str) {
        self.highest.remove(aggregate_id);
        self.forgotten += 1;
    }

    /// Returns a number that changes when an aggregate is forgotten.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Records that an event was dispatched.
    pub fn record_dispatched(&mut self, aggregate_id: &str, sequence: u64) {
        let highest = self.highest(aggregate_id).unwrap_or_default().max(sequence);
        self.highest.insert(aggregate_id.to_owned(), highest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_follows_its_predecessor() {
        let mut sequences = SequenceTracker::default();
        assert!(sequences.may_follow("a", 1));
        assert!(!sequences.may_follow("a", 2));
        sequences.record_dispatched("a", 1);
        assert!(sequences.may_follow("a", 2));
        assert!(!sequences.may_follow("a", 3));
        assert!(!sequences.may_follow("b", 2));
    }

    #[test]
    fn an_event_of_a_forgotten_aggregate_does_not_follow() {
        let mut sequences = SequenceTracker::default();
        sequences.record_dispatched("a", 1);
        sequences.record_dispatched("b", 1);
        sequences.forget("a");
        assert!(!sequences.may_follow("a", 2));
        assert!(!sequences.is_repeat("a", 1));
        assert!(sequences.may_follow("b", 2));
    }

    #[test]
    fn a_repeated_event_follows_again() {
        let mut sequences = SequenceTracker::default();
        sequences.record_dispatched("a", 5);
        sequences.record_dispatched("a", 2);
        assert!(sequences.may_follow("a", 3));
        assert!(sequences.may_follow("a", 6));
        assert!(sequences.is_repeat("a", 5));
        assert!(!sequences.is_repeat("a", 6));
    }

    #[test]
    fn the_most_recent_aggregates_are_remembered() {
        let mut sequences = SequenceTracker::default();
        for n in 0..100_000 {
            sequences.record_dispatched(&n.to_string(), 1);
        }
        assert!(sequences.may_follow("99999", 2));
        assert!(sequences.may_follow("95001", 2));
        assert!(!sequences.may_follow("0", 2));
    }
}
