//! Interprets cancelled transactions and failed conditions: pure functions over plain data.
//!
//! A cancelled transaction gives one reason for each action, in their order, and several actions
//! can have failed for different reasons at once. They are read from the most to the least certain:
//!
//! 1. **The order itself.** PROCESSED and REJECTED are final, so an order in either is a duplicate,
//!    whatever the other reasons are.
//! 2. **What no attempt can change**: a stored item of the wrong shape.
//! 3. **What was not decided**: throttled actions and conflicts. A conflict means that another
//!    transaction holds an item right now, perhaps this very order in another worker, so nothing
//!    that was read beside it is final. Retrying costs milliseconds; a wrong rejection costs an
//!    order.
//! 4. **The stock.** Only a transaction without conflicts proves that the stock is insufficient.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason};
use shared::order::attribute::inventory::AVAILABLE;
use shared::order::attribute::orders::STATUS;
use shared::order::{OrderPlaced, OrderStatus, PlacedLine};

use crate::attempt_error::AttemptError;

type Item = HashMap<String, AttributeValue>;

/// Conclusion from a cancelled transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cancellation {
    /// The order was PROCESSED or REJECTED before.
    Duplicate,
    /// The order is to be rejected, with this reason.
    InsufficientStock(String),
}

/// Interprets the reasons of a cancelled transaction for `order`: the order's action first, then
/// one for each line.
pub(crate) fn interpret(
    order: &OrderPlaced,
    reasons: &[CancellationReason],
) -> Result<Cancellation, AttemptError> {
    let Some((of_order, of_lines)) = reasons.split_first() else {
        return Err(unclear("the transaction was cancelled without a reason"));
    };
    if of_lines.len() != order.items.len() {
        return Err(unclear(
            "the cancellation reasons do not match the transaction",
        ));
    }
    if failed_condition(of_order) && interpret_failed_status_condition(stored(of_order))? {
        return Ok(Cancellation::Duplicate);
    }
    if let Some(error) = undecided(reasons) {
        return Err(error);
    }
    let mut shortages = Vec::new();
    for (line, reason) in order.items.iter().zip(of_lines) {
        // Without a shortage the item changed in between, and there is enough by now.
        if failed_condition(reason)
            && let Some(shortage) = shortage(line, stored(reason))?
        {
            shortages.push(shortage);
        }
    }
    if shortages.is_empty() {
        return Err(AttemptError::Conflict);
    }
    let shortages = shortages.join("; ");
    Ok(Cancellation::InsufficientStock(format!(
        "Not enough stock: {shortages}"
    )))
}

/// Interprets the stored order after its condition `status = CREATED` failed. Returns `true` if the
/// order was PROCESSED or REJECTED before, and `false` if it is CREATED after all.
pub(crate) fn interpret_failed_status_condition(
    stored: Option<&Item>,
) -> Result<bool, AttemptError> {
    let unprocessable = |reason: &str| Err(AttemptError::Unprocessable(reason.into()));
    let Some(order) = stored else {
        return unprocessable("the order does not exist");
    };
    let is = |text: &str, statuses: &[OrderStatus]| {
        statuses.iter().any(|status| status.as_str() == text)
    };
    match order.get(STATUS).and_then(|status| status.as_s().ok()) {
        Some(text) if is(text, &[OrderStatus::Created]) => Ok(false),
        Some(text) if is(text, &[OrderStatus::Processed, OrderStatus::Rejected]) => Ok(true),
        _ => unprocessable("the order has a status that this worker does not know"),
    }
}

/// Returns the most severe reason that decides nothing about order or stock.
fn undecided(reasons: &[CancellationReason]) -> Option<AttemptError> {
    let mut conflict = None;
    let mut throttled = None;
    let mut unavailable = None;
    for reason in reasons {
        let text = || reason.message().unwrap_or("no reason given");
        match reason.code().unwrap_or("None") {
            "None" | "ConditionalCheckFailed" => {}
            "TransactionConflict" => conflict = Some(AttemptError::Conflict),
            "ThrottlingError" | "ProvisionedThroughputExceeded" => {
                throttled = Some(AttemptError::Throttled);
            }
            "ValidationError" | "ItemCollectionSizeLimitExceeded" => {
                return Some(AttemptError::Unprocessable(format!(
                    "DynamoDB rejected the change: {}",
                    text()
                )));
            }
            code => unavailable = Some(AttemptError::Unavailable(format!("{code}: {}", text()))),
        }
    }
    unavailable.or(throttled).or(conflict)
}

/// Returns the shortage of a line, as part of the stored rejection reason; `None` if there is
/// enough.
fn shortage(line: &PlacedLine, stored: Option<&Item>) -> Result<Option<String>, AttemptError> {
    let sku = &line.sku;
    let wanted = line.quantity.get();
    let Some(item) = stored else {
        return Ok(Some(format!("SKU {sku} is unknown ({wanted} wanted)")));
    };
    let available = item.get(AVAILABLE).and_then(|n| n.as_n().ok());
    // DynamoDB's numbers have 38 digits and fractions; quantities are exact in 64 bits of floating
    // point, so the comparison is as well.
    let number = available.and_then(|text| Some((text, text.parse::<f64>().ok()?)));
    match number {
        None => Err(AttemptError::Unprocessable(format!(
            "the inventory item of SKU {sku} has no number `{AVAILABLE}`"
        ))),
        Some((_, number)) if number >= f64::from(wanted) => Ok(None),
        Some((text, _)) => Ok(Some(format!(
            "SKU {sku} has {text} available, {wanted} wanted"
        ))),
    }
}

fn failed_condition(reason: &CancellationReason) -> bool {
    reason.code() == Some("ConditionalCheckFailed")
}

/// Returns the stored item. Some services return an empty one if there is none.
fn stored(reason: &CancellationReason) -> Option<&Item> {
    reason.item().filter(|item| !item.is_empty())
}

fn unclear(text: &str) -> AttemptError {
    AttemptError::Unavailable(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(quantities: &[u64]) -> OrderPlaced {
        let items = quantities
            .iter()
            .enumerate()
            .map(|(n, quantity)| PlacedLine {
                sku: format!("SKU-{n}").try_into().unwrap(),
                quantity: (*quantity).try_into().unwrap(),
            });
        OrderPlaced {
            order_id: shared::order::OrderId::generate(),
            items: items.collect(),
        }
    }

    fn code(code: &str) -> CancellationReason {
        CancellationReason::builder().code(code).build()
    }

    fn none() -> CancellationReason {
        code("None")
    }

    /// A failed condition on an item with one attribute.
    fn failed(name: &str, value: AttributeValue) -> CancellationReason {
        CancellationReason::builder()
            .code("ConditionalCheckFailed")
            .item(name, value)
            .build()
    }

    fn status(status: &str) -> CancellationReason {
        failed("status", AttributeValue::S(status.to_owned()))
    }

    fn available(count: &str) -> CancellationReason {
        failed("available", AttributeValue::N(count.to_owned()))
    }

    fn missing() -> CancellationReason {
        code("ConditionalCheckFailed")
    }

    fn short(reason: &str) -> Result<Cancellation, AttemptError> {
        Ok(Cancellation::InsufficientStock(format!(
            "Not enough stock: {reason}"
        )))
    }

    fn unprocessable(result: &Result<Cancellation, AttemptError>) -> bool {
        matches!(result, Err(AttemptError::Unprocessable(_)))
    }

    #[test]
    fn a_final_order_is_a_duplicate_whatever_the_other_reasons_are() {
        for settled in ["PROCESSED", "REJECTED"] {
            for other in [
                none(),
                missing(),
                available("0"),
                code("TransactionConflict"),
                code("ThrottlingError"),
                code("ValidationError"),
            ] {
                assert_eq!(
                    interpret(&order(&[1]), &[status(settled), other]),
                    Ok(Cancellation::Duplicate)
                );
            }
        }
    }

    #[test]
    fn a_shortage_states_the_wanted_and_the_available_quantity() {
        assert_eq!(
            interpret(&order(&[5]), &[none(), available("3")]),
            short("SKU SKU-0 has 3 available, 5 wanted")
        );
    }

    #[test]
    fn an_unknown_sku_is_a_shortage() {
        assert_eq!(
            interpret(&order(&[5]), &[none(), missing()]),
            short("SKU SKU-0 is unknown (5 wanted)")
        );
        let empty = CancellationReason::builder()
            .code("ConditionalCheckFailed")
            .set_item(Some(HashMap::new()))
            .build();
        assert_eq!(
            interpret(&order(&[5]), &[none(), empty]),
            short("SKU SKU-0 is unknown (5 wanted)")
        );
    }

    #[test]
    fn the_reason_names_every_short_line_and_no_other() {
        assert_eq!(
            interpret(
                &order(&[2, 3, 4]),
                &[none(), available("1"), none(), missing()]
            ),
            short("SKU SKU-0 has 1 available, 2 wanted; SKU SKU-2 is unknown (4 wanted)")
        );
    }

    #[test]
    fn a_conflict_beside_a_shortage_is_retried() {
        let conflict = || code("TransactionConflict");
        for reasons in [
            [conflict(), available("0"), none()],
            [none(), available("0"), conflict()],
            [none(), conflict(), none()],
        ] {
            assert_eq!(
                interpret(&order(&[1, 1]), &reasons),
                Err(AttemptError::Conflict)
            );
        }
    }

    #[test]
    fn throttling_beside_a_shortage_is_retried() {
        for throttled in ["ThrottlingError", "ProvisionedThroughputExceeded"] {
            let reasons = [code("TransactionConflict"), available("0"), code(throttled)];
            assert_eq!(
                interpret(&order(&[1, 1]), &reasons),
                Err(AttemptError::Throttled)
            );
        }
    }

    #[test]
    fn an_order_that_does_not_exist_is_neither_rejected_nor_deleted() {
        assert!(unprocessable(&interpret(
            &order(&[1]),
            &[missing(), none()]
        )));
        assert!(unprocessable(&interpret(
            &order(&[1]),
            &[missing(), available("0")]
        )));
    }

    #[test]
    fn an_unknown_status_is_unprocessable() {
        assert!(unprocessable(&interpret(
            &order(&[1]),
            &[status("SHIPPED"), none()]
        )));
        let no_status = failed("version", AttributeValue::N("1".to_owned()));
        assert!(unprocessable(&interpret(
            &order(&[1]),
            &[no_status, none()]
        )));
    }

    #[test]
    fn a_stored_item_of_the_wrong_shape_is_unprocessable() {
        assert!(unprocessable(&interpret(
            &order(&[1]),
            &[none(), code("ValidationError")]
        )));
        let text = failed("available", AttributeValue::S("7".to_owned()));
        assert!(unprocessable(&interpret(&order(&[1]), &[none(), text])));
    }

    #[test]
    fn a_failed_condition_that_holds_by_now_is_retried() {
        for reasons in [
            [none(), available("1")],
            [status("CREATED"), none()],
            [none(), none()],
        ] {
            assert_eq!(
                interpret(&order(&[1]), &reasons),
                Err(AttemptError::Conflict)
            );
        }
    }

    #[test]
    fn reasons_that_do_not_match_the_transaction_decide_nothing() {
        for reasons in [vec![], vec![none()], vec![none(), missing(), none()]] {
            assert!(matches!(
                interpret(&order(&[1]), &reasons),
                Err(AttemptError::Unavailable(_))
            ));
        }
        assert!(matches!(
            interpret(&order(&[1]), &[none(), code("AccessDenied")]),
            Err(AttemptError::Unavailable(_))
        ));
    }
}
