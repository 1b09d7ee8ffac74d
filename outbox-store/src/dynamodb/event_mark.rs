//! The relay's changes of events: published, quarantined, deferred. Each is conditional on the
//! event being pending and of the generation that was sent.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    BatchStatementErrorCodeEnum, BatchStatementRequest, ReturnValuesOnConditionCheckFailure,
};
use outbox::Status;
use outbox::item::{FAILED_BUCKET, attribute};
use shared::aws::error::{Causes, ErrorClass, classify};

use super::DynamoDbOutboxTable;
use super::attribute_value::{item_key, number, string};
use crate::{Deferral, EventKey, Generation, MarkOutcome, Published, Quarantine, TableError};

impl DynamoDbOutboxTable {
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
                    // `ResourceNotFound` among them: the table was deleted, perhaps to be restored.
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

    pub(super) async fn mark_all(
        &self,
        published: &[Published],
    ) -> Result<Vec<MarkOutcome>, TableError> {
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

    pub(super) async fn defer_all(
        &self,
        deferrals: &[Deferral],
    ) -> Result<Vec<MarkOutcome>, TableError> {
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

    pub(super) async fn quarantine_with_reason(
        &self,
        event: &Quarantine,
    ) -> Result<MarkOutcome, TableError> {
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
    pub(super) async fn set_status_only(
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
