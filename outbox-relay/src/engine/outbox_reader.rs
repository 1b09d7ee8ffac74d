//! Reads the outbox table, retrying until it answers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outbox::Status;
use tokio::time::Instant;

use super::health::status::EngineStatus;
use super::health::table_health::TableOperation;
use crate::policy::backoff;
use crate::ports::{EventKey, Item, OutboxTable, PendingCursor, PendingPage, TableError};

/// Maximum number of keys in one look-up. DynamoDB: keys of a `BatchGetItem`.
const MAX_KEYS: usize = 100;

/// Outbox table as the takeover filter, the sequence gate and the sweeper read it. Failures are
/// reported to health until a request succeeds.
pub(crate) struct OutboxReader {
    table: Arc<dyn OutboxTable>,
    status: EngineStatus,
    random: fastrand::Rng,
}

/// Statuses of some events, as the table returned them.
#[derive(Debug, Default)]
pub(crate) struct EventStatuses(HashMap<EventKey, Option<Status>>);

impl EventStatuses {
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns `true` if the event was looked up.
    pub(crate) fn contains(&self, key: &EventKey) -> bool {
        self.0.contains_key(key)
    }

    /// Returns `true` if the event is published, quarantined or discarded.
    pub(crate) fn is_settled(&self, key: &EventKey) -> bool {
        matches!(
            self.0.get(key),
            Some(Some(Status::Published | Status::Failed | Status::Discarded))
        )
    }

    /// Returns `true` if the event is published. Every event before it is published as well.
    pub(crate) fn is_published(&self, key: &EventKey) -> bool {
        self.0.get(key) == Some(&Some(Status::Published))
    }

    /// Returns `true` if the event was looked up and is not pending. If it is quarantined or
    /// deleted, events before it may still be pending.
    pub(crate) fn is_not_pending(&self, key: &EventKey) -> bool {
        self.0
            .get(key)
            .is_some_and(|status| *status != Some(Status::Pending))
    }

    pub(crate) fn is_pending(&self, key: &EventKey) -> bool {
        self.0.get(key) == Some(&Some(Status::Pending))
    }
}

impl OutboxReader {
    pub(crate) fn new(
        table: Arc<dyn OutboxTable>,
        status: EngineStatus,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            table,
            status,
            random,
        }
    }

    /// Looks up the statuses of events.
    pub(crate) async fn statuses(&mut self, keys: BTreeSet<EventKey>) -> EventStatuses {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut known = HashMap::new();
        for keys in keys.chunks(MAX_KEYS) {
            let table = Arc::clone(&self.table);
            let statuses = self
                .retry_until_ok(TableOperation::LookUp, || table.statuses(keys))
                .await;
            known.extend(keys.iter().cloned().zip(statuses));
        }
        EventStatuses(known)
    }

    /// Reads a page of the pending index. The index lags behind the table.
    pub(crate) async fn pending(&mut self, bucket: u32, after: Option<&Item>) -> PendingPage {
        let table = Arc::clone(&self.table);
        self.retry_until_ok(TableOperation::FindPending, || {
            table.pending(bucket, after.cloned().map(PendingCursor))
        })
        .await
    }

    /// Reads pending items of one aggregate with sequences from `first` to `last`, in order.
    pub(crate) async fn pending_between(
        &mut self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Vec<Item> {
        let table = Arc::clone(&self.table);
        self.retry_until_ok(TableOperation::FindPending, || {
            table.pending_between(aggregate_id, first, last)
        })
        .await
    }

    async fn retry_until_ok<T, F>(
        &mut self,
        operation: TableOperation,
        mut request: impl FnMut() -> F,
    ) -> T
    where
        F: Future<Output = Result<T, TableError>>,
    {
        let mut monitor = self.status.monitor(operation);
        let mut failures = 0;
        loop {
            match request().await {
                Ok(answer) => return answer,
                Err(error) => {
                    failures += 1;
                    monitor.record_failure(error.to_string(), Instant::now());
                    let delay = backoff::delay(failures, self.random.f64());
                    tracing::warn!(
                        %error,
                        failures,
                        "outbox table request failed; retrying in {} ms",
                        delay.as_millis()
                    );
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}
