//! The outbox table.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, KeysAndAttributes,
    ReturnValuesOnConditionCheckFailure, Select,
};
use outbox::Status;
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, PENDING_BUCKETS, attribute, bucket_name};
use shared::aws::Causes;

use crate::{
    EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage, Published, Quarantine,
    TableError,
};

/// Items a look at the pending events returns at once.
const PENDING_PAGE: i32 = 100;

/// Items of one aggregate that are looked at at once.
const MAX_BETWEEN: usize = 100;

/// Pages of 1 MB that are counted of each bucket: a count costs reading.
const MAX_COUNT_PAGES: usize = 5;

#[derive(Debug)]
pub struct DynamoDbOutboxTable {
    client: Client,
    table: String,
    mark: String,
}

impl DynamoDbOutboxTable {
    pub fn new(client: Client, table: String) -> Self {
        use attribute::{
            AGGREGATE_ID, EXPIRES_AT, MESSAGE_ID, PUBLISHED_AT, SEQUENCE, STATE_BUCKET, STATUS,
        };
        // PartiQL's UPDATE never makes an item, and this one touches pending
        // ones only.
        let mark = format!(
            r#"UPDATE "{table}" SET "{STATUS}" = '{published}' SET "{PUBLISHED_AT}" = ? SET "{MESSAGE_ID}" = ? SET "{EXPIRES_AT}" = ? REMOVE "{STATE_BUCKET}" WHERE "{AGGREGATE_ID}" = ? AND "{SEQUENCE}" = ? AND "{STATUS}" = '{pending}'"#,
            published = Status::Published.as_str(),
            pending = Status::Pending.as_str(),
        );
        Self {
            client,
            table,
            mark,
        }
    }
}

impl DynamoDbOutboxTable {
    /// A Query of one pending partition of the index, the oldest first.
    fn by_state(&self, bucket: &str) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .index_name(BY_STATE_INDEX)
            .key_condition_expression("#bucket = :bucket")
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_values(":bucket", text(bucket))
    }

    async fn mark_all(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let statements = published
            .iter()
            .map(|event| {
                BatchStatementRequest::builder()
                    .statement(&self.mark)
                    .parameters(text(event.published_at))
                    .parameters(text(&event.message_id))
                    .parameters(number(event.expires_at))
                    .parameters(text(&event.key.aggregate_id))
                    .parameters(number(&event.key.sequence))
                    .build()
                    .expect("the statement is set")
            })
            .collect();
        let answer = self
            .client
            .batch_execute_statement()
            .set_statements(Some(statements))
            .send()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(answer
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
                            "an event could not be marked; trying again"
                        );
                        MarkOutcome::TryAgain
                    }
                },
            })
            .collect())
    }

    async fn quarantine_wholly(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(&event.key)))
            .condition_expression("#status = :pending")
            // `occurred_at` is the index's key: without one an operator would
            // not find the event.
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
            .expression_attribute_values(":pending", text(Status::Pending.as_str()))
            .expression_attribute_values(":failed", text(Status::Failed.as_str()))
            .expression_attribute_values(":bucket", text(FAILED_BUCKET))
            .expression_attribute_values(":at", text(event.failed_at))
            .expression_attribute_values(":failure", text(&event.failure))
            .expression_attribute_values(":attempts", number(event.attempts))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match &update {
            // An earlier try took effect, and its answer was lost.
            Err(SdkError::ServiceError(error)) if is_noted(event, error.err()) => {
                Ok(MarkOutcome::Marked)
            }
            _ => outcome(update),
        }
    }

    /// The smallest write that settles an event, for an item that is too large
    /// for more: it takes away more than it adds.
    async fn settle(
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
            .expression_attribute_values(":pending", text(Status::Pending.as_str()))
            .expression_attribute_values(":status", text(status.as_str()));
        let request = match bucket {
            Some(bucket) => request
                .update_expression("SET #status = :status, #bucket = :bucket")
                .expression_attribute_values(":bucket", text(bucket)),
            None => request.update_expression("SET #status = :status REMOVE #bucket"),
        };
        outcome(request.send().await)
    }
}

/// Whether the item that an update ran into is quarantined by the very same
/// request.
fn is_noted(event: &Quarantine, error: &UpdateItemError) -> bool {
    let UpdateItemError::ConditionalCheckFailedException(refusal) = error else {
        return false;
    };
    refusal.item().is_some_and(|item| {
        item.get(attribute::FAILED_AT) == Some(&text(event.failed_at))
            && item.get(attribute::FAILURE) == Some(&text(&event.failure))
    })
}

/// What an update that is conditional on the event being pending came to.
fn outcome<T>(update: Result<T, SdkError<UpdateItemError>>) -> Result<MarkOutcome, TableError> {
    match update {
        Ok(_) => Ok(MarkOutcome::Marked),
        Err(error) => match error.code() {
            Some("ConditionalCheckFailedException") => Ok(MarkOutcome::NotPending),
            Some("ValidationException") => {
                tracing::warn!(error = %Causes(&error), "an event cannot be written");
                Ok(MarkOutcome::Impossible)
            }
            _ => Err(unavailable(&error)),
        },
    }
}

fn unavailable(error: &(impl std::error::Error + 'static)) -> TableError {
    TableError(Causes(error).to_string())
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn item_key(key: &EventKey) -> HashMap<String, AttributeValue> {
    HashMap::from([
        (attribute::AGGREGATE_ID.to_owned(), text(&key.aggregate_id)),
        (attribute::SEQUENCE.to_owned(), number(&key.sequence)),
    ])
}

#[async_trait]
impl OutboxTable for DynamoDbOutboxTable {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let mut outcomes = self.mark_all(published).await?;
        for (event, outcome) in published.iter().zip(&mut outcomes) {
            if *outcome == MarkOutcome::Impossible {
                *outcome = self.settle(&event.key, Status::Published, None).await?;
            }
        }
        Ok(outcomes)
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        match self.quarantine_wholly(event).await? {
            MarkOutcome::Impossible => {
                self.settle(&event.key, Status::Failed, Some(FAILED_BUCKET))
                    .await
            }
            outcome => Ok(outcome),
        }
    }

    async fn states(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError> {
        let mut found = HashMap::new();
        let mut wanted: Vec<_> = keys.iter().map(item_key).collect();
        // DynamoDB answers with a part when throttled; each round asks for
        // the rest, and the caller's patience is the bound on no progress.
        while !wanted.is_empty() {
            let asked = wanted.len();
            let request = KeysAndAttributes::builder()
                .set_keys(Some(wanted))
                .consistent_read(true)
                .projection_expression("#id, #sequence, #status")
                .expression_attribute_names("#id", attribute::AGGREGATE_ID)
                .expression_attribute_names("#sequence", attribute::SEQUENCE)
                .expression_attribute_names("#status", attribute::STATUS)
                .build()
                .expect("the keys are set");
            let answer = self
                .client
                .batch_get_item()
                .request_items(&self.table, request)
                .send()
                .await
                .map_err(|error| unavailable(&error))?;
            let items = answer
                .responses
                .and_then(|mut tables| tables.remove(&self.table))
                .unwrap_or_default();
            found.extend(items.into_iter().filter_map(|item| {
                let key = EventKey {
                    aggregate_id: item.get(attribute::AGGREGATE_ID)?.as_s().ok()?.clone(),
                    sequence: item.get(attribute::SEQUENCE)?.as_n().ok()?.clone(),
                };
                let status = Status::parse(item.get(attribute::STATUS)?.as_s().ok()?)?;
                Some((key, status))
            }));
            wanted = answer
                .unprocessed_keys
                .and_then(|mut tables| tables.remove(&self.table))
                .map(|rest| rest.keys)
                .unwrap_or_default();
            if wanted.len() == asked {
                return Err(TableError(
                    "DynamoDB answered for none of the keys".to_owned(),
                ));
            }
        }
        Ok(keys.iter().map(|key| found.get(key).copied()).collect())
    }

    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError> {
        let answer = self
            .by_state(&bucket_name(bucket))
            .limit(PENDING_PAGE)
            .set_exclusive_start_key(after.map(|PendingCursor(key)| key))
            .send()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(PendingPage {
            items: answer.items.unwrap_or_default(),
            next: answer.last_evaluated_key.map(PendingCursor),
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
            .expression_attribute_values(":id", text(aggregate_id))
            .expression_attribute_values(":first", number(first))
            .expression_attribute_values(":last", number(last))
            .expression_attribute_values(":pending", text(Status::Pending.as_str()))
            .into_paginator()
            .items()
            .send();
        let mut items = Vec::new();
        while let Some(item) = pages.next().await {
            items.push(item.map_err(|error| unavailable(&error))?);
            if items.len() == MAX_BETWEEN {
                break;
            }
        }
        Ok(items)
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        let mut count = 0;
        for bucket in 0..PENDING_BUCKETS {
            let mut pages = self
                .by_state(&bucket_name(bucket))
                .select(Select::Count)
                .into_paginator()
                .send();
            for _ in 0..MAX_COUNT_PAGES {
                let Some(page) = pages.next().await else {
                    break;
                };
                let page = page.map_err(|error| unavailable(&error))?;
                count += u64::from(page.count.unsigned_abs());
            }
        }
        Ok(count)
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        let counted = self.by_state(FAILED_BUCKET).select(Select::Count).send();
        let page = counted.await.map_err(|error| unavailable(&error))?;
        Ok(u64::from(page.count.unsigned_abs()))
    }
}
