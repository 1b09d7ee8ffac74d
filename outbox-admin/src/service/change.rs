//! Retry, discard and replay, one event at a time. Each is one write on the
//! condition of the state it starts from.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use outbox::Status;
use outbox::item::{attribute, pending_bucket};
use outbox::timestamp::Timestamp;
use outbox_store::{EventKey, LeaseTable};
use serde::Serialize;

use super::event::text;
use super::{OperateError, Operator, failed};

/// Bytes a reason may have: it is kept within the event's 400 KB.
pub const MAX_REASON: usize = 1_024;

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Acted {
    pub aggregate_id: String,
    pub sequence: String,
    /// Whether this call changed it.
    pub changed: bool,
    /// What it is now; `None` when there is no such event.
    pub status: Option<String>,
}

impl Acted {
    fn of(key: &EventKey, changed: bool, status: Option<String>) -> Self {
        Self {
            aggregate_id: key.aggregate_id.clone(),
            sequence: key.sequence.clone(),
            changed,
            status,
        }
    }

    /// Whether the event is now `status`.
    pub fn is(&self, status: Status) -> bool {
        self.status.as_deref() == Some(status.as_str())
    }
}

impl Operator {
    /// Makes a failed event pending again; the sweeper publishes it with its
    /// stored trace, soon after [`Operator::request_sweep`]. An event in any
    /// other state is left as it is. An item as large as items can be loses
    /// the history of its failure, and if that makes too little room, goes
    /// without the time of the retry.
    pub async fn retry(&self, key: &EventKey) -> Result<Acted, OperateError> {
        let bare = pending(self.update(key, Status::Failed, Status::Pending), key);
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::RETRIED_AT)
            .expression_attribute_values(":at", AttributeValue::S(Timestamp::now().to_string()));
        let answer = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at REMOVE #expires",
            ),
            without_history(whole).update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at \
                 REMOVE #expires, #failed_at, #failure, #attempts",
            ),
            // It fitted when it was pending first.
            without_history(bare).update_expression(
                "SET #status = :status, #bucket = :bucket \
                 REMOVE #expires, #failed_at, #failure, #attempts",
            ),
        ])
        .await;
        self.acted(key, Status::Pending, answer)
    }

    /// Gives a failed event up for good. It stays in the table with `reason`,
    /// at most [`MAX_REASON`] bytes, and is not deleted by time. An item as
    /// large as items can be loses the history of its failure, and if that
    /// makes too little room, goes without reason and time.
    pub async fn discard(&self, key: &EventKey, reason: &str) -> Result<Acted, OperateError> {
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(OperateError::Invalid(format!(
                "a reason has 1 to {MAX_REASON} bytes"
            )));
        }
        let bare = self
            .update(key, Status::Failed, Status::Discarded)
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET);
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::DISCARDED_AT)
            .expression_attribute_names("#reason", attribute::DISCARD_REASON)
            .expression_attribute_values(":at", AttributeValue::S(Timestamp::now().to_string()))
            .expression_attribute_values(":reason", AttributeValue::S(reason.to_owned()));
        let answer = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #at = :at, #reason = :reason REMOVE #bucket",
            ),
            without_history(whole).update_expression(
                "SET #status = :status, #at = :at, #reason = :reason \
                 REMOVE #bucket, #failed_at, #failure, #attempts",
            ),
            // Smaller than what is stored.
            without_history(bare).update_expression(
                "SET #status = :status REMOVE #bucket, #failed_at, #failure, #attempts",
            ),
        ])
        .await;
        self.acted(key, Status::Discarded, answer)
    }

    /// Makes a published event pending again, to be sent once more on purpose.
    /// Its message says so: see [`outbox::message::REPLAY_ATTRIBUTE`]. An item as
    /// large as items can be loses what is kept of its publication, which the
    /// next one writes anew, and if that makes too little room, goes without the
    /// time of the replay.
    pub async fn replay(&self, key: &EventKey) -> Result<Acted, OperateError> {
        let bare = pending(self.update(key, Status::Published, Status::Pending), key)
            .expression_attribute_names("#replays", attribute::REPLAYS)
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()));
        let whole = bare
            .clone()
            .expression_attribute_names("#at", attribute::REPLAYED_AT)
            .expression_attribute_values(":at", AttributeValue::S(Timestamp::now().to_string()));
        let answer = first_that_fits([
            whole.clone().update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at REMOVE #expires \
                 ADD #replays :one",
            ),
            without_publication(whole).update_expression(
                "SET #status = :status, #bucket = :bucket, #at = :at \
                 REMOVE #expires, #published_at, #message_id ADD #replays :one",
            ),
            without_publication(bare).update_expression(
                "SET #status = :status, #bucket = :bucket \
                 REMOVE #expires, #published_at, #message_id ADD #replays :one",
            ),
        ])
        .await;
        self.acted(key, Status::Pending, answer)
    }

    /// Asks the instance that sweeps to do so now rather than at its next
    /// turn; it sees the request when it renews its lease. Where no relay of
    /// the group has come to this stream yet, the first one begins with a
    /// sweep.
    pub async fn request_sweep(&self) -> Result<(), OperateError> {
        let stream = self.stream_arn().await?;
        let asked = self.leases.ask_for_sweep(&stream).await;
        asked.map_err(|error| OperateError::Unavailable(error.to_string()))
    }

    /// The write from one state to another; the caller adds what to set.
    fn update(&self, key: &EventKey, from: Status, to: Status) -> UpdateItemFluentBuilder {
        self.dynamodb
            .update_item()
            .table_name(&self.outbox_table)
            .set_key(Some(item_key(key)))
            .condition_expression("#status = :from")
            .expression_attribute_names("#status", attribute::STATUS)
            .expression_attribute_values(":from", AttributeValue::S(from.as_str().to_owned()))
            .expression_attribute_values(":status", AttributeValue::S(to.as_str().to_owned()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    fn acted<T>(
        &self,
        key: &EventKey,
        to: Status,
        answer: Result<T, SdkError<UpdateItemError>>,
    ) -> Result<Acted, OperateError> {
        match answer {
            Ok(_) => Ok(Acted::of(key, true, Some(to.as_str().to_owned()))),
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
                Ok(Acted::of(key, false, status))
            }
            Err(error) if is_too_large(&error) => Err(OperateError::TooLarge(format!(
                "event {} of `{}` has no room for the change within DynamoDB's 400 KB",
                key.sequence, key.aggregate_id
            ))),
            Err(error) => Err(failed(&self.outbox_table, &error)),
        }
    }
}

/// Names what is kept of a failure, to be removed.
fn without_history(request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    request
        .expression_attribute_names("#failed_at", attribute::FAILED_AT)
        .expression_attribute_names("#failure", attribute::FAILURE)
        .expression_attribute_names("#attempts", attribute::ATTEMPTS)
}

/// Names what is kept of a publication, to be removed.
fn without_publication(request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    request
        .expression_attribute_names("#published_at", attribute::PUBLISHED_AT)
        .expression_attribute_names("#message_id", attribute::MESSAGE_ID)
}

/// Sends the requests, each asking for less room than the one before, until
/// one is not refused for the size of the item.
async fn first_that_fits(
    [whole, smaller, smallest]: [UpdateItemFluentBuilder; 3],
) -> Result<UpdateItemOutput, SdkError<UpdateItemError>> {
    for request in [whole, smaller] {
        match request.send().await {
            Err(error) if is_too_large(&error) => {}
            answer => return answer,
        }
    }
    smallest.send().await
}

/// DynamoDB has no code of its own for this; its text is "Item size to update
/// has exceeded the maximum allowed size".
fn is_too_large(error: &SdkError<UpdateItemError>) -> bool {
    error.code() == Some("ValidationException")
        && error
            .message()
            .is_some_and(|text| text.contains("maximum allowed size"))
}

/// Whatever makes an event pending puts it into the index, and takes its time
/// to live away: on a pending event that would be loss.
fn pending(request: UpdateItemFluentBuilder, key: &EventKey) -> UpdateItemFluentBuilder {
    request
        .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
        .expression_attribute_names("#expires", attribute::EXPIRES_AT)
        .expression_attribute_values(
            ":bucket",
            AttributeValue::S(pending_bucket(&key.aggregate_id)),
        )
}

pub(super) fn item_key(key: &EventKey) -> HashMap<String, AttributeValue> {
    HashMap::from([
        (
            attribute::AGGREGATE_ID.to_owned(),
            AttributeValue::S(key.aggregate_id.clone()),
        ),
        (
            attribute::SEQUENCE.to_owned(),
            AttributeValue::N(key.sequence.clone()),
        ),
    ])
}
