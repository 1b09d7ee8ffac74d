//! The lease table in DynamoDB.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure as OnConditionFailure,
};
use futures::future::try_join_all;
use outbox::timestamp::Timestamp;
use parking_lot::Mutex;
use shared::aws::ATTEMPT_TIMEOUT;
use shared::aws::error::{ErrorClass, classify};

use super::lease_error::{ignore_lost, unavailable, update_error};
use super::lease_item::{
    Update, attribute, deferred_value, duration_value, from_item, number_value, requests,
    state_value, text, text_value,
};
use crate::{
    Lease, LeaseError, LeaseRequests, LeaseTable, Leases, MAINTENANCE, SWEEPERS, ShardId,
    TableError, sweeper_id,
};

#[derive(Debug)]
pub struct DynamoDbLeaseTable {
    /// Reads, which the SDK may retry.
    pub(super) client: Client,
    /// Writes. The SDK does not retry them: its second attempt would find the condition failed by
    /// the first one, and the caller would take its own write for that of another instance.
    pub(super) writer: Client,
    pub(super) table: String,
    pub(super) group: String,
    /// Unreadable items that were logged.
    reported: Mutex<BTreeSet<ShardId>>,
}

impl DynamoDbLeaseTable {
    /// Uses `table` for the leases of the consumer group `group`.
    pub fn new(client: &Client, table: String, group: String, lease_duration: Duration) -> Self {
        Self {
            client: with_short_timeouts(client, lease_duration, None),
            writer: with_short_timeouts(client, lease_duration, Some(RetryConfig::disabled())),
            table,
            group,
            reported: Mutex::default(),
        }
    }

    /// Returns the partition that contains the lease `id`.
    fn partition(&self, stream: &str, id: &ShardId) -> String {
        if id.is_in_maintenance_partition() {
            self.maintenance_partition(stream)
        } else {
            self.shard_partition(stream)
        }
    }

    fn shard_partition(&self, stream: &str) -> String {
        shard_partition(&self.group, stream)
    }

    fn maintenance_partition(&self, stream: &str) -> String {
        maintenance_partition(&self.group, stream)
    }

    /// Returns the leases of the shards of `stream` and the maintenance lease, with an error that
    /// tells a missing table or permission from a failed request.
    pub async fn leases(&self, stream: &str) -> Result<Leases, TableError> {
        self.query(self.shard_partition(stream), None).await
    }

    /// Returns the leases of the sweepers and the members of the group, as
    /// [`DynamoDbLeaseTable::leases`] does.
    pub async fn maintenance_leases(&self, stream: &str) -> Result<Leases, TableError> {
        self.query(self.maintenance_partition(stream), None).await
    }

    async fn query(&self, partition: String, from: Option<&ShardId>) -> Result<Leases, TableError> {
        let mut request = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .expression_attribute_names("#stream", attribute::STREAM)
            .expression_attribute_values(":stream", text_value(partition));
        request = match from {
            None => request.key_condition_expression("#stream = :stream"),
            Some(from) => request
                .key_condition_expression("#stream = :stream AND #lease >= :from")
                .expression_attribute_names("#lease", attribute::LEASE)
                .expression_attribute_values(":from", text_value(from)),
        };
        let mut pages = request.into_paginator().send();
        let mut found = Leases::default();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| TableError::of(&self.table, &error))?;
            for item in page.items.unwrap_or_default() {
                match from_item(&item) {
                    Some(lease) => found.leases.push(lease),
                    None => found.unreadable.extend(self.report_unreadable(&item)),
                }
            }
        }
        Ok(found)
    }

    /// Returns the id of an item that cannot be parsed, and logs it once.
    fn report_unreadable(&self, item: &HashMap<String, AttributeValue>) -> Option<ShardId> {
        let id = ShardId(text(item, attribute::LEASE)?.into());
        if self.reported.lock().insert(id.clone()) {
            tracing::error!(
                table = self.table,
                stream = text(item, attribute::STREAM),
                lease = %id,
                "lease item cannot be parsed: its shard and the children of it are not read; \
                 correct or delete the item"
            );
        }
        Some(id)
    }

    /// Updates the item of the lease `id`, and returns its attributes afterwards.
    async fn update(
        &self,
        stream: &str,
        id: &ShardId,
        update: Update,
    ) -> Result<HashMap<String, AttributeValue>, LeaseError> {
        let partition = self.partition(stream, id);
        self.update_item(partition, &id.0, update).await
    }

    /// Updates the item with this key, and returns its attributes afterwards.
    pub(super) async fn update_item(
        &self,
        partition: String,
        sort_key: &str,
        update: Update,
    ) -> Result<HashMap<String, AttributeValue>, LeaseError> {
        let request = self
            .writer
            .update_item()
            .table_name(&self.table)
            .key(attribute::STREAM, text_value(partition))
            .key(attribute::LEASE, text_value(sort_key))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnConditionFailure::AllOld);
        let updated = update.apply(request).send().await;
        updated
            .map(|output| output.attributes.unwrap_or_default())
            .map_err(update_error)
    }
}

fn shard_partition(group: &str, stream: &str) -> String {
    format!("{group}|{stream}")
}

fn maintenance_partition(group: &str, stream: &str) -> String {
    format!("{group}|{stream}|maintenance")
}

#[async_trait]
impl LeaseTable for DynamoDbLeaseTable {
    async fn register_stream(&self, stream: &str) -> Result<Option<String>, LeaseError> {
        self.record_stream(stream).await
    }

    async fn previous_stream(&self) -> Result<Option<String>, LeaseError> {
        self.read_previous_stream().await
    }

    async fn forget_previous_stream(&self, previous: &str) -> Result<(), LeaseError> {
        self.remove_previous_stream(previous).await
    }

    async fn register_group(
        &self,
        stream: &str,
        stopped: Option<&str>,
    ) -> Result<Option<String>, LeaseError> {
        self.record_group(stream, stopped).await
    }

    async fn list_of_group(&self, stream: &str, group: &str) -> Result<Leases, LeaseError> {
        let (mut all, maintenance) = futures::try_join!(
            self.query(shard_partition(group, stream), None),
            self.query(maintenance_partition(group, stream), None),
        )
        .map_err(|error| LeaseError::Unavailable(error.to_string()))?;
        all.leases.extend(maintenance.leases);
        all.unreadable.extend(maintenance.unreadable);
        Ok(all)
    }

    async fn list(&self, stream: &str, from: Option<&ShardId>) -> Result<Leases, LeaseError> {
        let leases = self.query(self.shard_partition(stream), from).await;
        leases.map_err(|error| LeaseError::Unavailable(error.to_string()))
    }

    async fn list_maintenance(&self, stream: &str) -> Result<Leases, LeaseError> {
        let leases = self.maintenance_leases(stream).await;
        leases.map_err(|error| LeaseError::Unavailable(error.to_string()))
    }

    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError> {
        let mut update = Update::default()
            .set(attribute::EPOCH, number_value(lease.epoch))
            .set(attribute::HEARTBEAT, number_value(lease.heartbeat))
            .set(attribute::STATE, state_value(lease.state))
            .when_exists(attribute::LEASE, false);
        let optional = [
            (attribute::OWNER, lease.owner.as_ref().map(text_value)),
            (attribute::PARENT, lease.parent.as_ref().map(text_value)),
            (attribute::START, lease.start.as_ref().map(text_value)),
            (
                attribute::LEASE_MS,
                lease.lease_duration.map(duration_value),
            ),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                update = update.set(name, value);
            }
        }
        ignore_lost(self.update(stream, &lease.shard, update).await)
    }

    async fn acquire(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError> {
        let update = Update::default()
            .set_or_remove(attribute::OWNER, new.owner.as_ref().map(text_value))
            .set(attribute::EPOCH, number_value(new.epoch))
            .set(attribute::HEARTBEAT, number_value(new.heartbeat))
            .set_or_remove(attribute::LEASE_MS, new.lease_duration.map(duration_value))
            .remove(attribute::REQUESTED_BY)
            .remove(attribute::SWEEP_REQUESTED)
            .remove(attribute::LISTING_REQUESTED)
            .when_text(attribute::OWNER, seen.owner.as_deref())
            .when(attribute::EPOCH, "=", number_value(seen.epoch))
            .when(attribute::HEARTBEAT, "=", number_value(seen.heartbeat));
        self.update(stream, &new.shard, update).await.map(drop)
    }

    async fn renew(
        &self,
        stream: &str,
        holder: &str,
        lease: &Lease,
    ) -> Result<LeaseRequests, LeaseError> {
        let mut update = Update::default()
            .set_or_remove(attribute::OWNER, lease.owner.as_ref().map(text_value))
            .set(attribute::HEARTBEAT, number_value(lease.heartbeat))
            .set(attribute::STATE, state_value(lease.state))
            .set_or_remove(
                attribute::LEASE_MS,
                lease.lease_duration.map(duration_value),
            )
            .set_or_remove(
                attribute::CHECKPOINT,
                lease.checkpoint.as_ref().map(text_value),
            )
            .set_or_remove(
                attribute::LOW_WATERMARK,
                lease.low_watermark.as_ref().map(text_value),
            )
            .set_or_remove(
                attribute::DEFERRED,
                (!lease.deferred.is_empty()).then(|| deferred_value(&lease.deferred)),
            )
            .when(attribute::OWNER, "=", text_value(holder))
            .when(attribute::EPOCH, "=", number_value(lease.epoch))
            .when(attribute::HEARTBEAT, "<", number_value(lease.heartbeat));
        if lease.owner.as_deref() != Some(holder) {
            update = update.remove(attribute::REQUESTED_BY);
        }
        let item = self.update(stream, &lease.shard, update).await?;
        Ok(requests(&item))
    }

    async fn request(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError> {
        let update = Update::default()
            .set(attribute::REQUESTED_BY, text_value(instance))
            .when_text(attribute::OWNER, seen.owner.as_deref())
            .when(attribute::EPOCH, "=", number_value(seen.epoch));
        self.update(stream, &seen.shard, update).await.map(drop)
    }

    async fn request_sweep(&self, stream: &str) -> Result<(), LeaseError> {
        let request = || {
            Update::default()
                .set(attribute::SWEEP_REQUESTED, text_value(Timestamp::now()))
                .when_exists(attribute::LEASE, true)
        };
        // An older release that holds the maintenance lease is the only sweeper.
        let of_older_release = request().when_exists(attribute::LEASE_MS, false);
        let maintenance = ShardId(MAINTENANCE.into());
        let requests = (0..SWEEPERS)
            .map(|index| (sweeper_id(index), request()))
            .chain([(maintenance, of_older_release)])
            .map(async |(id, update)| ignore_lost(self.update(stream, &id, update).await));
        try_join_all(requests).await.map(drop)
    }

    async fn request_listing(&self, stream: &str) -> Result<(), LeaseError> {
        let update = Update::default()
            .set(attribute::LISTING_REQUESTED, text_value(Timestamp::now()))
            .when_exists(attribute::LEASE, true);
        let maintenance = ShardId(MAINTENANCE.into());
        ignore_lost(self.update(stream, &maintenance, update).await)
    }

    async fn mark_unlisted(
        &self,
        stream: &str,
        shard: &ShardId,
        since: Option<Timestamp>,
    ) -> Result<(), LeaseError> {
        let update = Update::default()
            .set_or_remove(attribute::UNLISTED_AT, since.map(text_value))
            .when_exists(attribute::LEASE, true);
        self.update(stream, shard, update).await.map(drop)
    }

    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError> {
        let mut values = HashMap::from([
            (":epoch".to_owned(), number_value(seen.epoch)),
            (":heartbeat".to_owned(), number_value(seen.heartbeat)),
        ]);
        let owner = match &seen.owner {
            Some(owner) => {
                values.insert(":owner".to_owned(), text_value(owner));
                "#owner = :owner"
            }
            None => "attribute_not_exists(#owner)",
        };
        let removed = self
            .writer
            .delete_item()
            .table_name(&self.table)
            .key(
                attribute::STREAM,
                text_value(self.partition(stream, &seen.shard)),
            )
            .key(attribute::LEASE, text_value(&seen.shard))
            .condition_expression(format!(
                "{owner} AND #epoch = :epoch AND #heartbeat = :heartbeat"
            ))
            .expression_attribute_names("#owner", attribute::OWNER)
            .expression_attribute_names("#epoch", attribute::EPOCH)
            .expression_attribute_names("#heartbeat", attribute::HEARTBEAT)
            .set_expression_attribute_values(Some(values))
            .send()
            .await;
        match removed {
            Ok(_) => Ok(()),
            Err(error) if classify(&error) == ErrorClass::ConditionFailed => {
                Err(LeaseError::Lost(None))
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// Returns a client whose attempts time out early enough for leases: a heartbeat is due after a
/// third of the lease duration, and if a request gets no response, a second attempt must still be
/// in time.
fn with_short_timeouts(
    client: &Client,
    lease_duration: Duration,
    retries: Option<RetryConfig>,
) -> Client {
    let config = client.config();
    let timeouts = config
        .timeout_config()
        .map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT.min(lease_duration / 4))
        .build();
    let retries = retries.or_else(|| config.retry_config().cloned());
    let mut config = config.to_builder().timeout_config(timeouts);
    config.set_retry_config(retries);
    Client::from_conf(config.build())
}
