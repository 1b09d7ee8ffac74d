//! Whether an event may follow (rule 8, G5).
//!
//! The stream keeps the order of changes to one item, not between items: two
//! events of one aggregate, written by one transaction, can stand in it
//! reversed. So an event may only be handed over when the one before it was,
//! or is known to be settled.

use std::collections::HashMap;

/// Aggregates remembered at least. One that is forgotten costs a look at the
/// table when its next event comes.
const REMEMBERED: usize = 5_000;

/// What was handed over from one shard: the highest sequence of each of the
/// latest aggregates.
#[derive(Clone, Debug, Default)]
pub struct Succession {
    // Two generations: when the young one is full, the old one is forgotten.
    young: HashMap<String, u64>,
    old: HashMap<String, u64>,
}

impl Succession {
    /// Whether the event before `sequence` was handed over, as far as is
    /// remembered.
    pub fn follows(&self, aggregate_id: &str, sequence: u64) -> bool {
        sequence <= 1
            || self
                .last(aggregate_id)
                .is_some_and(|last| last >= sequence - 1)
    }

    /// Whether this event or a later one was handed over: it comes again.
    pub fn is_repeat(&self, aggregate_id: &str, sequence: u64) -> bool {
        self.last(aggregate_id).is_some_and(|last| last >= sequence)
    }

    fn last(&self, aggregate_id: &str) -> Option<u64> {
        [&self.young, &self.old]
            .into_iter()
            .filter_map(|generation| generation.get(aggregate_id).copied())
            .max()
    }

    /// Notes that an event was handed over.
    pub fn handed_over(&mut self, aggregate_id: &str, sequence: u64) {
        if self.young.len() >= REMEMBERED && !self.young.contains_key(aggregate_id) {
            self.old = std::mem::take(&mut self.young);
        }
        let last = self.young.entry(aggregate_id.to_owned()).or_default();
        *last = sequence.max(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_follows_the_one_before_it() {
        let mut succession = Succession::default();
        assert!(succession.follows("a", 1));
        assert!(!succession.follows("a", 2));
        succession.handed_over("a", 1);
        assert!(succession.follows("a", 2));
        assert!(!succession.follows("a", 3));
        assert!(!succession.follows("b", 2));
    }

    #[test]
    fn what_was_handed_over_follows_again() {
        let mut succession = Succession::default();
        succession.handed_over("a", 5);
        succession.handed_over("a", 2);
        assert!(succession.follows("a", 3));
        assert!(succession.follows("a", 6));
        assert!(succession.is_repeat("a", 5));
        assert!(!succession.is_repeat("a", 6));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut succession = Succession::default();
        for n in 0..100_000 {
            succession.handed_over(&n.to_string(), 1);
        }
        assert!(succession.young.len() + succession.old.len() <= 2 * REMEMBERED);
        assert!(succession.follows("99999", 2));
        assert!(succession.follows("95001", 2));
        assert!(!succession.follows("0", 2));
    }
}
