//! Reads single events of the outbox table.

use futures::future::try_join_all;
use outbox::Status;
use outbox::item::{FAILED_BUCKET, attribute};
use shared::aws::error::{ErrorClass, classify};

use super::DynamoDbOutboxTable;
use super::attribute_value::{item_key, number, projection, string};
use super::event_list::shown;
use crate::{EventKey, StoredEvent, StoredEventDetail, TableError};

/// Events per request of a search for the event that blocks an aggregate.
const BLOCKING_PAGE: i32 = 100;

/// Requests of that search. A failed event before those that they read is not found.
const MAX_BLOCKING_PAGES: usize = 20;

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
            let item = item.map_err(|error| TableError::of_index(&self.table, &error))?;
            if let Some(key) = EventKey::of(&item) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Returns the failed event that blocks an event of `aggregate_id` before `sequence`, or the
    /// latest event of the aggregate for `None`, if failed events block their successors. It is the
    /// first failed one after the latest published one. Strongly consistent.
    pub async fn blocking_event(
        &self,
        aggregate_id: &str,
        sequence: Option<&str>,
    ) -> Result<Option<StoredEvent>, TableError> {
        let (expression, names) = projection(&shown().collect::<Vec<_>>());
        let mut request = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(BLOCKING_PAGE)
            .projection_expression(expression)
            .set_expression_attribute_names(Some(names))
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .expression_attribute_values(":id", string(aggregate_id));
        request = match sequence {
            None => request.key_condition_expression("#id = :id"),
            Some(sequence) => request
                .key_condition_expression("#id = :id AND #sequence < :sequence")
                .expression_attribute_names("#sequence", attribute::SEQUENCE)
                .expression_attribute_values(":sequence", number(sequence)),
        };
        let mut pages = request.into_paginator().send();
        let mut blocking = None;
        for _ in 0..MAX_BLOCKING_PAGES {
            let Some(page) = pages.next().await else {
                return Ok(blocking);
            };
            let page = page.map_err(|error| self.error(&error))?;
            for event in page.items().iter().filter_map(StoredEvent::of) {
                match event.status.as_deref().and_then(Status::parse) {
                    Some(Status::Published) => return Ok(blocking),
                    Some(Status::Failed) => blocking = Some(event),
                    Some(Status::Pending | Status::Discarded) | None => {}
                }
            }
        }
        Ok(blocking)
    }
}
