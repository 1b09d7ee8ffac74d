//! What DynamoDB's answers mean for an order: pure functions over plain data.
//!
//! A cancelled transaction gives one reason for each action, in their order, and
//! several actions can have failed for different reasons at once. They are read
//! from the most to the least certain:
//!
//! 1. **The order itself.** PROCESSED and REJECTED are final, so an order in either is settled
//!    whatever the other reasons say.
//! 2. **What can never work**: a stored item of the wrong shape.
//! 3. **What was not decided**: throttled actions and conflicts. A conflict means that another
//!    transaction holds an item right now, perhaps this very order in another worker, so nothing
//!    that was read beside it is the last word. Trying again costs milliseconds; a wrong rejection
//!    costs an order.
//! 4. **The stock.** Only a transaction that stood against nothing else can say that there is too
//!    little of it.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason};
use shared::order::{OrderPlaced, OrderStatus, PlacedLine};

use crate::attempt_error::AttemptError;

type Item = HashMap<String, AttributeValue>;

/// How a delivery ended for its order. All of these delete the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Stock was moved and the order set PROCESSED, now.
    Processed,
    /// The order was set REJECTED, now; the reason is stored with it.
    Rejected(String),
    /// It was PROCESSED or REJECTED before.
    Duplicate,
}

/// What a cancelled transaction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// The order is settled already.
    Duplicate,
    /// Reject the order, for this reason.
    Short(String),
    Failed(AttemptError),
}

/// Reads the reasons of a cancelled transaction for `order`: the order's action
/// first, then one for each line.
pub(crate) fn interpret(order: &OrderPlaced, reasons: &[CancellationReason]) -> Cancelled {
    let Some((of_order, of_lines)) = reasons.split_first() else {
        return unclear("the transaction was cancelled without a reason");
    };
    if of_lines.len() != order.items.len() {
        return unclear("the reasons do not fit the transaction");
    }
    if failed_condition(of_order)
        && let Some(settled) = of_order_condition(stored(of_order))
    {
        return settled;
    }
    if let Some(trouble) = undecided(reasons) {
        return Cancelled::Failed(trouble);
    }
    let mut shortages = Vec::new();
    for (line, reason) in order.items.iter().zip(of_lines) {
        if failed_condition(reason) {
            match shortage(line, stored(reason)) {
                Ok(Some(shortage)) => shortages.push(shortage),
                // There is enough by now: the item changed in between.
                Ok(None) => {}
                Err(trouble) => return Cancelled::Failed(trouble),
            }
        }
    }
    if shortages.is_empty() {
        return Cancelled::Failed(AttemptError::Conflict);
    }
    Cancelled::Short(format!("Not enough stock: {}", shortages.join("; ")))
}

/// What the stored order means, whose condition `status = CREATED` failed;
/// `None` when it looks CREATED after all.
pub(crate) fn of_order_condition(stored: Option<&Item>) -> Option<Cancelled> {
    let impossible =
        |reason: &str| Some(Cancelled::Failed(AttemptError::Impossible(reason.into())));
    let Some(order) = stored else {
        return impossible("the order does not exist");
    };
    match order.get("status").and_then(|status| status.as_s().ok()) {
        Some(status) if status == OrderStatus::Created.as_str() => None,
        Some(status)
            if [OrderStatus::Processed, OrderStatus::Rejected]
                .map(OrderStatus::as_str)
                .contains(&status.as_str()) =>
        {
            Some(Cancelled::Duplicate)
        }
        _ => impossible("the order has a status that this worker does not know"),
    }
}

/// The gravest reason that says nothing about order or stock.
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
                return Some(AttemptError::Impossible(format!(
                    "DynamoDB refuses the change: {}",
                    text()
                )));
            }
            code => unavailable = Some(AttemptError::Unavailable(format!("{code}: {}", text()))),
        }
    }
    unavailable.or(throttled).or(conflict)
}

/// What is missing for a line, in plain words; `None` when nothing is.
fn shortage(line: &PlacedLine, stored: Option<&Item>) -> Result<Option<String>, AttemptError> {
    let sku = &line.sku;
    let wanted = line.quantity.get();
    let Some(item) = stored else {
        return Ok(Some(format!("SKU {sku} is unknown ({wanted} wanted)")));
    };
    let available = item.get("available").and_then(|n| n.as_n().ok());
    // DynamoDB's numbers have 38 digits and fractions; quantities are exact in
    // 64 bits of floating point, so the comparison is as well.
    let number = available.and_then(|text| Some((text, text.parse::<f64>().ok()?)));
    match number {
        None => Err(AttemptError::Impossible(format!(
            "the stock of SKU {sku} has no number `available`"
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

/// The stored item; some services write an empty one for none.
fn stored(reason: &CancellationReason) -> Option<&Item> {
    reason.item().filter(|item| !item.is_empty())
}

fn unclear(text: &str) -> Cancelled {
    Cancelled::Failed(AttemptError::Unavailable(text.to_owned()))
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

    fn short(reason: &str) -> Cancelled {
        Cancelled::Short(format!("Not enough stock: {reason}"))
    }

    fn impossible(cancelled: &Cancelled) -> bool {
        matches!(cancelled, Cancelled::Failed(AttemptError::Impossible(_)))
    }

    #[test]
    fn a_settled_order_is_a_duplicate_whatever_else_went_wrong() {
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
                    Cancelled::Duplicate
                );
            }
        }
    }

    #[test]
    fn too_little_stock_is_named_with_what_was_wanted_and_what_there_is() {
        assert_eq!(
            interpret(&order(&[5]), &[none(), available("3")]),
            short("SKU SKU-0 has 3 available, 5 wanted")
        );
    }

    #[test]
    fn an_unknown_sku_is_named() {
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
    fn every_short_line_is_named_and_no_other() {
        assert_eq!(
            interpret(
                &order(&[2, 3, 4]),
                &[none(), available("1"), none(), missing()]
            ),
            short("SKU SKU-0 has 1 available, 2 wanted; SKU SKU-2 is unknown (4 wanted)")
        );
    }

    #[test]
    fn a_conflict_beside_a_shortage_is_tried_again() {
        let conflict = || code("TransactionConflict");
        for reasons in [
            [conflict(), available("0"), none()],
            [none(), available("0"), conflict()],
            [none(), conflict(), none()],
        ] {
            assert_eq!(
                interpret(&order(&[1, 1]), &reasons),
                Cancelled::Failed(AttemptError::Conflict)
            );
        }
    }

    #[test]
    fn throttling_beside_a_shortage_is_tried_again() {
        for throttled in ["ThrottlingError", "ProvisionedThroughputExceeded"] {
            let reasons = [code("TransactionConflict"), available("0"), code(throttled)];
            assert_eq!(
                interpret(&order(&[1, 1]), &reasons),
                Cancelled::Failed(AttemptError::Throttled)
            );
        }
    }

    #[test]
    fn an_order_that_does_not_exist_is_neither_rejected_nor_deleted() {
        assert!(impossible(&interpret(&order(&[1]), &[missing(), none()])));
        assert!(impossible(&interpret(
            &order(&[1]),
            &[missing(), available("0")]
        )));
    }

    #[test]
    fn an_unknown_status_is_not_guessed_at() {
        assert!(impossible(&interpret(
            &order(&[1]),
            &[status("SHIPPED"), none()]
        )));
        let no_status = failed("version", AttributeValue::N("1".to_owned()));
        assert!(impossible(&interpret(&order(&[1]), &[no_status, none()])));
    }

    #[test]
    fn a_stored_item_of_the_wrong_shape_is_not_tried_again() {
        assert!(impossible(&interpret(
            &order(&[1]),
            &[none(), code("ValidationError")]
        )));
        let text = failed("available", AttributeValue::S("7".to_owned()));
        assert!(impossible(&interpret(&order(&[1]), &[none(), text])));
    }

    #[test]
    fn what_has_changed_since_is_tried_again() {
        for reasons in [
            [none(), available("1")],
            [status("CREATED"), none()],
            [none(), none()],
        ] {
            assert_eq!(
                interpret(&order(&[1]), &reasons),
                Cancelled::Failed(AttemptError::Conflict)
            );
        }
    }

    #[test]
    fn reasons_that_do_not_fit_decide_nothing() {
        for reasons in [vec![], vec![none()], vec![none(), missing(), none()]] {
            assert!(matches!(
                interpret(&order(&[1]), &reasons),
                Cancelled::Failed(AttemptError::Unavailable(_))
            ));
        }
        assert!(matches!(
            interpret(&order(&[1]), &[none(), code("AccessDenied")]),
            Cancelled::Failed(AttemptError::Unavailable(_))
        ));
    }
}
