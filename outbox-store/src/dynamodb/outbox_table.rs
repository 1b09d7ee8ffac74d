//! The outbox table in DynamoDB: what the relay does with events.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, KeysAndAttributes,
    ReturnValuesOnConditionCheckFailure,
};
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute, bucket_name};
use outbox::{Buckets, Status};
use shared::aws::error::{Causes, ErrorClass, classify};

use crate::{
    EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage, Published, Quarantine,
    TableError,
};

/// Items per page of pending events.
const PENDING_PAGE: i32 = 100;

/// Items of one aggregate that [`OutboxTable::pending_between`] returns at most.
const MAX_BETWEEN: usize = 100;

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
    /// PartiQL statement that marks one event as published.
    mark: String,
}

impl DynamoDbOutboxTable {
    /// Uses the table called `table`, whose writers spread pending events over at most `buckets`.
    pub fn new(client: Client, table: String, buckets: Buckets) -> Self {
        use attribute::{
            AGGREGATE_ID, EXPIRES_AT, MESSAGE_ID, PUBLISHED_AT, SEQUENCE, STATE_BUCKET, STATUS,
        };
        // PartiQL's UPDATE never creates an item, and this one changes pending events only.
        let mark = format!(
            r#"UPDATE "{table}" SET "{STATUS}" = '{published}' SET "{PUBLISHED_AT}" = ? SET "{MESSAGE_ID}" = ? SET "{EXPIRES_AT}" = ? REMOVE "{STATE_BUCKET}" WHERE "{AGGREGATE_ID}" = ? AND "{SEQUENCE}" = ? AND "{STATUS}" = '{pending}'"#,
            published = Status::Published.as_str(),
            pending = Status::Pending.as_str(),
        );
        Self {
            client,
            table,
            buckets,
            mark,
        }
    }
}

impl DynamoDbOutboxTable {
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

    async fn mark_all(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let statements = published
            .iter()
            .map(|event| {
                BatchStatementRequest::builder()
                    .statement(&self.mark)
                    .parameters(string(event.published_at))
                    .parameters(string(&event.message_id))
                    .parameters(number(event.expires_at))
                    .parameters(string(&event.key.aggregate_id))
                    .parameters(number(&event.key.sequence))
                    .build()
                    .expect("the statement is set")
            })
            .collect();
        let response = self
            .client
            .batch_execute_statement()
            .set_statements(Some(statements))
            .send()
            .await
            .map_err(|error| self.error(&error))?;
        Ok(response
            .responses
            .unwrap_or_default()
            .into_iter()
            .map(|response| match response.error {
                None => MarkOutcome::Marked,
                Some(error) => match error.code {
                    Some(
                        BatchStatementErrorCodeEnum::ConditionalCheckFailed
                        | BatchStatementErrorCodeEnum::ResourceNotFound,
                    ) => MarkOutcome::NotPending,
                    Some(
                        BatchStatementErrorCodeEnum::ValidationError
                        | BatchStatementErrorCodeEnum::ItemCollectionSizeLimitExceeded,
                    ) => MarkOutcome::Impossible,
                    code => {
                        tracing::warn!(
                            ?code,
                            message = error.message,
                            "marking an event as published failed; retrying"
                        );
                        MarkOutcome::TryAgain
                    }
                },
            })
            .collect())
    }

    async fn quarantine_with_reason(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(&event.key)))
            .condition_expression("#status = :pending")
            // `occurred_at` is the sort key of the index: without it the event would not be in the
            // index, and operators would not find it.
            .update_expression(
                "SET #status = :failed, #bucket = :bucket, #failed_at = :at, \
                 #failure = :failure, #attempts = :attempts, \
                 #occurred_at = if_not_exists(#occurred_at, :at)",
            )
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_names("#failed_at", attribute::FAILED_AT)
            .expression_attribute_names("#failure", attribute::FAILURE)
            .expression_attribute_names("#attempts", attribute::ATTEMPTS)
            .expression_attribute_names("#occurred_at", attribute::OCCURRED_AT)
            .expression_attribute_values(":pending", string(Status::Pending.as_str()))
            .expression_attribute_values(":failed", string(Status::Failed.as_str()))
            .expression_attribute_values(":bucket", string(FAILED_BUCKET))
            .expression_attribute_values(":at", string(event.failed_at))
            .expression_attribute_values(":failure", string(&event.failure))
            .expression_attribute_values(":attempts", number(event.attempts))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match &update {
            // An earlier attempt took effect, and its response was lost.
            Err(SdkError::ServiceError(error)) if is_same_quarantine(event, error.err()) => {
                Ok(MarkOutcome::Marked)
            }
            _ => self.outcome(update),
        }
    }

    /// Writes the status and nothing else, for an item that is too large for more. The write
    /// removes more bytes than it adds.
    async fn set_status_only(
        &self,
        key: &EventKey,
        status: Status,
        bucket: Option<&str>,
    ) -> Result<MarkOutcome, TableError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .condition_expression("#status = :pending")
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_values(":pending", string(Status::Pending.as_str()))
            .expression_attribute_values(":status", string(status.as_str()));
        let request = match bucket {
            Some(bucket) => request
                .update_expression("SET #status = :status, #bucket = :bucket")
                .expression_attribute_values(":bucket", string(bucket)),
            None => request.update_expression("SET #status = :status REMOVE #bucket"),
        };
        self.outcome(request.send().await)
    }

    /// Interprets the response to an update that is conditional on the event being pending.
    fn outcome<T>(
        &self,
        update: Result<T, SdkError<UpdateItemError>>,
    ) -> Result<MarkOutcome, TableError> {
        match update {
            Ok(_) => Ok(MarkOutcome::Marked),
            Err(error) => match classify(&error) {
                ErrorClass::ConditionFailed => Ok(MarkOutcome::NotPending),
                ErrorClass::Rejected => {
                    tracing::warn!(error = %Causes(&error), "DynamoDB rejected the change of an event");
                    Ok(MarkOutcome::Impossible)
                }
                _ => Err(self.error(&error)),
            },
        }
    }
}

/// Returns `true` if the item that failed the condition was quarantined by an earlier attempt of
/// the same request.
fn is_same_quarantine(event: &Quarantine, error: &UpdateItemError) -> bool {
    let UpdateItemError::ConditionalCheckFailedException(refusal) = error else {
        return false;
    };
    refusal.item().is_some_and(|item| {
        item.get(attribute::FAILED_AT) == Some(&string(event.failed_at))
            && item.get(attribute::FAILURE) == Some(&string(&event.failure))
    })
}

/// Returns a string attribute.
pub(super) fn string(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// Returns a number attribute.
pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Returns the primary key of an event.
pub(super) fn item_key(key: &EventKey) -> Item {
    HashMap::from([
        (
            attribute::AGGREGATE_ID.to_owned(),
            string(&key.aggregate_id),
        ),
        (attribute::SEQUENCE.to_owned(), number(&key.sequence)),
    ])
}

#[async_trait]
impl OutboxTable for DynamoDbOutboxTable {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let mut outcomes = self.mark_all(published).await?;
        for (event, outcome) in published.iter().zip(&mut outcomes) {
            if *outcome == MarkOutcome::Impossible {
                *outcome = self
                    .set_status_only(&event.key, Status::Published, None)
                    .await?;
            }
        }
        Ok(outcomes)
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        match self.quarantine_with_reason(event).await? {
            MarkOutcome::Impossible => {
                self.set_status_only(&event.key, Status::Failed, Some(FAILED_BUCKET))
                    .await
            }
            outcome => Ok(outcome),
        }
    }

    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError> {
        let mut found = HashMap::new();
        let mut remaining: Vec<_> = keys.iter().map(item_key).collect();
        // DynamoDB returns a part of the items if it throttles. Each iteration requests the rest,
        // and one without any progress is an error, so that the caller can back off.
        while !remaining.is_empty() {
            let requested = remaining.len();
            let request = KeysAndAttributes::builder()
                .set_keys(Some(remaining))
                .consistent_read(true)
                .projection_expression("#id, #sequence, #status")
                .expression_attribute_names("#id", attribute::AGGREGATE_ID)
                .expression_attribute_names("#sequence", attribute::SEQUENCE)
                .expression_attribute_names("#status", attribute::STATUS)
                .build()
                .expect("the keys are set");
            let response = self
                .client
                .batch_get_item()
                .request_items(&self.table, request)
                .send()
                .await
                .map_err(|error| self.error(&error))?;
            let items = response
                .responses
                .and_then(|mut tables| tables.remove(&self.table))
                .unwrap_or_default();
            found.extend(items.into_iter().filter_map(|item| {
                let status = Status::parse(item.get(attribute::STATUS)?.as_s().ok()?)?;
                Some((EventKey::of(&item)?, status))
            }));
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
        Ok(keys.iter().map(|key| found.get(key).copied()).collect())
    }

    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError> {
        let response = self
            .query_partition(&bucket_name(bucket))
            .limit(PENDING_PAGE)
            .set_exclusive_start_key(after.map(|PendingCursor(key)| key))
            .send()
            .await
            .map_err(|error| self.error(&error))?;
        Ok(PendingPage {
            items: response.items.unwrap_or_default(),
            next: response.last_evaluated_key.map(PendingCursor),
        })
    }

    async fn pending_between(
        &self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<Item>, TableError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#id = :id AND #sequence BETWEEN :first AND :last")
            .filter_expression("#status = :pending")
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .expression_attribute_names("#sequence", attribute::SEQUENCE)
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_values(":id", string(aggregate_id))
            .expression_attribute_values(":first", number(first))
            .expression_attribute_values(":last", number(last))
            .expression_attribute_values(":pending", string(Status::Pending.as_str()))
            .into_paginator()
            .items()
            .send();
        let mut items = Vec::new();
        while let Some(item) = pages.next().await {
            items.push(item.map_err(|error| self.error(&error))?);
            if items.len() == MAX_BETWEEN {
                break;
            }
        }
        Ok(items)
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
