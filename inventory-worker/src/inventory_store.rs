//! The two writes that decide an order: reserve its stock, or reject it. Each is conditional on the
//! order still being CREATED, so that either can be sent any number of times, by any number of
//! workers, after any attempt with an unknown outcome, and takes effect once.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use outbox::timestamp::Timestamp;
use shared::order::attribute::inventory::{AVAILABLE, RESERVED, SKU};
use shared::order::attribute::orders::{ORDER_ID, REJECTION_REASON, STATUS, UPDATED_AT, VERSION};
use shared::order::{OrderId, OrderPlaced, OrderStatus, PlacedLine};
use shared::runtime::health::Check;

use crate::attempt_error::AttemptError;
use crate::disposition::Disposition;
use crate::transaction_outcome::{Cancellation, interpret, interpret_failed_status_condition};

/// The orders table and the inventory table.
#[derive(Clone, Debug)]
pub(crate) struct InventoryStore {
    pub dynamodb: Client,
    pub orders: String,
    pub inventory: String,
}

impl InventoryStore {
    /// Attempts once to reserve the stock of `order`, or to reject the order if there is not
    /// enough. Returns Processed, Rejected or Duplicate.
    pub(crate) async fn reserve_or_reject(
        &self,
        order: &OrderPlaced,
    ) -> Result<Disposition, AttemptError> {
        match self.reserve(order).await? {
            None => Ok(Disposition::Processed),
            Some(Cancellation::Duplicate) => Ok(Disposition::Duplicate),
            Some(Cancellation::InsufficientStock(reason)) => {
                self.reject(order.order_id, reason).await
            }
        }
    }

    /// Checks that both tables exist and respond. Sends two requests at the same time.
    pub(crate) async fn check(&self) -> [Check; 2] {
        let (orders, inventory) = tokio::join!(
            Check::table(&self.dynamodb, &self.orders),
            Check::table(&self.dynamodb, &self.inventory),
        );
        [orders, inventory]
    }

    /// Sends the transaction. Returns `None` if it took effect.
    async fn reserve(&self, order: &OrderPlaced) -> Result<Option<Cancellation>, AttemptError> {
        // The order comes first, then its lines: `interpret` relies on it.
        let actions = std::iter::once(self.set_processed(order.order_id))
            .chain(order.items.iter().map(|line| self.move_stock(line)));
        let sent = self
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(actions.collect()))
            .send()
            .await;
        let Err(error) = sent else { return Ok(None) };
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                interpret(order, cancelled.cancellation_reasons()).map(Some)
            }
            _ => Err(AttemptError::of_request(&error)),
        }
    }

    /// Sets the order REJECTED. Since the shortage was found, another worker that found more stock
    /// may have processed the order; then nothing changes and the result is a duplicate.
    async fn reject(&self, order_id: OrderId, reason: String) -> Result<Disposition, AttemptError> {
        let sent = self
            .dynamodb
            .update_item()
            .table_name(&self.orders)
            .key(ORDER_ID, AttributeValue::S(order_id.to_string()))
            .update_expression(format!(
                "SET #status = :rejected, {REJECTION_REASON} = :reason, \
                 {VERSION} = {VERSION} + :one, {UPDATED_AT} = :now"
            ))
            .condition_expression("#status = :created")
            .expression_attribute_names("#status", STATUS)
            .expression_attribute_values(":rejected", status(OrderStatus::Rejected))
            .expression_attribute_values(":created", status(OrderStatus::Created))
            .expression_attribute_values(":reason", AttributeValue::S(reason.clone()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":now", now())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match sent {
            Ok(_) => return Ok(Disposition::Rejected(reason)),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(failed)) =
            error.as_service_error()
        else {
            return Err(AttemptError::of_request(&error));
        };
        let stored = failed.item().filter(|item| !item.is_empty());
        if interpret_failed_status_condition(stored)? {
            Ok(Disposition::Duplicate)
        } else {
            Err(AttemptError::Conflict)
        }
    }

    fn set_processed(&self, order_id: OrderId) -> TransactWriteItem {
        let update = Update::builder()
            .table_name(&self.orders)
            .key(ORDER_ID, AttributeValue::S(order_id.to_string()))
            .update_expression(format!(
                "SET #status = :processed, {VERSION} = {VERSION} + :one, {UPDATED_AT} = :now"
            ))
            .condition_expression("#status = :created")
            .expression_attribute_names("#status", STATUS)
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
            .key(SKU, AttributeValue::S(line.sku.to_string()))
            .update_expression(format!(
                "SET {AVAILABLE} = {AVAILABLE} - :quantity, {RESERVED} = {RESERVED} + :quantity"
            ))
            .condition_expression(format!(
                "attribute_exists({SKU}) AND {AVAILABLE} >= :quantity"
            ))
            .expression_attribute_values(":quantity", AttributeValue::N(quantity));
        action(update)
    }
}

/// Builds an action that returns the stored item if its condition fails, so that the reason needs
/// no second request, and nothing can change between the two.
fn action(update: UpdateBuilder) -> TransactWriteItem {
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
