//! The outbox table in DynamoDB: what the relay does with events.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute, bucket_name};
use outbox::{Buckets, Status};

use super::attribute_value::{item_key, number, projection, string};
use super::conditional_update::ConditionalUpdate;
use crate::{
    Deferral, EarlierEvent, EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingEntry,
    PendingPage, Published, Quarantine, StoredStatus, TableError,
};

/// Entries per page of pending events.
const PENDING_PAGE: i32 = 500;

/// Pages of 1 MB that the relay's gauge counts of each bucket: a count consumes read capacity.
const MAX_COUNT_PAGES: usize = 5;

/// An outbox table in DynamoDB. Implements [`OutboxTable`] for the relay; its own methods are for
/// operators.
#[derive(Clone, Debug)]
pub struct DynamoDbOutboxTable {
    pub(super) client: Client,
    pub(super) table: String,
    /// Index partitions of pending events.
    pub(super) buckets: Buckets,
    /// Marks one event as published.
    pub(super) mark: ConditionalUpdate,
    /// Defers one event.
    pub(super) defer: ConditionalUpdate,
}

impl DynamoDbOutboxTable {
    /// Uses the table called `table`, whose writers spread pending events over at most `buckets`.
    pub fn new(client: Client, table: String, buckets: Buckets) -> Self {
        Self {
            mark: ConditionalUpdate::publication(&table),
            defer: ConditionalUpdate::deferral(&table),
            client,
            table,
            buckets,
        }
    }

    /// Returns a Query of one partition of the index, the oldest event first.
    pub(super) fn query_partition(&self, partition: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .index_name(BY_STATE_INDEX)
            .key_condition_expression("#bucket = :bucket")
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_values(":bucket", string(partition))
    }

    /// Classifies an error of the SDK.
    pub(super) fn error<E>(&self, error: &SdkError<E>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        TableError::of(&self.table, error)
    }

    /// Reads items by their keys, strongly consistent. Returns those that exist. `attributes`
    /// restricts what is read of each.
    pub(super) async fn batch_get(
        &self,
        keys: &[EventKey],
        attributes: Option<&[&str]>,
    ) -> Result<HashMap<EventKey, Item>, TableError> {
        let mut found = HashMap::new();
        let mut remaining: Vec<_> = keys.iter().map(item_key).collect();
        // DynamoDB returns a part of the items if it throttles or if they exceed 16 MB. Each
        // iteration requests the rest, and one without any progress is an error, so that the
        // caller can back off.
        while !remaining.is_empty() {
            let requested = remaining.len();
            let mut request = KeysAndAttributes::builder()
                .set_keys(Some(remaining))
                .consistent_read(true);
            if let Some(attributes) = attributes {
                let (expression, names) = projection(attributes);
                request = request
                    .projection_expression(expression)
                    .set_expression_attribute_names(Some(names));
            }
            let response = self
                .client
                .batch_get_item()
                .request_items(&self.table, request.build().expect("the keys are set"))
                .send()
                .await
                .map_err(|error| self.error(&error))?;
            let items = response
                .responses
                .and_then(|mut tables| tables.remove(&self.table))
                .unwrap_or_default();
            found.extend(
                items
                    .into_iter()
                    .filter_map(|item| Some((EventKey::of(&item)?, item))),
            );
            remaining = response
                .unprocessed_keys
                .and_then(|mut tables| tables.remove(&self.table))
                .map(|rest| rest.keys)
                .unwrap_or_default();
            if remaining.len() == requested {
                return Err(TableError::Unavailable {
                    table: self.table.clone(),
                    reason: "DynamoDB returned none of the requested items".to_owned(),
                });
            }
        }
        Ok(found)
    }
}

/// Attributes of an [`EarlierEvent`] and of a [`StoredStatus`].
const STATUS_ATTRIBUTES: [&str; 5] = [
    attribute::AGGREGATE_ID,
    attribute::SEQUENCE,
    attribute::STATUS,
    attribute::DEFERRED_AT,
    attribute::REPLAYS,
];

/// Attributes of a [`PendingEntry`]; the index contains them.
const PENDING_ATTRIBUTES: [&str; 6] = [
    attribute::AGGREGATE_ID,
    attribute::SEQUENCE,
    attribute::EVENT_TYPE,
    attribute::OCCURRED_AT,
    attribute::RETRIED_AT,
    attribute::REPLAYED_AT,
];

#[async_trait]
impl OutboxTable for DynamoDbOutboxTable {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let mut outcomes = self.mark_all(published).await?;
        for (event, outcome) in published.iter().zip(&mut outcomes) {
            if *outcome == MarkOutcome::Impossible {
                *outcome = self
                    .set_status_only(&event.key, &event.generation, Status::Published, None)
                    .await?;
            }
        }
        Ok(outcomes)
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        match self.quarantine_with_reason(event).await? {
            MarkOutcome::Impossible => {
                let bucket = Some(FAILED_BUCKET);
                self.set_status_only(&event.key, &event.generation, Status::Failed, bucket)
                    .await
            }
            outcome => Ok(outcome),
        }
    }

    async fn defer(&self, deferrals: &[Deferral]) -> Result<Vec<MarkOutcome>, TableError> {
        self.defer_all(deferrals).await
    }

    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<StoredStatus>>, TableError> {
        let found = self.batch_get(keys, Some(&STATUS_ATTRIBUTES)).await?;
        let status = |key| StoredStatus::of(found.get(key)?);
        Ok(keys.iter().map(status).collect())
    }

    async fn items(&self, keys: &[EventKey]) -> Result<Vec<Option<Item>>, TableError> {
        let mut found = self.batch_get(keys, None).await?;
        Ok(keys.iter().map(|key| found.remove(key)).collect())
    }

    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError> {
        let (expression, names) = projection(&PENDING_ATTRIBUTES);
        let mut request = self.query_partition(&bucket_name(bucket));
        for (placeholder, name) in names {
            request = request.expression_attribute_names(placeholder, name);
        }
        let response = request
            .projection_expression(expression)
            .limit(PENDING_PAGE)
            .set_exclusive_start_key(after.map(|PendingCursor(key)| key))
            .send()
            .await
            .map_err(|error| TableError::of_index(&self.table, &error))?;
        let items = response.items.unwrap_or_default();
        Ok(PendingPage {
            entries: items.iter().filter_map(PendingEntry::of).collect(),
            next: response.last_evaluated_key.map(PendingCursor),
        })
    }

    async fn latest_before(
        &self,
        aggregate_id: &str,
        sequence: &str,
        limit: usize,
    ) -> Result<Vec<EarlierEvent>, TableError> {
        let (expression, names) = projection(&STATUS_ATTRIBUTES);
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .scan_index_forward(false)
            .key_condition_expression("#id = :id AND #sequence < :sequence")
            .projection_expression(expression)
            .set_expression_attribute_names(Some(names))
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .expression_attribute_names("#sequence", attribute::SEQUENCE)
            .expression_attribute_values(":id", string(aggregate_id))
            .expression_attribute_values(":sequence", number(sequence))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.error(&error))?;
            found.extend(EventKey::of(&item).map(|key| EarlierEvent {
                key,
                status: StoredStatus::of(&item),
            }));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        let mut count = 0;
        for partition in self.buckets.partitions() {
            count += self
                .count_partition(&partition, MAX_COUNT_PAGES)
                .await?
                .count;
        }
        Ok(count)
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        Ok(self.count_partition(FAILED_BUCKET, 1).await?.count)
    }
}
