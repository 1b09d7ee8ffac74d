//! What does not go through at the outbox table, and since when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// What the outbox table is asked to do. Each needs a permission of its own,
/// so each may fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableUse {
    Mark,
    Quarantine,
    LookUp,
    FindPending,
}

impl TableUse {
    pub(crate) const ALL: [Self; 4] = [
        Self::Mark,
        Self::Quarantine,
        Self::LookUp,
        Self::FindPending,
    ];

    /// The name of its check.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mark => "marks",
            Self::Quarantine => "quarantines",
            Self::LookUp => "look-ups",
            Self::FindPending => "pending events",
        }
    }
}

/// All that there is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    failing: BTreeMap<u64, Failing>,
    count: u64,
}

#[derive(Debug)]
struct Failing {
    table_use: TableUse,
    since: Instant,
    reason: String,
}

/// Held by whoever tries something until it goes through. Dropping it ends
/// the trouble, too: what nobody tries any more would stay for ever.
#[derive(Debug)]
pub(crate) struct Trouble {
    troubles: Troubles,
    table_use: TableUse,
    /// `None` while nothing fails.
    number: Option<u64>,
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing fails yet.
    pub(crate) fn new_one(&self, table_use: TableUse) -> Trouble {
        Trouble {
            troubles: self.clone(),
            table_use,
            number: None,
        }
    }

    /// Since when, and why, what has failed for the longest time does.
    pub(crate) fn longest(&self, table_use: TableUse) -> Option<(Instant, String)> {
        self.lock()
            .failing
            .values()
            .filter(|failing| failing.table_use == table_use)
            .min_by_key(|failing| failing.since)
            .map(|failing| (failing.since, failing.reason.clone()))
    }
}

impl Trouble {
    /// It failed, for the first time or again.
    pub(crate) fn because(&mut self, reason: String, now: Instant) {
        let mut known = self.troubles.lock();
        let number = *self.number.get_or_insert_with(|| {
            known.count += 1;
            known.count
        });
        known
            .failing
            .entry(number)
            .or_insert(Failing {
                table_use: self.table_use,
                since: now,
                reason: String::new(),
            })
            .reason = reason;
    }

    pub(crate) fn over(&mut self) {
        if let Some(number) = self.number.take() {
            self.troubles.lock().failing.remove(&number);
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.over();
    }
}
