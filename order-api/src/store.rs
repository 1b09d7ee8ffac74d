//! The tables, and reading orders from them.

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Outbox;
use shared::aws::ATTEMPT_TIMEOUT;
use shared::aws::error::{Causes, ErrorClass, classify, describe};
use shared::order::attribute::orders::ORDER_ID;
use shared::order::{Order, OrderId};
use shared::runtime::denials::Denials;

use crate::config::{Config, UnscopedKeys};
use crate::error::ApiError;

/// The tables of one deployment.
#[derive(Debug)]
pub(crate) struct Store {
    /// Client whose SDK retries failed requests.
    retrying: Client,
    /// Client that sends each request once: `create_order` decides what follows a failed
    /// transaction.
    pub(crate) single_attempt: Client,
    pub(crate) orders: String,
    pub(crate) idempotency: String,
    pub(crate) unscoped_keys: UnscopedKeys,
    pub(crate) outbox: Outbox,
    /// Denied requests, for `/readyz`.
    denials: Arc<Denials>,
}

impl Store {
    pub(crate) fn new(config: &Config, dynamodb: &Client, denials: Arc<Denials>) -> Self {
        // An attempt that hangs must leave time to read the order and to send again.
        let attempt_timeout = ATTEMPT_TIMEOUT.min(config.request_timeout / 3);
        let retrying = dynamodb
            .config()
            .to_builder()
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(attempt_timeout)
                    .operation_attempt_timeout(attempt_timeout)
                    .build(),
            )
            .build();
        let single_attempt = retrying
            .to_builder()
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            retrying: Client::from_conf(retrying),
            single_attempt: Client::from_conf(single_attempt),
            orders: config.orders_table.clone(),
            idempotency: config.idempotency_table.clone(),
            unscoped_keys: config.unscoped_keys,
            outbox: Outbox::new(&config.outbox_table).with_buckets(config.outbox_buckets),
            denials,
        }
    }

    /// Returns the order in its current state, by a consistent read.
    pub(crate) async fn order(&self, id: OrderId) -> Result<Option<Order>, ApiError> {
        self.read(&self.retrying, id).await
    }

    /// Returns the order like [`Store::order`], but in a single attempt, for a caller that retries
    /// by itself.
    pub(crate) async fn order_in_one_attempt(
        &self,
        id: OrderId,
    ) -> Result<Option<Order>, ApiError> {
        self.read(&self.single_attempt, id).await
    }

    async fn read(&self, dynamodb: &Client, id: OrderId) -> Result<Option<Order>, ApiError> {
        let response = dynamodb
            .get_item()
            .table_name(&self.orders)
            .key(ORDER_ID, AttributeValue::S(id.to_string()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| {
                let class = classify(&error);
                if class.is_refusal_of_credentials() {
                    self.record_rejected_credentials("GetItem", &error);
                } else {
                    tracing::warn!(order_id = %id, reason = %Causes(&error), "reading an order failed");
                }
                read_error(class)
            })?;
        response
            .item
            .map(Order::from_item)
            .transpose()
            .map_err(|error| {
                tracing::error!(order_id = %id, %error, "a stored order is malformed");
                ApiError::Internal
            })
    }

    /// Logs that AWS rejects the credentials of this process, and reports it at `/readyz`. Requests
    /// fail until an operator renews them or grants the permission, so clients are told to come
    /// back, not that there is a defect.
    pub(crate) fn record_rejected_credentials<E>(
        &self,
        operation: &'static str,
        error: &SdkError<E>,
    ) where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.denials.record(operation, error);
        tracing::error!(
            reason = describe(error),
            "AWS rejects the credentials of this process: renew them, or grant the permission; requests get 503 until then"
        );
    }
}

/// Returns what a failed read means for the client.
fn read_error(class: ErrorClass) -> ApiError {
    match class {
        ErrorClass::Throttled => ApiError::Throttled,
        ErrorClass::NotFound
        | ErrorClass::Unavailable
        | ErrorClass::Timeout
        | ErrorClass::Conflict
        | ErrorClass::AccessDenied
        | ErrorClass::Credentials => ApiError::Unavailable,
        ErrorClass::ConditionFailed
        | ErrorClass::Rejected
        | ErrorClass::NotSent
        | ErrorClass::Other => ApiError::Internal,
    }
}
