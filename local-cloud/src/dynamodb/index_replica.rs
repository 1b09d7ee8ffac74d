//! Eventually consistent indexes. dynoxide updates its indexes with their table; DynamoDB updates
//! them some time later. A second database, the replica, receives every change of a table with
//! indexes when the delay has passed, and answers the queries of indexes meanwhile.
//!
//! The replica receives images instead of requests: after a write, the item is read and queued.
//! Both happen under one lock, so the last image that is queued for an item is its latest one, in
//! whatever order concurrent writes return.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynoxide::actions::delete_item::DeleteItemRequest;
use dynoxide::actions::get_item::GetItemRequest;
use dynoxide::actions::put_item::PutItemRequest;
use dynoxide::errors::DynoxideError;
use dynoxide::{Database, Item};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::written_items::WrittenItem;

/// The database with delayed indexes, and the changes that it has not received yet.
pub(super) struct IndexReplica {
    source: Database,
    replica: Database,
    // Held while an item is read, for some ten microseconds, and never on an async thread.
    pending: Mutex<VecDeque<Change>>,
    queued: Notify,
    /// Held while changes are applied, so that they are applied in their order.
    applying: Mutex<()>,
}

/// A change of an item at the time when it was made.
struct Change {
    at: Instant,
    table: String,
    key: Item,
    /// `None` if the item was deleted.
    image: Option<Item>,
}

impl IndexReplica {
    pub(super) fn new(source: Database, replica: Database) -> Self {
        Self {
            source,
            replica,
            pending: Mutex::default(),
            queued: Notify::new(),
            applying: Mutex::default(),
        }
    }

    /// Queues the present images of items that may have changed.
    pub(super) async fn changed(self: &Arc<Self>, items: &[Option<WrittenItem>]) {
        let items: Vec<_> = items
            .iter()
            .flatten()
            .filter(|item| !item.schema.indexes.is_empty())
            .map(|item| (item.schema.name.clone(), item.key.clone()))
            .collect();
        if items.is_empty() {
            return;
        }
        let replica = Arc::clone(self);
        let queued = tokio::task::spawn_blocking(move || {
            let mut pending = replica.pending();
            for (table, key) in items {
                let image = match read(&replica.source, &table, &key) {
                    Ok(image) => image,
                    Err(error) => {
                        tracing::warn!(%error, table, "an index does not receive a change");
                        continue;
                    }
                };
                pending.push_back(Change {
                    at: Instant::now(),
                    table,
                    key,
                    image,
                });
            }
        });
        if let Err(error) = queued.await {
            tracing::error!(%error, "queueing a change of an index panicked");
        }
        self.queued.notify_one();
    }

    /// Deletes expired items, which are not queued, after they were deleted from their tables. The
    /// changes before that are applied first, so that none of them brings an item back.
    pub(super) fn sweep_ttl(&self) -> Result<usize, DynoxideError> {
        self.apply_until(Some(Instant::now()));
        self.replica.sweep_ttl()
    }

    /// Applies each change once it is older than the delay; never returns.
    pub(super) async fn apply(self: Arc<Self>, delay: impl Fn() -> Duration) {
        loop {
            let Some(next) = self.pending_since().await else {
                self.queued.notified().await;
                continue;
            };
            tokio::time::sleep_until(next + delay()).await;
            // The delay may have been changed.
            let due = Instant::now().checked_sub(delay());
            let replica = Arc::clone(&self);
            let applied = tokio::task::spawn_blocking(move || replica.apply_until(due));
            if let Err(error) = applied.await {
                tracing::error!(%error, "updating an index panicked");
            }
        }
    }

    /// Returns the time of the oldest change that is not applied.
    async fn pending_since(self: &Arc<Self>) -> Option<Instant> {
        let replica = Arc::clone(self);
        // The lock may be held while an item is read.
        let oldest =
            tokio::task::spawn_blocking(move || replica.pending().front().map(|change| change.at));
        oldest.await.ok().flatten()
    }

    fn apply_until(&self, due: Option<Instant>) {
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let change = {
                let mut pending = self.pending();
                match pending.front() {
                    Some(change) if Some(change.at) <= due => pending.pop_front(),
                    _ => None,
                }
            };
            let Some(change) = change else { return };
            let table = change.table.clone();
            if let Err(error) = self.apply_one(change) {
                // Such as a table that was deleted meanwhile.
                tracing::debug!(%error, table, "a change of an index was not applied");
            }
        }
    }

    fn apply_one(&self, change: Change) -> Result<(), DynoxideError> {
        let Change {
            table: table_name,
            key,
            image,
            ..
        } = change;
        match image {
            Some(item) => {
                let put = PutItemRequest {
                    table_name,
                    item,
                    ..PutItemRequest::default()
                };
                self.replica.put_item(put).map(drop)
            }
            None => {
                let delete = DeleteItemRequest {
                    table_name,
                    key,
                    ..DeleteItemRequest::default()
                };
                self.replica.delete_item(delete).map(drop)
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an item, strongly consistent.
pub(super) fn read(
    database: &Database,
    table: &str,
    key: &Item,
) -> Result<Option<Item>, DynoxideError> {
    let get = GetItemRequest {
        table_name: table.to_owned(),
        key: key.clone(),
        consistent_read: Some(true),
        ..GetItemRequest::default()
    };
    Ok(database.get_item(get)?.item)
}
