//! The tables, and what DynamoDB's errors are to this API.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Outbox;
use shared::aws::ATTEMPT_TIMEOUT;
use shared::order::{Order, OrderId};

use crate::config::Config;
use crate::error::ApiError;

/// The tables of one deployment.
#[derive(Debug)]
pub(crate) struct Store {
    /// Repeats by itself what failed.
    repeating: Client,
    /// Sends what it is given once: what follows a failed transaction is
    /// decided in `create_order`.
    pub(crate) once: Client,
    pub(crate) orders: String,
    pub(crate) idempotency: String,
    pub(crate) outbox: Outbox,
}

/// What went wrong, as far as deciding on needs to know.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// A transaction that did not happen; one reason for each of its actions.
    Cancelled(Vec<Reason>),
    /// Refused because of load; did not happen.
    Throttled,
    /// A table does not exist; did not happen, and may heal.
    MissingTable,
    /// Refused for good (access, validation); did not happen.
    Refused,
    /// No answer, or one that leaves open whether it happened.
    Unknown,
}

/// Why one action of a transaction was cancelled.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Reason {
    pub(crate) code: String,
    /// The item in the way, when it was asked for.
    pub(crate) item: Option<HashMap<String, AttributeValue>>,
}

impl Store {
    pub(crate) fn new(config: &Config, dynamodb: &Client) -> Self {
        // An attempt that hangs has to leave time to look and to send again.
        let attempt = ATTEMPT_TIMEOUT.min(config.request_timeout / 3);
        let repeating = dynamodb
            .config()
            .to_builder()
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(attempt)
                    .operation_attempt_timeout(attempt)
                    .build(),
            )
            .build();
        let once = repeating
            .to_builder()
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            repeating: Client::from_conf(repeating),
            once: Client::from_conf(once),
            orders: config.orders_table.clone(),
            idempotency: config.idempotency_table.clone(),
            outbox: Outbox::new(&config.outbox_table),
        }
    }

    /// The order as it is now: reads what was written a moment ago.
    pub(crate) async fn order(&self, id: OrderId) -> Result<Option<Order>, ApiError> {
        self.read(&self.repeating, id).await
    }

    /// The same in a single attempt, for a caller that has attempts of its own.
    pub(crate) async fn look(&self, id: OrderId) -> Result<Option<Order>, ApiError> {
        self.read(&self.once, id).await
    }

    async fn read(&self, dynamodb: &Client, id: OrderId) -> Result<Option<Order>, ApiError> {
        let answer = dynamodb
            .get_item()
            .table_name(&self.orders)
            .key("order_id", AttributeValue::S(id.to_string()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| {
                tracing::warn!(order_id = %id, reason = causes(&error), "an order cannot be read");
                Failure::of(&error)
            })?;
        answer
            .item
            .map(Order::from_item)
            .transpose()
            .map_err(|error| {
                tracing::error!(order_id = %id, %error, "a stored order is malformed");
                ApiError::Internal
            })
    }
}

/// An error and what caused it, on one line. The SDK's own errors name only
/// their class.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

impl Failure {
    /// Sorts an error of any operation.
    pub(crate) fn of<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Self {
        match error {
            SdkError::ServiceError(service) if service.raw().status().is_server_error() => {
                Self::Unknown
            }
            SdkError::ServiceError(service) => Self::of_code(service.err().code()),
            // Never left this process.
            SdkError::ConstructionFailure(_) => Self::Refused,
            _ => Self::Unknown,
        }
    }

    /// Sorts an error of a transaction.
    pub(crate) fn of_transaction(error: &SdkError<TransactWriteItemsError>) -> Self {
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                let reasons = cancelled.cancellation_reasons().iter();
                Self::Cancelled(
                    reasons
                        .map(|reason| Reason {
                            code: reason.code().unwrap_or("None").to_owned(),
                            item: reason.item().cloned(),
                        })
                        .collect(),
                )
            }
            _ => Self::of(error),
        }
    }

    fn of_code(code: Option<&str>) -> Self {
        match code {
            Some(
                "ThrottlingException"
                | "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "LimitExceededException",
            ) => Self::Throttled,
            Some("ResourceNotFoundException") => Self::MissingTable,
            // An earlier attempt with the same token still runs.
            Some("TransactionInProgressException") | None => Self::Unknown,
            Some(_) => Self::Refused,
        }
    }
}

/// What a failed read is to the client.
impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Throttled => Self::Throttled,
            Failure::MissingTable | Failure::Unknown => Self::Unavailable,
            Failure::Cancelled(_) | Failure::Refused => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_sorted_by_what_can_be_done() {
        for (code, failure) in [
            (Some("ThrottlingException"), Failure::Throttled),
            (
                Some("ProvisionedThroughputExceededException"),
                Failure::Throttled,
            ),
            (Some("RequestLimitExceeded"), Failure::Throttled),
            (Some("ResourceNotFoundException"), Failure::MissingTable),
            (Some("TransactionInProgressException"), Failure::Unknown),
            (Some("AccessDeniedException"), Failure::Refused),
            (Some("ValidationException"), Failure::Refused),
            (None, Failure::Unknown),
        ] {
            assert_eq!(Failure::of_code(code), failure, "{code:?}");
        }
    }
}
