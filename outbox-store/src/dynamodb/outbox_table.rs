//! The outbox table in DynamoDB: what the relay does with events.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, KeysAndAttributes,
    ReturnValuesOnConditionCheckFailure,
};
use outbox::item::{BY_STATE_INDEX, FAILED_BUCKET, attribute, bucket_name};
use outbox::{Buckets, Status};
use shared::aws::error::{Causes, ErrorClass, classify};

use crate::{
    Deferral, EarlierEvent, EventKey, Generation, Item, MarkOutcome, OutboxTable, PendingCursor,
    PendingEntry, PendingPage, Published, Quarantine, StoredStatus, TableError,
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
    mark: ConditionalUpdate,
    /// Defers one event.
    defer: ConditionalUpdate,
}

/// PartiQL statement that updates one pending event of a generation.
#[derive(Clone, Debug)]
struct ConditionalUpdate {
    first: String,
    replayed: String,
}

impl ConditionalUpdate {
    /// PartiQL's UPDATE never creates an item, and this one changes pending events only. The
    /// parameters are those of `changes`, then those of [`Self::request`].
    fn new(table: &str, changes: &str) -> Self {
        use attribute::{AGGREGATE_ID, REPLAYS, SEQUENCE, STATUS};
        let pending = Status::Pending.as_str();
        let update = format!(
            r#"UPDATE "{table}" {changes} WHERE "{AGGREGATE_ID}" = ? AND "{SEQUENCE}" = ? AND "{STATUS}" = '{pending}' AND "{REPLAYS}""#
        );
        Self {
            first: format!("{update} IS MISSING"),
            replayed: format!("{update} = ?"),
        }
    }

    fn request(
        &self,
        parameters: impl IntoIterator<Item = AttributeValue>,
        key: &EventKey,
        generation: &Generation,
    ) -> BatchStatementRequest {
        let statement = match generation.replays {
            None => &self.first,
            Some(_) => &self.replayed,
        };
        let parameters = parameters
            .into_iter()
            .chain([string(&key.aggregate_id), number(&key.sequence)])
            .chain(generation.replays.map(number))
            .collect();
        BatchStatementRequest::builder()
            .statement(statement)
            .set_parameters(Some(parameters))
            .build()
            .expect("the statement is set")
    }
}

impl DynamoDbOutboxTable {
    /// Uses the table called `table`, whose writers spread pending events over at most `buckets`.
    pub fn new(client: Client, table: String, buckets: Buckets) -> Self {
        use attribute::{DEFERRED_AT, EXPIRES_AT, MESSAGE_ID, PUBLISHED_AT, STATE_BUCKET, STATUS};
        let published = Status::Published.as_str();
        let mark = format!(
            r#"SET "{STATUS}" = '{published}' SET "{PUBLISHED_AT}" = ? SET "{MESSAGE_ID}" = ? SET "{EXPIRES_AT}" = ? REMOVE "{STATE_BUCKET}""#
        );
        let defer = format!(r#"SET "{DEFERRED_AT}" = ?"#);
        Self {
            mark: ConditionalUpdate::new(&table, &mark),
            defer: ConditionalUpdate::new(&table, &defer),
            client,
            table,
            buckets,
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

    /// Executes 1–25 statements. Returns one outcome each, in order.
    async fn execute(
        &self,
        operation: &'static str,
        statements: Vec<BatchStatementRequest>,
    ) -> Result<Vec<MarkOutcome>, TableError> {
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
                    // A deleted item fails the condition as well.
                    Some(BatchStatementErrorCodeEnum::ConditionalCheckFailed) => {
                        MarkOutcome::NotPending
                    }
                    Some(
                        BatchStatementErrorCodeEnum::ValidationError
                        | BatchStatementErrorCodeEnum::ItemCollectionSizeLimitExceeded,
                    ) => MarkOutcome::Impossible,
                    // `ResourceNotFound` among them: the table is gone, perhaps to be restored.
                    code => {
                        tracing::warn!(
                            operation,
                            ?code,
                            message = error.message,
                            "update of an event failed; retrying"
                        );
                        MarkOutcome::TryAgain
                    }
                },
            })
            .collect())
    }

    async fn mark_all(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        let statements = published
            .iter()
            .map(|event| {
                let parameters = [
                    string(event.published_at),
                    string(&event.message_id),
                    number(event.expires_at),
                ];
                self.mark.request(parameters, &event.key, &event.generation)
            })
            .collect();
        self.execute("mark", statements).await
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

    async fn quarantine_with_reason(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let update = self
            .update_pending(&event.key, &event.generation)
            // `occurred_at` is the sort key of the index: without it the event would not be in the
            // index, and operators would not find it.
            .update_expression(
                "SET #status = :failed, #bucket = :bucket, #failed_at = :at, \
                 #failure = :failure, #attempts = :attempts, \
                 #occurred_at = if_not_exists(#occurred_at, :at)",
            )
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_names("#failed_at", attribute::FAILED_AT)
            .expression_attribute_names("#failure", attribute::FAILURE)
            .expression_attribute_names("#attempts", attribute::ATTEMPTS)
            .expression_attribute_names("#occurred_at", attribute::OCCURRED_AT)
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

    /// Returns an update of one event that is conditional on it being pending and of a generation;
    /// the caller adds what to set.
    fn update_pending(&self, key: &EventKey, generation: &Generation) -> UpdateItemFluentBuilder {
        let Generation {
            replays,
            retried_at,
            is_malformed,
        } = generation;
        let condition = format!(
            "#status = :pending AND {} AND {}",
            match replays {
                None if *is_malformed => "attribute_exists(#replays)",
                None => "attribute_not_exists(#replays)",
                Some(_) => "#replays = :replays",
            },
            match retried_at {
                // An attribute of another type is not the time of a retry.
                None => "NOT attribute_type(#retried_at, :string)",
                Some(_) => "#retried_at = :retried_at",
            }
        );
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .condition_expression(condition)
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_names("#replays", attribute::REPLAYS)
            .expression_attribute_names("#retried_at", attribute::RETRIED_AT)
            .expression_attribute_values(":pending", string(Status::Pending.as_str()));
        if let Some(replays) = replays {
            request = request.expression_attribute_values(":replays", number(replays));
        }
        match retried_at {
            Some(at) => request.expression_attribute_values(":retried_at", string(at)),
            None => request.expression_attribute_values(":string", string("S")),
        }
    }

    /// Writes the status and nothing else, for an item that is too large for more. The write
    /// removes more bytes than it adds.
    async fn set_status_only(
        &self,
        key: &EventKey,
        generation: &Generation,
        status: Status,
        bucket: Option<&str>,
    ) -> Result<MarkOutcome, TableError> {
        let request = self
            .update_pending(key, generation)
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
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

/// Attributes of an [`EarlierEvent`] and of a [`StoredStatus`].
const STATUS_ATTRIBUTES: [&str; 4] = [
    attribute::AGGREGATE_ID,
    attribute::SEQUENCE,
    attribute::STATUS,
    attribute::DEFERRED_AT,
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

/// Returns a projection expression of `attributes`, and its names.
pub(super) fn projection(attributes: &[&str]) -> (String, HashMap<String, String>) {
    let placeholders: Vec<_> = (0..attributes.len()).map(|n| format!("#p{n}")).collect();
    let names = placeholders.iter().cloned();
    let names = names.zip(attributes.iter().map(|&name| name.to_owned()));
    (placeholders.join(", "), names.collect())
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
        let statements = deferrals
            .iter()
            .map(|event| {
                let parameters = [string(event.deferred_at)];
                self.defer
                    .request(parameters, &event.key, &event.generation)
            })
            .collect();
        self.execute("defer", statements).await
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
