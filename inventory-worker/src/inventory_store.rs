//! The two writes that decide orders: reserve their stock, or reject one of them. Each is
//! conditional on the orders still being CREATED, so that either can be sent any number of times,
//! by any number of workers, after any attempt with an unknown outcome, and takes effect once.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
    Update,
};
use outbox::timestamp::Timestamp;
use shared::aws::error::code_name;
use shared::order::attribute::inventory::{AVAILABLE, RESERVED, SKU};
use shared::order::attribute::orders::{
    ITEMS_DIGEST, ORDER_ID, REJECTION_REASON, RESERVATION, STATUS, UPDATED_AT, VERSION,
};
use shared::order::{OrderPlaced, OrderStatus, Sku};
use shared::runtime::health::Check;

use crate::attempt_error::AttemptError;
use crate::disposition::{DeadLetterReason, Disposition};
use crate::transaction::{LinesCheck, Transaction, TransactionOrder};
use crate::transaction_outcome::{Verdict, interpret_order};

/// Key of the items that a probe names. No order has it, because it is not a UUID, and no SKU,
/// because a SKU has no colon.
const PROBE_KEY: &str = "probe:";

/// The orders table and the inventory table.
#[derive(Clone, Debug)]
pub(crate) struct InventoryStore {
    pub dynamodb: Client,
    pub orders: String,
    pub inventory: String,
}

/// Failure of a transaction.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// It had no effect, for these reasons.
    Cancelled(Vec<CancellationReason>),
    /// Its token belongs to another content.
    TokenReused,
    /// The outcome is unknown, or the request was not executed.
    Failed(AttemptError),
}

impl InventoryStore {
    /// Checks that both tables exist and respond. Sends two requests at the same time.
    pub(crate) async fn check(&self) -> [Check; 2] {
        let (orders, inventory) = tokio::join!(
            Check::table(&self.dynamodb, &self.orders),
            Check::table(&self.dynamodb, &self.inventory),
        );
        [orders, inventory]
    }

    /// Checks that both tables exist and that the worker's transactions are executed: a table can
    /// be described while it rejects writes. Sends a transaction whose conditions never hold.
    pub(crate) async fn probe(&self) -> Result<(), String> {
        if let Some(failed) = self.check().await.into_iter().find(|check| !check.ok) {
            return Err(failed.reason.unwrap_or_default());
        }
        let update = |table: &str, key: &str| {
            let update = Update::builder()
                .table_name(table)
                .key(key, AttributeValue::S(PROBE_KEY.to_owned()))
                .update_expression(format!("REMOVE {VERSION}"))
                .condition_expression(format!("attribute_exists({key})"))
                .build()
                .expect("table, key and expression are set");
            TransactWriteItem::builder().update(update).build()
        };
        let sent = self
            .dynamodb
            .transact_write_items()
            .transact_items(update(&self.orders, ORDER_ID))
            .transact_items(update(&self.inventory, SKU))
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        {
            let mut reasons = cancelled.cancellation_reasons().iter();
            let executed = ["None", "ConditionalCheckFailed", "TransactionConflict"];
            let is_executed =
                |reason: &CancellationReason| executed.contains(&reason.code().unwrap_or_default());
            if reasons.all(is_executed) {
                return Ok(());
            }
        }
        match AttemptError::of_request(&error) {
            // Responses all the same.
            AttemptError::Conflict | AttemptError::Throttled => Ok(()),
            AttemptError::Unavailable(reason) | AttemptError::Unprocessable(reason) => Err(reason),
        }
    }

    /// Sends the transaction once.
    pub(crate) async fn commit(&self, transaction: &Transaction) -> Result<(), CommitError> {
        // The orders come first, then the SKUs: `interpret` relies on it.
        let orders = transaction.orders.iter();
        let orders = orders.map(|order| self.set_processed(order, transaction.at));
        let stock = transaction.stock.iter();
        let stock = stock.map(|(sku, quantity)| self.move_stock(sku, *quantity));
        let sent = self
            .dynamodb
            .transact_write_items()
            .client_request_token(&transaction.token)
            .set_transact_items(Some(orders.chain(stock).collect()))
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        if error.code().map(code_name) == Some("IdempotentParameterMismatch") {
            return Err(CommitError::TokenReused);
        }
        Err(match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                CommitError::Cancelled(cancelled.cancellation_reasons().to_vec())
            }
            _ => CommitError::Failed(AttemptError::of_request(&error)),
        })
    }

    /// Sets an order REJECTED. Since the shortage was found, another worker that found more stock
    /// may have processed the order; then nothing changes and the result is a duplicate.
    pub(crate) async fn reject(
        &self,
        order: &TransactionOrder,
        reason: String,
    ) -> Result<Disposition, AttemptError> {
        let update = format!(
            "SET #status = :new, {REJECTION_REASON} = :reason, \
             {VERSION} = {VERSION} + :one, {UPDATED_AT} = :now"
        );
        let changed = OrderChange::new(order, OrderStatus::Rejected, Timestamp::now());
        let sent = self
            .dynamodb
            .update_item()
            .table_name(&self.orders)
            .key(ORDER_ID, order_key(&order.order))
            .update_expression(update)
            .condition_expression(changed.condition)
            .expression_attribute_names("#status", STATUS)
            .set_expression_attribute_values(Some(changed.values))
            .expression_attribute_values(":reason", AttributeValue::S(reason.clone()))
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
        match interpret_order(order, failed.item()) {
            Verdict::Duplicate => Ok(Disposition::Duplicate),
            Verdict::Unprocessable(reason) => Ok(Disposition::DeadLetter(
                DeadLetterReason::Unprocessable(reason),
            )),
            _ => Err(AttemptError::Conflict),
        }
    }

    fn set_processed(&self, order: &TransactionOrder, at: Timestamp) -> TransactWriteItem {
        let changed = OrderChange::new(order, OrderStatus::Processed, at);
        let lines = order.order.items.iter().map(|line| {
            let quantity = AttributeValue::N(line.quantity.get().to_string());
            (line.sku.to_string(), quantity)
        });
        let update = Update::builder()
            .table_name(&self.orders)
            .key(ORDER_ID, order_key(&order.order))
            .update_expression(format!(
                "SET #status = :new, {RESERVATION} = :reservation, \
                 {VERSION} = {VERSION} + :one, {UPDATED_AT} = :now"
            ))
            .condition_expression(changed.condition)
            .expression_attribute_names("#status", STATUS)
            .set_expression_attribute_values(Some(changed.values))
            .expression_attribute_values(":reservation", AttributeValue::M(lines.collect()));
        action(update)
    }

    fn move_stock(&self, sku: &Sku, quantity: u64) -> TransactWriteItem {
        let update = Update::builder()
            .table_name(&self.inventory)
            .key(SKU, AttributeValue::S(sku.to_string()))
            .update_expression(format!(
                "SET {AVAILABLE} = {AVAILABLE} - :quantity, {RESERVED} = {RESERVED} + :quantity"
            ))
            .condition_expression(format!(
                "attribute_exists({SKU}) AND {AVAILABLE} >= :quantity"
            ))
            .expression_attribute_values(":quantity", AttributeValue::N(quantity.to_string()));
        action(update)
    }
}

/// The parts that both changes of an order share.
struct OrderChange {
    /// The order is CREATED, and its lines are those of the message.
    condition: String,
    values: HashMap<String, AttributeValue>,
}

impl OrderChange {
    fn new(order: &TransactionOrder, new: OrderStatus, at: Timestamp) -> Self {
        let text = |text: String| AttributeValue::S(text);
        let mut values = HashMap::from([
            (":new".to_owned(), text(new.as_str().to_owned())),
            (
                ":created".to_owned(),
                text(OrderStatus::Created.as_str().to_owned()),
            ),
            (":one".to_owned(), AttributeValue::N("1".to_owned())),
            (":now".to_owned(), text(at.to_string())),
        ]);
        let lines = match order.check {
            LinesCheck::Digest => {
                values.insert(":digest".to_owned(), text(order.order.items_digest()));
                format!("{ITEMS_DIGEST} = :digest")
            }
            LinesCheck::Compared => format!("attribute_not_exists({ITEMS_DIGEST})"),
        };
        Self {
            condition: format!("#status = :created AND {lines}"),
            values,
        }
    }
}

fn order_key(order: &OrderPlaced) -> AttributeValue {
    AttributeValue::S(order.order_id.to_string())
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
