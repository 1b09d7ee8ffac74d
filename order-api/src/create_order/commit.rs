//! Sends the one transaction until its outcome is known.
//!
//! Usually one round trip. When the outcome is unknown, the order is read; if it does not exist,
//! the very same transaction is sent again: with the same order id, so that it takes effect only
//! once however often it arrives. The caller bounds the whole with its deadline, and dropping the
//! future at any point leaves the transaction either committed or without an effect.

use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::aws::error::Causes;
use shared::order::attribute::idempotency_keys::{EXPIRES_AT, IDEMPOTENCY_KEY};
use shared::order::attribute::orders::ORDER_ID;
use shared::order::{Order, OrderId};

use super::commit_outcome::{self, CommitOutcome};
use super::idempotency::Claim;
use crate::config::UnscopedKeys;
use crate::error::ApiError;
use crate::store::Store;

/// Attempts while DynamoDB throttles: more would add to the load.
const THROTTLED_ATTEMPTS: u32 = 3;

/// Attempts while other transactions hold the item of the key: requests with one key conflict.
const CONFLICTING_ATTEMPTS: usize = 12;

/// Attempts after any other failure. An outage of seconds is left to the client's retries.
const ATTEMPTS: usize = 6;

/// The order that a request receives.
#[derive(Debug)]
pub(super) enum Committed {
    /// The order of this request.
    New(Order),
    /// The order, as it was created, of an earlier request with the same key.
    Earlier(Order),
}

/// Returns the pauses between attempts, from 25 ms to 400 ms, at most doubled by jitter.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(Duration::from_millis(25))
        .with_max_delay(Duration::from_millis(400))
        .with_max_times(CONFLICTING_ATTEMPTS - 1)
        .build()
}

/// The order to look for if a request is not answered with it.
#[derive(Debug)]
pub(super) struct SoughtOrder {
    order_id: OrderId,
    pub(super) outcome_unknown: bool,
}

impl SoughtOrder {
    pub(super) fn new(order_id: OrderId) -> Self {
        Self {
            order_id,
            outcome_unknown: false,
        }
    }

    /// Adds the order to `error` if it may exist. It does not if the key is that of another
    /// request.
    pub(super) fn describe(&self, error: ApiError) -> ApiError {
        if self.outcome_unknown && !matches!(error, ApiError::KeyReused) {
            ApiError::OutcomeUnknown {
                order_id: self.order_id,
                cause: Box::new(error),
            }
        } else {
            error
        }
    }

    /// Records that this order may exist.
    fn may_be(&mut self, order_id: OrderId) {
        self.order_id = order_id;
        self.outcome_unknown = true;
    }
}

/// Stores `order`, `event` and the record of `claim`, all or nothing. Whether an order may exist
/// after an error is written to `sought`, also if the future is dropped.
pub(super) async fn commit(
    store: &Store,
    order: Order,
    event: TransactWriteItem,
    claim: Option<Claim>,
    sought: &mut SoughtOrder,
) -> Result<Committed, ApiError> {
    let id = order.order_id;
    let claim = claim.as_ref();
    let build = |unscoped| {
        request(store, &order, event.clone(), claim, unscoped).map_err(|error| {
            tracing::error!(order_id = %id, %error, "an order cannot be serialised as an item");
            ApiError::Internal
        })
    };
    let mut request = build(store.unscoped_keys)?;
    let mut pauses = pauses();
    let mut throttled = 0;
    let mut sent = 0;
    loop {
        sent += 1;
        let error = match request.clone().send().await {
            Ok(_) => return Ok(Committed::New(order)),
            Err(error) => error,
        };
        let mut attempts = ATTEMPTS;
        let (retry, response) = match commit_outcome::interpret(&error, id) {
            CommitOutcome::Committed => return Ok(Committed::New(order)),
            CommitOutcome::KeyUsed(record) => {
                if !claim.is_some_and(|claim| claim.matches(&record)) {
                    return Err(ApiError::KeyReused);
                }
                sought.may_be(record.order_id);
                // A transaction's items become visible to other reads one after the other, so the
                // order may be visible later than its record.
                match store.order_in_one_attempt(record.order_id).await {
                    Ok(Some(earlier)) => return Ok(Committed::Earlier(earlier.as_created())),
                    Ok(None) => (true, ApiError::Unavailable),
                    Err(error) => (true, error),
                }
            }
            CommitOutcome::UnscopedKeyUsed(record) => {
                let matches = claim.is_some_and(|claim| claim.matches(&record));
                if matches {
                    sought.may_be(record.order_id);
                }
                let customer_id = claim.map(Claim::customer_id);
                match store.order_in_one_attempt(record.order_id).await {
                    Ok(Some(earlier)) if matches => {
                        return Ok(Committed::Earlier(earlier.as_created()));
                    }
                    Ok(Some(earlier)) if Some(&earlier.customer_id) == customer_id => {
                        return Err(ApiError::KeyReused);
                    }
                    Ok(None) if matches => (true, ApiError::Unavailable),
                    // The key is that of another customer.
                    Ok(_) => {
                        request = build(UnscopedKeys::Ignore)?;
                        continue;
                    }
                    Err(error) => (true, error),
                }
            }
            CommitOutcome::Unknown => {
                sought.may_be(id);
                match store.order_in_one_attempt(id).await {
                    Ok(Some(_)) => return Ok(Committed::New(order)),
                    Ok(None) => (true, ApiError::Unavailable),
                    Err(error) => (true, error),
                }
            }
            CommitOutcome::Conflict => {
                attempts = CONFLICTING_ATTEMPTS;
                (true, ApiError::Unavailable)
            }
            CommitOutcome::Throttled => {
                throttled += 1;
                (throttled < THROTTLED_ATTEMPTS, ApiError::Throttled)
            }
            CommitOutcome::Unavailable => (false, ApiError::Unavailable),
            CommitOutcome::CredentialsRejected => {
                store.record_rejected_credentials("TransactWriteItems", &error);
                (false, ApiError::Unavailable)
            }
            CommitOutcome::Rejected => (false, ApiError::Internal),
        };
        match pauses.next().filter(|_| retry && sent < attempts) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                tracing::error!(
                    order_id = %id,
                    reason = %Causes(&error),
                    response = response.kind(),
                    "an order was not confirmed"
                );
                return Err(response);
            }
        }
    }
}

/// Builds the transaction; every attempt sends exactly this.
fn request(
    store: &Store,
    order: &Order,
    event: TransactWriteItem,
    claim: Option<&Claim>,
    unscoped: UnscopedKeys,
) -> Result<TransactWriteItemsFluentBuilder, serde_dynamo::Error> {
    let put_order = Put::builder()
        .table_name(&store.orders)
        .set_item(Some(order.to_item()?))
        .condition_expression(format!("attribute_not_exists({ORDER_ID})"))
        .build()
        .expect("table and item are set");
    let mut actions = vec![TransactWriteItem::builder().put(put_order).build(), event];
    if let Some(claim) = claim {
        let record = claim.record(order.order_id, order.created_at);
        let now = order.created_at.as_seconds().to_string();
        let is_free = format!("attribute_not_exists({IDEMPOTENCY_KEY}) OR {EXPIRES_AT} < :now");
        let put_key = Put::builder()
            .table_name(&store.idempotency)
            .set_item(Some(record.to_item()?))
            .condition_expression(&is_free)
            .expression_attribute_values(":now", AttributeValue::N(now.clone()))
            // A repeated request learns its order without another read.
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("table and item are set");
        debug_assert_eq!(actions.len(), commit_outcome::KEY);
        actions.push(TransactWriteItem::builder().put(put_key).build());
        let unscoped_key = claim.unscoped_key();
        if let Some(key) = unscoped_key.filter(|_| unscoped == UnscopedKeys::Check) {
            let key = AttributeValue::S(key.to_owned());
            let check = ConditionCheck::builder()
                .table_name(&store.idempotency)
                .key(IDEMPOTENCY_KEY, key)
                .condition_expression(is_free)
                .expression_attribute_values(":now", AttributeValue::N(now))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .build()
                .expect("table, key and condition are set");
            debug_assert_eq!(actions.len(), commit_outcome::UNSCOPED_KEY);
            actions.push(TransactWriteItem::builder().condition_check(check).build());
        }
    }
    // The SDK would generate a new token for each attempt, and DynamoDB could not recognise them as
    // one request. A token belongs to one content.
    let token = match unscoped {
        UnscopedKeys::Check => order.order_id.to_string(),
        UnscopedKeys::Ignore => order.order_id.to_string().replace('-', ""),
    };
    Ok(store
        .single_attempt
        .transact_write_items()
        .set_transact_items(Some(actions))
        .client_request_token(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_may_exist_is_named_unless_its_key_belongs_to_another() {
        let id = OrderId::generate();
        let mut sought = SoughtOrder::new(id);
        assert!(matches!(
            sought.describe(ApiError::Unavailable),
            ApiError::Unavailable
        ));
        sought.may_be(id);
        let named = sought.describe(ApiError::Unavailable);
        assert!(
            matches!(named, ApiError::OutcomeUnknown { order_id, .. } if order_id == id),
            "{named}"
        );
        let reused = sought.describe(ApiError::KeyReused);
        assert!(matches!(reused, ApiError::KeyReused), "{reused}");
    }
}
