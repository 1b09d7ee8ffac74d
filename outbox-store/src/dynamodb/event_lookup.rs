//! Reads single events of the outbox table.

use futures::future::try_join_all;
use outbox::item::{FAILED_BUCKET, attribute};
use shared::aws::error::{ErrorClass, classify};

use super::DynamoDbOutboxTable;
use super::outbox_table::{item_key, string};
use crate::{EventKey, StoredEventDetail, TableError};

impl DynamoDbOutboxTable {
    /// Returns an event with all its attributes, or `None` if it does not exist. Strongly
    /// consistent.
    pub async fn event(&self, key: &EventKey) -> Result<Option<StoredEventDetail>, TableError> {
        let response = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| self.error(&error))?;
        Ok(response.item.and_then(StoredEventDetail::of))
    }

    /// Returns `true` if there is an item with this key. Strongly consistent.
    pub async fn exists(&self, key: &EventKey) -> Result<bool, TableError> {
        let response = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .projection_expression("#id")
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .consistent_read(true)
            .send()
            .await;
        match response {
            Ok(response) => Ok(response.item.is_some()),
            // No item can have such a key.
            Err(error) if classify(&error) == ErrorClass::Rejected => Ok(false),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Returns the key of the pending or failed event with this id. Reads the whole index, because
    /// no index has the event id as its key; published and discarded events are not found.
    pub async fn find_by_event_id(&self, event_id: &str) -> Result<Option<EventKey>, TableError> {
        let partitions = self.buckets.partitions().chain([FAILED_BUCKET.to_owned()]);
        let found =
            try_join_all(partitions.map(|partition| self.find_in_partition(partition, event_id)));
        Ok(found.await?.into_iter().flatten().next())
    }

    async fn find_in_partition(
        &self,
        partition: String,
        event_id: &str,
    ) -> Result<Option<EventKey>, TableError> {
        let mut items = self
            .query_partition(&partition)
            .filter_expression("#event_id = :event_id")
            .projection_expression("#id, #sequence")
            .expression_attribute_names("#event_id", attribute::EVENT_ID)
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .expression_attribute_names("#sequence", attribute::SEQUENCE)
            .expression_attribute_values(":event_id", string(event_id))
            .into_paginator()
            .items()
            .send();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.error(&error))?;
            if let Some(key) = EventKey::of(&item) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}
