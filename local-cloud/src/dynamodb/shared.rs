//! State that the connections of all clients share, and the steps before and after each write.

use std::sync::Arc;
use std::time::Instant;

use dynoxide::errors::DynoxideError;
use dynoxide::{Database, Item};

use super::client_request_tokens::ClientRequestTokens;
use super::index_replica::{self, IndexReplica};
use super::item_id::ItemId;
use super::responses::Rejection;
use super::running_transactions::RunningTransactions;
use super::shards::VirtualShards;
use super::table_schemas::TableSchemas;
use super::throttle::{self, Throttle};
use super::written_items::WrittenItem;
use crate::fidelity::{Fidelity, FidelityControl};

pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) tokens: ClientRequestTokens,
    pub(super) schemas: TableSchemas,
    pub(super) running: Arc<RunningTransactions>,
    throttle: Throttle,
    pub(super) fidelity: FidelityControl,
    pub(super) replica: Option<Arc<IndexReplica>>,
    pub(super) shards: Option<Arc<VirtualShards>>,
}

impl Shared {
    pub(super) fn new(
        database: Database,
        fidelity: FidelityControl,
        replica: Option<Arc<IndexReplica>>,
        shards: Option<Arc<VirtualShards>>,
    ) -> Self {
        Self {
            tokens: ClientRequestTokens::default(),
            schemas: TableSchemas::new(database.clone()),
            running: Arc::default(),
            throttle: Throttle::default(),
            database,
            fidelity,
            replica,
            shards,
        }
    }

    /// Returns `true` if the items of a write matter.
    pub(super) fn observes_writes(&self, fidelity: Fidelity) -> bool {
        fidelity.transaction_time.is_some()
            || fidelity.partition_write_units.is_some()
            || self.replica.is_some()
    }

    /// Reads the items before a write, if its cost is to be known.
    pub(super) async fn images(
        &self,
        items: &[Option<WrittenItem>],
        fidelity: Fidelity,
    ) -> Vec<Option<Item>> {
        if fidelity.partition_write_units.is_none() {
            return vec![None; items.len()];
        }
        let keys: Vec<_> = items
            .iter()
            .map(|item| {
                let item = item.as_ref()?;
                Some((item.schema.name.clone(), item.key.clone()))
            })
            .collect();
        let database = self.database.clone();
        // It waits for the database.
        let read = tokio::task::spawn_blocking(move || {
            let read = |key: &Option<(String, Item)>| {
                let (table, key) = key.as_ref()?;
                index_replica::read(&database, table, key).ok().flatten()
            };
            keys.iter().map(read).collect()
        });
        read.await.unwrap_or_else(|_| vec![None; items.len()])
    }

    /// Returns for each item, in order, why it cannot be written now. `images` are those before the
    /// write.
    pub(super) fn rejections(
        &self,
        items: &[Option<WrittenItem>],
        images: &[Option<Item>],
        fidelity: Fidelity,
    ) -> Vec<Option<Rejection>> {
        let conflicts = match fidelity.transaction_time {
            Some(_) => self.running.conflicts(&ids(items)),
            None => vec![false; items.len()],
        };
        let throttled = self.throttled(items, images, fidelity);
        conflicts
            .into_iter()
            .zip(throttled)
            .map(|(is_held, throttled)| match is_held {
                true => Some(Rejection::Conflict),
                false => throttled,
            })
            .collect()
    }

    /// Returns for each item, in order, whether one of its partitions is exhausted.
    pub(super) fn throttled(
        &self,
        items: &[Option<WrittenItem>],
        images: &[Option<Item>],
        fidelity: Fidelity,
    ) -> Vec<Option<Rejection>> {
        let Some(rate) = fidelity.partition_write_units else {
            return vec![None; items.len()];
        };
        let now = Instant::now();
        let throttled = |(item, image): (&Option<WrittenItem>, &Option<Item>)| {
            let item = item.as_ref()?;
            let keys = item.put.as_ref().unwrap_or(&item.key);
            let partitions = throttle::partitions(&item.schema, &[image.as_ref(), Some(keys)]);
            let rate = f64::from(rate.get());
            let exhausted = self.throttle.exhausted(&partitions, rate, now)?;
            Some(Rejection::Throttled {
                table: item.schema.name.clone(),
                index: exhausted.index.clone(),
                is_provisioned: item.schema.is_provisioned,
            })
        };
        items.iter().zip(images).map(throttled).collect()
    }

    /// Charges an executed write and passes its changes on to the indexes. `images` are those
    /// before the write, and `factor` is that of the units in the table.
    pub(super) async fn completed(
        &self,
        items: &[Option<WrittenItem>],
        images: &[Option<Item>],
        factor: f64,
        fidelity: Fidelity,
    ) {
        if let Some(rate) = fidelity.partition_write_units {
            let new = self.images(items, fidelity).await;
            let costs = items
                .iter()
                .zip(images)
                .zip(&new)
                .filter_map(|((item, old), new)| {
                    let schema = &item.as_ref()?.schema;
                    Some(throttle::costs(schema, old.as_ref(), new.as_ref(), factor))
                });
            let rate = f64::from(rate.get());
            self.throttle
                .charge(costs.flatten().collect(), rate, Instant::now());
        }
        if let Some(replica) = &self.replica {
            replica.changed(items).await;
        }
    }

    /// Deletes expired items and returns their number. Blocks for the duration of many statements
    /// of the database.
    pub(super) fn sweep_ttl(&self) -> Result<usize, DynoxideError> {
        let deleted = self.database.sweep_ttl()?;
        if let Some(replica) = &self.replica {
            replica.sweep_ttl()?;
        }
        Ok(deleted)
    }

    /// Deletes expired items at each interval; never returns.
    pub(super) async fn sweep_ttl_periodically(self: Arc<Self>) {
        let mut fidelity = self.fidelity.subscribe();
        let mut last = tokio::time::Instant::now();
        loop {
            let interval = fidelity.borrow_and_update().ttl_interval;
            let due = async {
                match interval {
                    Some(interval) => tokio::time::sleep_until(last + interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                changed = fidelity.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            last = tokio::time::Instant::now();
            let shared = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || shared.sweep_ttl()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(deleted)) => tracing::debug!(deleted, "expired items deleted"),
                Ok(Err(error)) => tracing::warn!(%error, "expired items were not deleted"),
                Err(error) => tracing::error!(%error, "deleting expired items panicked"),
            }
        }
    }
}

/// Returns the identities of items, in order.
pub(super) fn ids(items: &[Option<WrittenItem>]) -> Vec<Option<ItemId>> {
    let id = |item: &Option<WrittenItem>| item.as_ref().map(|item| item.id.clone());
    items.iter().map(id).collect()
}
