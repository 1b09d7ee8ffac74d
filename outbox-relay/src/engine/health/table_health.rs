//! Tracks which outbox table operations are failing, and since when.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Kind of operation on the outbox table. Each requires a permission of its own, so each may fail
/// by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableOperation {
    Mark,
    Defer,
    Quarantine,
    LookUp,
    FindPending,
}

impl TableOperation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Mark,
        Self::Defer,
        Self::Quarantine,
        Self::LookUp,
        Self::FindPending,
    ];

    /// Returns the name of the health check.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Mark => "marks",
            Self::Defer => "deferrals",
            Self::Quarantine => "quarantines",
            Self::LookUp => "look-ups",
            Self::FindPending => "pending events",
        }
    }
}

/// Operations of the instance that are currently failing.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableHealth(Arc<Mutex<FailingOperations>>);

#[derive(Debug, Default)]
struct FailingOperations {
    by_number: BTreeMap<u64, FailingOperation>,
    last_number: u64,
}

#[derive(Debug)]
struct FailingOperation {
    operation: TableOperation,
    since: Instant,
    reason: String,
}

/// Reports the failures of one operation that is retried until it succeeds. Dropping it ends the
/// failure as well, since an operation that is no longer retried would be reported indefinitely.
#[derive(Debug)]
pub(crate) struct OperationMonitor {
    health: TableHealth,
    operation: TableOperation,
    /// `None` while the operation does not fail.
    number: Option<u64>,
}

impl TableHealth {
    /// Returns a monitor of an operation that does not fail yet.
    pub(crate) fn monitor(&self, operation: TableOperation) -> OperationMonitor {
        OperationMonitor {
            health: self.clone(),
            operation,
            number: None,
        }
    }

    /// Returns the start of the longest current failure of an operation, and its last reason.
    pub(crate) fn longest_failure(&self, operation: TableOperation) -> Option<(Instant, String)> {
        self.0
            .lock()
            .by_number
            .values()
            .filter(|failing| failing.operation == operation)
            .min_by_key(|failing| failing.since)
            .map(|failing| (failing.since, failing.reason.clone()))
    }
}

impl OperationMonitor {
    /// Records a failure, the first one or a further one.
    pub(crate) fn record_failure(&mut self, reason: String, now: Instant) {
        let mut failing = self.health.0.lock();
        let number = *self.number.get_or_insert_with(|| {
            failing.last_number += 1;
            failing.last_number
        });
        failing
            .by_number
            .entry(number)
            .or_insert(FailingOperation {
                operation: self.operation,
                since: now,
                reason: String::new(),
            })
            .reason = reason;
    }

    pub(crate) fn record_success(&mut self) {
        if let Some(number) = self.number.take() {
            self.health.0.lock().by_number.remove(&number);
        }
    }
}

impl Drop for OperationMonitor {
    fn drop(&mut self) {
        self.record_success();
    }
}
