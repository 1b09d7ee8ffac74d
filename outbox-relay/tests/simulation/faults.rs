//! Faults that were injected in a run.

use std::collections::BTreeMap;

/// Number of occurrences of each kind of fault, and number of runs with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(BTreeMap<&'static str, (u64, u64)>);

impl Faults {
    /// Every kind of fault, so that a kind that never occurs is noticed.
    const KINDS: &[&str] = &[
        "crash",
        "freeze",
        "graceful stop",
        "shard split",
        "reversed transaction",
        "records trimmed",
        "shard trimmed",
        "stream re-created",
        "no child filter",
        "shard listed late",
        "listing throttled",
        "read throttled",
        "lease write throttled",
        "late effect",
        "lister dies",
        "slow queue",
        "message deduplicated",
        "stream unavailable",
        "expired iterator",
        "empty page",
        "send failed",
        "send answer lost",
        "entry failed",
        "mark failed",
        "mark answer lost",
        "defer failed",
        "defer answer lost",
        "lease write failed",
        "lease answer lost",
        "lookup failed",
        "queue unavailable",
        "queue fails",
        "send throttled",
        "malformed event",
        "refused event",
        "batch refused",
        "quarantine failed",
        "quarantine answer lost",
        "event deleted",
        "event retried",
        "event retried at once",
        "event replayed",
        "event discarded",
        "pending event discarded",
        "sweep requested",
        "burst of events",
        "old occurrence",
        "future occurrence",
        "index lag",
        "stream lag",
        "request outlives its sender",
    ];

    pub(crate) fn note(&mut self, kind: &'static str) {
        assert!(Self::KINDS.contains(&kind), "{kind} is not listed");
        let (count, runs) = self.0.entry(kind).or_default();
        *count += 1;
        *runs = 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, (count, runs)) in &other.0 {
            let sum = self.0.entry(kind).or_default();
            sum.0 += count;
            sum.1 += runs;
        }
    }

    pub(crate) fn table(&self) -> Vec<(&'static str, u64, u64)> {
        Self::KINDS
            .iter()
            .map(|&kind| {
                let (count, runs) = self.0.get(kind).copied().unwrap_or_default();
                (kind, count, runs)
            })
            .collect()
    }
}
