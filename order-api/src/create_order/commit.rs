//! The one transaction, and what is done until its outcome is known.
//!
//! Usually one round trip. When the outcome is not known, the order is looked
//! for; when it is not there, the very same transaction is sent again: the same
//! order id, so that it can take effect only once however often it arrives. The
//! caller bounds the whole with its deadline, and dropping the future at any
//! point leaves the transaction done or not done.

use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use shared::order::Order;

use super::commit_outcome::{self, Verdict};
use super::idempotency::Claim;
use crate::error::ApiError;
use crate::store::{Failure, Store, causes};

/// Attempts while DynamoDB throttles: more would feed the load.
const THROTTLED_ATTEMPTS: u32 = 3;

/// What a client that asked for an order gets.
#[derive(Debug)]
pub(super) enum Committed {
    /// The order of this request.
    New(Order),
    /// The order, as it was created, of an earlier request with the same key.
    Earlier(Order),
}

/// Pauses between attempts, 25 ms to 400 ms and up to twice that by jitter, at
/// most 5: conflicts with other transactions pass within milliseconds, and a
/// service that is away for seconds is the client's to wait for.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(Duration::from_millis(25))
        .with_max_delay(Duration::from_millis(400))
        .with_max_times(5)
        .build()
}

/// Stores `order`, `event` and the record of `claim`, all or nothing.
pub(super) async fn commit(
    store: &Store,
    order: Order,
    event: TransactWriteItem,
    claim: Option<Claim>,
) -> Result<Committed, ApiError> {
    let id = order.order_id;
    let request = request(store, &order, event, claim.as_ref()).map_err(|error| {
        tracing::error!(order_id = %id, %error, "an order cannot be written as an item");
        ApiError::Internal
    })?;
    let mut pauses = pauses();
    let mut throttled = 0;
    loop {
        let error = match request.clone().send().await {
            Ok(_) => return Ok(Committed::New(order)),
            Err(error) => error,
        };
        let (again, last) = match commit_outcome::interpret(Failure::of_transaction(&error), id) {
            Verdict::Committed => return Ok(Committed::New(order)),
            Verdict::KeyUsed(record) => {
                if !claim.as_ref().is_some_and(|claim| claim.is_of(&record)) {
                    return Err(ApiError::KeyReused);
                }
                // A transaction's items become visible one after the other to
                // reads outside of it, so the order may lag behind its record.
                match store.look(record.order_id).await {
                    Ok(Some(earlier)) => return Ok(Committed::Earlier(earlier.as_created())),
                    Ok(None) => (true, ApiError::Unavailable),
                    Err(error) => (true, error),
                }
            }
            Verdict::Look => match store.look(id).await {
                Ok(Some(_)) => return Ok(Committed::New(order)),
                Ok(None) => (true, ApiError::Unavailable),
                Err(error) => (true, error),
            },
            Verdict::Conflict => (true, ApiError::Unavailable),
            Verdict::Throttled => {
                throttled += 1;
                (throttled < THROTTLED_ATTEMPTS, ApiError::Throttled)
            }
            Verdict::Unavailable => (false, ApiError::Unavailable),
            Verdict::Refused => (false, ApiError::Internal),
        };
        match pauses.next().filter(|_| again) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                tracing::error!(
                    order_id = %id,
                    reason = causes(&error),
                    answer = last.kind(),
                    "an order was not confirmed"
                );
                return Err(last);
            }
        }
    }
}

/// The transaction; every attempt sends exactly this.
fn request(
    store: &Store,
    order: &Order,
    event: TransactWriteItem,
    claim: Option<&Claim>,
) -> Result<TransactWriteItemsFluentBuilder, serde_dynamo::Error> {
    let put_order = Put::builder()
        .table_name(&store.orders)
        .set_item(Some(order.to_item()?))
        .condition_expression("attribute_not_exists(order_id)")
        .build()
        .expect("table and item are set");
    let mut actions = vec![TransactWriteItem::builder().put(put_order).build(), event];
    if let Some(claim) = claim {
        let record = claim.record(order.order_id, order.created_at);
        let now = order.created_at.as_seconds().to_string();
        let put_key = Put::builder()
            .table_name(&store.idempotency)
            .set_item(Some(record.to_item()?))
            .condition_expression("attribute_not_exists(idempotency_key) OR expires_at < :now")
            .expression_attribute_values(":now", AttributeValue::N(now))
            // A repeated request finds its order without another read.
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .expect("table and item are set");
        debug_assert_eq!(actions.len(), commit_outcome::KEY);
        actions.push(TransactWriteItem::builder().put(put_key).build());
    }
    Ok(store
        .once
        .transact_write_items()
        .set_transact_items(Some(actions))
        // The SDK would make a new token for each attempt, and DynamoDB could
        // not know them for one.
        .client_request_token(order.order_id.to_string()))
}
