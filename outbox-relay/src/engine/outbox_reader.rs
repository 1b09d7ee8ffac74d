//! Reads the outbox table, retrying until it answers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use outbox::Status;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::buffer_budget::BufferBudget;
use super::context::ShardContext;
use super::health::status::EngineStatus;
use super::health::table_health::TableOperation;
use crate::policy::backoff;
use crate::policy::record_classifier::Event;
use crate::ports::{
    EarlierEvent, EventKey, Item, OutboxTable, PendingCursor, PendingPage, StoredStatus, TableError,
};

/// Maximum number of keys in one look-up. DynamoDB: keys of a `BatchGetItem`.
const MAX_KEYS: usize = 100;

/// Maximum number of look-ups in flight for one page: its 1,000 events and their predecessors are
/// up to 20 of them.
const MAX_REQUESTS: usize = 4;

/// Outbox table as the takeover filter, the sequence gate and the sweeper read it. Failures are
/// reported to health until a request succeeds.
pub(crate) struct OutboxReader {
    table: Arc<dyn OutboxTable>,
    status: EngineStatus,
    budget: BufferBudget,
    random: Mutex<fastrand::Rng>,
    /// Time of the successful requests since it was taken.
    reading_time: Mutex<Duration>,
}

/// Statuses of some events, as the table returned them.
#[derive(Debug, Default)]
pub(crate) struct EventStatuses(HashMap<EventKey, Option<StoredStatus>>);

impl EventStatuses {
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Records that an event was deferred since it was looked up.
    pub(crate) fn record_deferred(&mut self, key: &EventKey) {
        let deferred = StoredStatus {
            status: Status::Pending,
            is_deferred: true,
            replays: self.of(key).map_or(0, |stored| stored.replays),
        };
        self.0.insert(key.clone(), Some(deferred));
    }

    /// Returns `true` if the event was looked up.
    pub(crate) fn contains(&self, key: &EventKey) -> bool {
        self.0.contains_key(key)
    }

    /// Returns the status of the event; `None` if it was not looked up, does not exist or is
    /// malformed.
    pub(crate) fn of(&self, key: &EventKey) -> Option<StoredStatus> {
        self.0.get(key).copied().flatten()
    }

    /// Returns `true` if the event was looked up and the stream path must not send it: it is
    /// published, quarantined, discarded, deferred, or deleted, or it was published and replayed
    /// since `event` was read. The table path publishes the replay.
    pub(crate) fn is_settled(&self, event: &Event) -> bool {
        let replays = event.generation.replays.unwrap_or_default();
        self.contains(&event.key)
            && self.of(&event.key).is_none_or(|stored| {
                stored.status != Status::Pending || stored.is_deferred || stored.replays > replays
            })
    }

    /// Returns `true` if the event is published. Every event before it is published as well.
    pub(crate) fn is_published(&self, key: &EventKey) -> bool {
        self.of(key)
            .is_some_and(|stored| stored.status == Status::Published)
    }

    /// Returns `true` if the event is quarantined.
    pub(crate) fn is_failed(&self, key: &EventKey) -> bool {
        self.of(key)
            .is_some_and(|stored| stored.status == Status::Failed)
    }

    /// Returns `true` if the event is pending and deferred.
    pub(crate) fn is_deferred(&self, key: &EventKey) -> bool {
        self.of(key)
            .is_some_and(|stored| stored.status == Status::Pending && stored.is_deferred)
    }
}

impl OutboxReader {
    pub(crate) fn new(ctx: &ShardContext, random: fastrand::Rng) -> Self {
        Self {
            table: Arc::clone(&ctx.ports.outbox),
            status: ctx.status.clone(),
            budget: ctx.budget.clone(),
            random: Mutex::new(random),
            reading_time: Mutex::default(),
        }
    }

    /// Looks up the statuses of events.
    pub(crate) async fn statuses(&self, keys: BTreeSet<EventKey>) -> EventStatuses {
        let keys: Vec<_> = keys.into_iter().collect();
        let requests: Vec<_> = keys
            .chunks(MAX_KEYS)
            .map(|keys| async move {
                let request = || self.table.statuses(keys);
                let statuses = self.retry_until_ok(TableOperation::LookUp, request).await;
                keys.iter().cloned().zip(statuses).collect::<Vec<_>>()
            })
            .collect();
        let known = stream::iter(requests).buffered(MAX_REQUESTS).concat().await;
        EventStatuses(known.into_iter().collect())
    }

    /// Reads a page of the pending index. The index lags behind the table.
    pub(crate) async fn pending(&self, bucket: u32, after: Option<&PendingCursor>) -> PendingPage {
        let table = Arc::clone(&self.table);
        self.retry_until_ok(TableOperation::FindPending, || {
            table.pending(bucket, after.cloned())
        })
        .await
    }

    /// Reads items. Those that do not exist are left out.
    pub(crate) async fn items(&self, keys: &[EventKey]) -> Vec<Item> {
        let table = Arc::clone(&self.table);
        let mut found = Vec::new();
        for keys in keys.chunks(MAX_KEYS) {
            let items = self
                .retry_until_ok(TableOperation::LookUp, || table.items(keys))
                .await;
            found.extend(items.into_iter().flatten());
        }
        found
    }

    /// Reads up to `limit` events of an aggregate before `sequence`, the latest first.
    pub(crate) async fn latest_before(
        &self,
        aggregate_id: &str,
        sequence: &str,
        limit: usize,
    ) -> Vec<EarlierEvent> {
        let table = Arc::clone(&self.table);
        self.retry_until_ok(TableOperation::FindPending, || {
            table.latest_before(aggregate_id, sequence, limit)
        })
        .await
    }

    /// Returns the time of the successful requests since the last call: not that of failed ones and
    /// their delays.
    pub(crate) fn take_reading_time(&self) -> Duration {
        std::mem::take(&mut *self.reading_time.lock())
    }

    async fn retry_until_ok<T, F>(
        &self,
        operation: TableOperation,
        mut request: impl FnMut() -> F,
    ) -> T
    where
        F: Future<Output = Result<T, TableError>>,
    {
        let mut monitor = self.status.monitor(operation);
        let mut failures = 0;
        loop {
            let permit = self.budget.reserve_look_up().await;
            let requested_at = Instant::now();
            let answer = request().await;
            drop(permit);
            match answer {
                Ok(answer) => {
                    *self.reading_time.lock() += requested_at.elapsed();
                    return answer;
                }
                Err(error) => {
                    failures += 1;
                    monitor.record_failure(error.to_string(), Instant::now());
                    let delay = backoff::delay(failures, self.random.lock().f64());
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
