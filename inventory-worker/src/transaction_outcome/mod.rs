//! Interprets cancelled transactions and failed conditions: pure functions over plain data.
//!
//! A cancelled transaction gives one reason for each action, in their order, and several actions
//! can have failed for different reasons at once. They are read from the most to the least certain:
//!
//! 1. **The orders themselves.** PROCESSED and REJECTED are final, so an order in either is a
//!    duplicate, whatever the other reasons are. An order that does not exist, or whose stored
//!    lines are not those of the message, can never be processed. Neither concerns the other
//!    orders.
//! 2. **What no attempt can change**: a stored item of the wrong shape.
//! 3. **What was not decided**: throttled actions and conflicts. A conflict means that another
//!    transaction holds an item right now, so nothing that was read beside it is final. Retrying
//!    costs milliseconds; a wrong rejection costs an order.
//! 4. **The stock.** Only a transaction without conflicts proves that the stock is insufficient.
//!    The orders are then considered in the order of arrival. One that needs more than is available
//!    is rejected. The others are allotted the stock one after the other, until one needs more than
//!    is left. The orders before that one are sent again; that one and the orders after it are
//!    attempted once the outcome of these is known. So the result is that of processing the orders
//!    one by one.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason};
use shared::order::attribute::inventory::AVAILABLE;
use shared::order::attribute::orders::{ITEMS_DIGEST, STATUS};
use shared::order::{OrderPlaced, OrderStatus, Sku};

use crate::attempt_error::AttemptError;
use crate::transaction::{LinesCheck, Transaction, TransactionOrder};

type Item = HashMap<String, AttributeValue>;

/// Conclusion about one order of a cancelled transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The order was PROCESSED or REJECTED before.
    Duplicate,
    /// No attempt at the order can succeed.
    Unprocessable(String),
    /// The order is to be rejected, with this reason.
    InsufficientStock(String),
    /// The order is part of the next attempt.
    Again(LinesCheck),
    /// The order is to be attempted after those of the next attempt, which need the same stock.
    After,
}

/// Conclusion from a cancelled transaction, which changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpretation {
    /// One for each order.
    pub verdicts: Vec<Verdict>,
    /// Reason to wait before the next attempt; `None` if it is another transaction than this one
    /// and can be sent at once.
    pub wait_for: Option<AttemptError>,
}

/// Interprets the reasons of a cancelled transaction: those of the orders first, then those of the
/// SKUs, as the transaction has them.
pub(crate) fn interpret(
    transaction: &Transaction,
    reasons: &[CancellationReason],
) -> Interpretation {
    let orders = &transaction.orders;
    let again = |order: &TransactionOrder| Verdict::Again(order.check);
    if reasons.len() != orders.len() + transaction.stock.len() {
        let text = "the cancellation reasons do not match the transaction";
        return Interpretation {
            verdicts: orders.iter().map(again).collect(),
            wait_for: Some(AttemptError::Unavailable(text.to_owned())),
        };
    }
    let (of_orders, of_skus) = reasons.split_at(orders.len());
    let mut verdicts: Vec<Option<Verdict>> = orders
        .iter()
        .zip(of_orders)
        .map(|(order, reason)| match rejected_change(reason) {
            Some(text) => Some(Verdict::Unprocessable(text)),
            None if failed_condition(reason) => Some(interpret_order(order, stored(reason))),
            None => None,
        })
        .collect();
    let mut levels: BTreeMap<&Sku, Level> = BTreeMap::new();
    for (sku, reason) in transaction.stock.keys().zip(of_skus) {
        let level = match rejected_change(reason) {
            Some(text) => Err(text),
            None if failed_condition(reason) => Level::of(sku, stored(reason)),
            None => continue,
        };
        match level {
            Ok(level) => {
                levels.insert(sku, level);
            }
            Err(text) => {
                let with_sku = orders.iter().zip(&mut verdicts).filter(|(order, verdict)| {
                    verdict.is_none() && order.order.items.iter().any(|line| line.sku == *sku)
                });
                for (_, verdict) in with_sku {
                    *verdict = Some(Verdict::Unprocessable(text.clone()));
                }
            }
        }
    }
    let mut wait_for = undecided(reasons);
    if wait_for.is_none() {
        allot(orders, &mut verdicts, &levels);
    }
    let verdicts: Vec<Verdict> = orders
        .iter()
        .zip(verdicts)
        .map(|(order, verdict)| verdict.unwrap_or_else(|| again(order)))
        .collect();
    // Every condition that failed holds by now: something changed in between.
    if wait_for.is_none() && orders.iter().map(again).eq(verdicts.iter().cloned()) {
        wait_for = Some(AttemptError::Conflict);
    }
    Interpretation { verdicts, wait_for }
}

/// Interprets the stored order after the condition of its action failed.
pub(crate) fn interpret_order(order: &TransactionOrder, stored: Option<&Item>) -> Verdict {
    let unprocessable = |reason: &str| Verdict::Unprocessable(reason.to_owned());
    let Some(stored) = stored.filter(|item| !item.is_empty()) else {
        return unprocessable("the order does not exist");
    };
    let is = |text: &str, status: OrderStatus| status.as_str() == text;
    match stored.get(STATUS).and_then(|status| status.as_s().ok()) {
        Some(text) if is(text, OrderStatus::Processed) || is(text, OrderStatus::Rejected) => {
            return Verdict::Duplicate;
        }
        Some(text) if is(text, OrderStatus::Created) => {}
        _ => return unprocessable("the order has a status that this worker does not know"),
    }
    let digest = stored.get(ITEMS_DIGEST);
    let (agrees, check) = match digest {
        Some(digest) => {
            let agrees = digest.as_s() == Ok(&order.order.items_digest());
            (agrees, LinesCheck::Digest)
        }
        None => (order.order.has_lines_of(stored), LinesCheck::Compared),
    };
    if agrees {
        Verdict::Again(check)
    } else {
        unprocessable("the lines of the message are not those of the stored order")
    }
}

/// Stock of a SKU for which the condition failed.
#[derive(Debug)]
enum Level {
    Unknown,
    /// The number as stored, and its value. DynamoDB's numbers have 38 digits and fractions; sums
    /// of quantities are exact in 64 bits of floating point, so comparisons are as well.
    Available(String, f64),
}

impl Level {
    /// Reads a stored inventory item. Fails if it has the wrong shape.
    fn of(sku: &Sku, stored: Option<&Item>) -> Result<Self, String> {
        let Some(item) = stored else {
            return Ok(Self::Unknown);
        };
        let text = item.get(AVAILABLE).and_then(|n| n.as_n().ok());
        let number = text.and_then(|text| Some(Self::Available(text.clone(), text.parse().ok()?)));
        number.ok_or_else(|| format!("the inventory item of SKU {sku} has no number `{AVAILABLE}`"))
    }

    /// Returns the shortage, as part of the stored rejection reason; `None` if there is enough.
    fn shortage(&self, sku: &Sku, wanted: u32) -> Option<String> {
        match self {
            Self::Unknown => Some(format!("SKU {sku} is unknown ({wanted} wanted)")),
            Self::Available(_, available) if *available >= f64::from(wanted) => None,
            Self::Available(text, _) => {
                Some(format!("SKU {sku} has {text} available, {wanted} wanted"))
            }
        }
    }
}

/// Allots the stock to the orders without a verdict, in the order of arrival.
fn allot(
    orders: &[TransactionOrder],
    verdicts: &mut [Option<Verdict>],
    levels: &BTreeMap<&Sku, Level>,
) {
    let mut allotted: HashMap<&Sku, f64> = HashMap::new();
    let undecided = orders
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| verdict.is_none());
    let mut undecided = undecided.map(|(order, verdict)| (order.order.as_ref(), verdict));
    for (order, verdict) in undecided.by_ref() {
        if let Some(reason) = shortages(order, levels) {
            *verdict = Some(Verdict::InsufficientStock(reason));
        } else if order.items.iter().all(|line| {
            let before = allotted.get(&line.sku).copied().unwrap_or_default();
            match levels.get(&line.sku) {
                Some(Level::Available(_, available)) => {
                    before + f64::from(line.quantity.get()) <= *available
                }
                // The condition of the whole batch holds.
                _ => true,
            }
        }) {
            for line in &order.items {
                *allotted.entry(&line.sku).or_default() += f64::from(line.quantity.get());
            }
        } else {
            *verdict = Some(Verdict::After);
            break;
        }
    }
    for (_, verdict) in undecided {
        *verdict = Some(Verdict::After);
    }
}

/// Returns the reason for rejecting an order that needs more than is available.
fn shortages(order: &OrderPlaced, levels: &BTreeMap<&Sku, Level>) -> Option<String> {
    let shortages: Vec<String> = order
        .items
        .iter()
        .filter_map(|line| {
            let level = levels.get(&line.sku)?;
            level.shortage(&line.sku, line.quantity.get())
        })
        .collect();
    (!shortages.is_empty()).then(|| format!("Not enough stock: {}", shortages.join("; ")))
}

/// Returns the text of a change that no repetition makes valid.
fn rejected_change(reason: &CancellationReason) -> Option<String> {
    let code = reason.code()?;
    ["ValidationError", "ItemCollectionSizeLimitExceeded"]
        .contains(&code)
        .then(|| format!("DynamoDB rejected the change: {}", message(reason)))
}

/// Returns the most severe reason that decides nothing about orders or stock.
fn undecided(reasons: &[CancellationReason]) -> Option<AttemptError> {
    let mut conflict = None;
    let mut throttled = None;
    for reason in reasons {
        match reason.code().unwrap_or("None") {
            "None" | "ConditionalCheckFailed" => {}
            "ValidationError" | "ItemCollectionSizeLimitExceeded" => {}
            "TransactionConflict" => conflict = Some(AttemptError::Conflict),
            "ThrottlingError" | "ProvisionedThroughputExceeded" => {
                throttled = Some(AttemptError::Throttled);
            }
            code => {
                let text = format!("{code}: {}", message(reason));
                return Some(AttemptError::Unavailable(text));
            }
        }
    }
    throttled.or(conflict)
}

fn message(reason: &CancellationReason) -> &str {
    reason.message().unwrap_or("no reason given")
}

fn failed_condition(reason: &CancellationReason) -> bool {
    reason.code() == Some("ConditionalCheckFailed")
}

/// Returns the stored item. Some services return an empty one if there is none.
fn stored(reason: &CancellationReason) -> Option<&Item> {
    reason.item().filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
