//! Retry, discard and replay, one event at a time. Each is one write that is conditional on the
//! state it starts from, so that a repeated or concurrent one changes nothing and reports so.
//!
//! An item near DynamoDB's limit of 400 KB may not have the capacity for the attributes that a
//! change adds. Each change then removes attributes of an earlier failure or publication, and as a
//! last resort writes the status only.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use outbox::Status;
use outbox::item::attribute;
use outbox::timestamp::Timestamp;
use serde::Serialize;
use shared::aws::error::{ErrorClass, classify};

use super::DynamoDbOutboxTable;
use super::attribute_value::{item_key, number, string};
use crate::item::text;
use crate::{EventKey, TableError};

/// Result of a change of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventChange {
    pub aggregate_id: String,
    pub sequence: String,
    /// `true` if this call changed the event.
    pub changed: bool,
    /// Status of the event after the call; `None` if the event does not exist.
    pub status: Option<String>,
}

impl EventChange {
    fn of(key: &EventKey, changed: bool, status: Option<String>) -> Self {
        Self {
            aggregate_id: key.aggregate_id.clone(),
            sequence: key.sequence.clone(),
            changed,
            status,
        }
    }

    /// Returns `true` if the event is in `status` after the call.
    pub fn is(&self, status: Status) -> bool {
        self.status.as_deref() == Some(status.as_str())
    }
}

impl DynamoDbOutboxTable {
    /// Makes a failed event pending again; the sweeper then publishes it with its stored trace
    /// context. An event in any other state is left unchanged.
    pub async fn retry(&self, key: &EventKey) -> Result<EventChange, TableError> {
        let bare = self.pending_again(key, Status::Failed);
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::RETRIED_AT)
            .expression_attribute_values(":at", string(Timestamp::now().to_string()));
        let response = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at REMOVE #expires, #deferred",
            ),
            without_history(whole).update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at \
                 REMOVE #expires, #deferred, #failed_at, #failure, #attempts",
            ),
            // This is no larger than the item was when it was first pending.
            without_history(bare).update_expression(
                "SET #status = :status, #bucket = :bucket \
                 REMOVE #expires, #deferred, #failed_at, #failure, #attempts",
            ),
        ])
        .await;
        self.changed(key, Status::Pending, response)
    }

    /// Discards a failed or pending event: it stays in the table with `reason`, without a time to
    /// live, and is not sent any more. A message of a pending event that a relay is sending at this
    /// moment may still arrive. An item that is too large for it is discarded without reason and
    /// time.
    pub async fn discard(&self, key: &EventKey, reason: &str) -> Result<EventChange, TableError> {
        let bare = self
            .update(key, Status::Failed, Status::Discarded)
            .condition_expression("#status IN (:from, :pending)")
            .expression_attribute_values(":pending", string(Status::Pending.as_str()))
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET);
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::DISCARDED_AT)
            .expression_attribute_names("#reason", attribute::DISCARD_REASON)
            .expression_attribute_values(":at", string(Timestamp::now().to_string()))
            .expression_attribute_values(":reason", string(reason));
        let response = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #at = :at, #reason = :reason REMOVE #bucket",
            ),
            without_history(whole).update_expression(
                "SET #status = :status, #at = :at, #reason = :reason \
                 REMOVE #bucket, #failed_at, #failure, #attempts",
            ),
            // This is smaller than the stored item.
            without_history(bare).update_expression(
                "SET #status = :status REMOVE #bucket, #failed_at, #failure, #attempts",
            ),
        ])
        .await;
        self.changed(key, Status::Discarded, response)
    }

    /// Makes a published event pending again, to be sent once more on purpose. Its message carries
    /// the number of the replay: see [`outbox::message::REPLAY_ATTRIBUTE`].
    pub async fn replay(&self, key: &EventKey) -> Result<EventChange, TableError> {
        let bare = self
            .pending_again(key, Status::Published)
            .expression_attribute_names("#replays", attribute::REPLAYS)
            .expression_attribute_values(":one", number(1));
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::REPLAYED_AT)
            .expression_attribute_values(":at", string(Timestamp::now().to_string()));
        let response = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at REMOVE #expires, #deferred \
                 ADD #replays :one",
            ),
            without_publication(whole).update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at \
                 REMOVE #expires, #deferred, #published_at, #message_id ADD #replays :one",
            ),
            without_publication(bare).update_expression(
                "SET #status = :status, #bucket = :bucket \
                 REMOVE #expires, #deferred, #published_at, #message_id ADD #replays :one",
            ),
        ])
        .await;
        self.changed(key, Status::Pending, response)
    }

    /// Returns the update from one state to another; the caller adds what to set.
    fn update(&self, key: &EventKey, from: Status, to: Status) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .condition_expression("#status = :from")
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_values(":from", string(from.as_str()))
            .expression_attribute_values(":status", string(to.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Returns the update from `from` to pending with the names and values that it needs: it puts
    /// the event into the index and removes its time to live, which on a pending event would be
    /// loss. It is not deferred any more: the relay decides that again.
    fn pending_again(&self, key: &EventKey, from: Status) -> UpdateItemFluentBuilder {
        let bucket = self.buckets.partition_of(&key.aggregate_id);
        self.update(key, from, Status::Pending)
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_names("#expires", attribute::EXPIRES_AT)
            .expression_attribute_names("#deferred", attribute::DEFERRED_AT)
            .expression_attribute_values(":bucket", string(bucket))
    }

    fn changed<T>(
        &self,
        key: &EventKey,
        to: Status,
        response: Result<T, SdkError<UpdateItemError>>,
    ) -> Result<EventChange, TableError> {
        match response {
            Ok(_) => Ok(EventChange::of(key, true, Some(to.as_str().to_owned()))),
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                let item = match error.into_err() {
                    UpdateItemError::ConditionalCheckFailedException(failed) => failed.item,
                    _ => None,
                };
                let status = item.map(|item| {
                    text(&item, attribute::STATUS).unwrap_or_else(|| "no status".to_owned())
                });
                Ok(EventChange::of(key, false, status))
            }
            Err(error) if is_too_large(&error) => Err(TableError::ItemTooLarge(key.clone())),
            Err(error) => Err(self.error(&error)),
        }
    }
}

/// Adds the names of the attributes of a failure, to be removed.
fn without_history(request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    request
        .expression_attribute_names("#failed_at", attribute::FAILED_AT)
        .expression_attribute_names("#failure", attribute::FAILURE)
        .expression_attribute_names("#attempts", attribute::ATTEMPTS)
}

/// Adds the names of the attributes of a publication, to be removed.
fn without_publication(request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    request
        .expression_attribute_names("#published_at", attribute::PUBLISHED_AT)
        .expression_attribute_names("#message_id", attribute::MESSAGE_ID)
}

/// Sends the requests, each of which needs less space than the one before, until one is not
/// rejected for the size of the item.
async fn first_that_fits(
    [whole, smaller, smallest]: [UpdateItemFluentBuilder; 3],
) -> Result<UpdateItemOutput, SdkError<UpdateItemError>> {
    for request in [whole, smaller] {
        match request.send().await {
            Err(error) if is_too_large(&error) => {}
            response => return response,
        }
    }
    smallest.send().await
}

/// Returns `true` if the item exceeds the limit of 400 KB. DynamoDB has no code of its own for
/// this; its text is "Item size to update has exceeded the maximum allowed size".
fn is_too_large(error: &SdkError<UpdateItemError>) -> bool {
    classify(error) == ErrorClass::Rejected
        && error
            .message()
            .is_some_and(|text| text.contains("maximum allowed size"))
}
