//! The two writes that settle an order. Each is conditional on the order still
//! being CREATED, so that either can be sent any number of times, by any number
//! of workers, with an unknown outcome before it, and takes effect once.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use outbox::timestamp::Timestamp;
use shared::aws::error::describe;
use shared::order::{OrderId, OrderPlaced, OrderStatus, PlacedLine};
use shared::runtime::health::Check;

use crate::attempt_error::{AttemptError, of_error_code};
use crate::transaction_outcome::{Cancelled, Outcome, interpret, of_order_condition};

/// The orders and the stock.
#[derive(Clone, Debug)]
pub(crate) struct InventoryStore {
    pub dynamodb: Client,
    pub orders: String,
    pub inventory: String,
}

impl InventoryStore {
    /// One attempt to settle `order`: reserve its stock, or reject it when
    /// there is not enough.
    pub(crate) async fn settle(&self, order: &OrderPlaced) -> Result<Outcome, AttemptError> {
        match self.reserve(order).await {
            Ok(()) => Ok(Outcome::Processed),
            Err(Cancelled::Duplicate) => Ok(Outcome::Duplicate),
            Err(Cancelled::Short(reason)) => self.reject(order.order_id, reason).await,
            Err(Cancelled::Failed(trouble)) => Err(trouble),
        }
    }

    /// Whether both tables exist and answer. Two requests, at the same time.
    pub(crate) async fn check(&self) -> [Check; 2] {
        let (orders, inventory) = tokio::join!(
            Check::table(&self.dynamodb, &self.orders),
            Check::table(&self.dynamodb, &self.inventory),
        );
        [orders, inventory]
    }

    async fn reserve(&self, order: &OrderPlaced) -> Result<(), Cancelled> {
        // The order comes first, then its lines: `interpret` relies on it.
        let actions = std::iter::once(self.set_processed(order.order_id))
            .chain(order.items.iter().map(|line| self.move_stock(line)));
        let sent = self
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(actions.collect()))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    interpret(order, cancelled.cancellation_reasons())
                }
                _ => Cancelled::Failed(trouble(&error)),
            }),
        }
    }

    /// The order may have been settled since the stock was found short, by a
    /// worker that found more: then this finds it so, and changes nothing.
    async fn reject(&self, order_id: OrderId, reason: String) -> Result<Outcome, AttemptError> {
        let sent = self
            .dynamodb
            .update_item()
            .table_name(&self.orders)
            .key("order_id", AttributeValue::S(order_id.to_string()))
            .update_expression(
                "SET #status = :rejected, rejection_reason = :reason, \
                 version = version + :one, updated_at = :now",
            )
            .condition_expression("#status = :created")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":rejected", status(OrderStatus::Rejected))
            .expression_attribute_values(":created", status(OrderStatus::Created))
            .expression_attribute_values(":reason", AttributeValue::S(reason.clone()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":now", now())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match sent {
            Ok(_) => return Ok(Outcome::Rejected(reason)),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(failed)) =
            error.as_service_error()
        else {
            return Err(trouble(&error));
        };
        let stored = failed.item().filter(|item| !item.is_empty());
        match of_order_condition(stored) {
            Some(Cancelled::Duplicate) => Ok(Outcome::Duplicate),
            Some(Cancelled::Failed(trouble)) => Err(trouble),
            Some(Cancelled::Short(_)) | None => Err(AttemptError::Conflict),
        }
    }

    fn set_processed(&self, order_id: OrderId) -> TransactWriteItem {
        let update = Update::builder()
            .table_name(&self.orders)
            .key("order_id", AttributeValue::S(order_id.to_string()))
            .update_expression(
                "SET #status = :processed, version = version + :one, updated_at = :now",
            )
            .condition_expression("#status = :created")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":processed", status(OrderStatus::Processed))
            .expression_attribute_values(":created", status(OrderStatus::Created))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":now", now());
        action(update)
    }

    fn move_stock(&self, line: &PlacedLine) -> TransactWriteItem {
        let quantity = line.quantity.get().to_string();
        let update = Update::builder()
            .table_name(&self.inventory)
            .key("sku", AttributeValue::S(line.sku.to_string()))
            .update_expression(
                "SET available = available - :quantity, reserved = reserved + :quantity",
            )
            .condition_expression("attribute_exists(sku) AND available >= :quantity")
            .expression_attribute_values(":quantity", AttributeValue::N(quantity));
        action(update)
    }
}

/// The stored item comes with a failed condition, so that no second request is
/// needed to learn why, and nothing can change between the two.
fn action(update: aws_sdk_dynamodb::types::builders::UpdateBuilder) -> TransactWriteItem {
    let update = update
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
        .expect("table, key and expression are set");
    TransactWriteItem::builder().update(update).build()
}

fn status(status: OrderStatus) -> AttributeValue {
    AttributeValue::S(status.as_str().to_owned())
}

fn now() -> AttributeValue {
    AttributeValue::S(Timestamp::now().to_string())
}

fn trouble<E, R>(error: &SdkError<E, R>) -> AttemptError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    of_error_code(error.code(), describe(error))
}
