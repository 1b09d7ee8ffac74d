//! Checks that each event took effect once: on the orders and on the stock.

use std::collections::HashMap;

use super::super::history::{History, Level, StoredOrder};
use super::{Findings, Invariant};

/// Checks that every order is settled once, and rejected only for a reason that the stock confirms.
pub(super) fn settled(history: &History, found: &mut Findings) {
    for order in &history.end.orders {
        let id = &order.order_id;
        let wrong = match (order.status.as_str(), &order.rejection_reason) {
            ("PROCESSED", None) => None,
            ("PROCESSED", Some(_)) => Some("is PROCESSED and has a rejection reason".into()),
            ("REJECTED", Some(reason)) => contradiction(history, order, reason)
                .map(|why| format!("is REJECTED with the reason {reason:?}, but {why}")),
            ("REJECTED", None) => Some("is REJECTED without a reason".into()),
            (other, _) => Some(format!(
                "is {other} after the drain; expected is PROCESSED or REJECTED"
            )),
        };
        if let Some(wrong) = wrong {
            found.add(
                Invariant::Settled,
                order.created_at,
                format!("order {id} {wrong}"),
            );
        } else if order.version != 2 {
            // Version 1 when created, 2 when settled.
            found.add(
                Invariant::Settled,
                order.created_at,
                format!(
                    "order {id} was changed {} times after its creation; expected is 1",
                    order.version.saturating_sub(1)
                ),
            );
        }
    }
}

/// Returns why the reason of a rejection cannot be correct; `None` if it can. Each shortage that it
/// names must have existed: stock is not replenished during a run, so the quantity available at the
/// time of the rejection is between those at the start and at the end.
fn contradiction(history: &History, order: &StoredOrder, reason: &str) -> Option<String> {
    let Some(shortages) = reason.strip_prefix("Not enough stock: ") else {
        return Some("it is not about stock".to_owned());
    };
    for shortage in shortages.split("; ") {
        let Some((sku, claim)) = parse(shortage) else {
            return Some(format!("{shortage:?} does not have the expected form"));
        };
        let ordered = order.lines.iter().find(|line| line.sku == sku);
        let Some(ordered) = ordered.map(|line| line.quantity) else {
            return Some(format!("the order has no line of SKU {sku}"));
        };
        match (claim, history.end.inventory.get(sku)) {
            (Claim::Unknown { requested }, None) if requested == ordered => {}
            (Claim::Unknown { .. }, Some(_)) => return Some(format!("SKU {sku} exists")),
            (Claim::Short { .. }, None) => return Some(format!("SKU {sku} does not exist")),
            (
                Claim::Short {
                    available,
                    requested,
                },
                Some(stock),
            ) if requested == ordered => {
                if u64::try_from(available).is_ok_and(|available| available >= ordered) {
                    return Some(format!("{available} available of SKU {sku} are sufficient"));
                }
                if !(stock.after.available..=stock.before.available).contains(&available) {
                    return Some(format!(
                        "the available quantity of SKU {sku} was between {} and {}",
                        stock.before.available, stock.after.available
                    ));
                }
            }
            (Claim::Unknown { requested } | Claim::Short { requested, .. }, _) => {
                return Some(format!(
                    "the order has {ordered} of SKU {sku}, not {requested}"
                ));
            }
        }
    }
    None
}

/// Shortage of one SKU as the reason of a rejection states it.
enum Claim {
    Unknown { requested: u64 },
    Short { available: i64, requested: u64 },
}

/// Parses `SKU A is unknown (3 wanted)` or `SKU B has 1 available, 3 wanted`.
fn parse(shortage: &str) -> Option<(&str, Claim)> {
    let (sku, rest) = shortage.strip_prefix("SKU ")?.split_once(' ')?;
    let claim = if let Some(requested) = rest.strip_prefix("is unknown (") {
        let requested = requested.strip_suffix(" wanted)")?.parse().ok()?;
        Claim::Unknown { requested }
    } else {
        let (available, requested) = rest.strip_prefix("has ")?.split_once(" available, ")?;
        Claim::Short {
            available: available.parse().ok()?,
            requested: requested.strip_suffix(" wanted")?.parse().ok()?,
        }
    };
    Some((sku, claim))
}

/// Checks the stock of each SKU against its start and the processed orders.
pub(super) fn stock(history: &History, found: &mut Findings) {
    let mut held: HashMap<&str, i64> = HashMap::new();
    let orders = history.end.orders.iter();
    for line in orders
        .filter(|order| order.status == "PROCESSED")
        .flat_map(|order| &order.lines)
    {
        let held = held.entry(line.sku.as_str()).or_default();
        *held = held.saturating_add_unsigned(line.quantity);
    }
    for order in &history.end.orders {
        let lines = order.lines.iter();
        let lines = lines.map(|line| (line.sku.clone(), line.quantity));
        let expected = (order.status == "PROCESSED").then(|| lines.collect());
        if order.reservation != expected {
            let what = format!(
                "order {} is {} and records that it holds {:?}; expected is {expected:?}",
                order.order_id, order.status, order.reservation
            );
            found.add(Invariant::Stock, None, what);
        }
    }
    for (sku, stock) in &history.end.inventory {
        let mut wrong =
            |what: String| found.add(Invariant::Stock, None, format!("SKU {sku}: {what}"));
        let Level {
            available,
            reserved,
        } = stock.after;
        let before = stock.before.available + stock.before.reserved;
        if available + reserved != before {
            wrong(format!(
                "{available} available + {reserved} reserved at the end; expected is the sum at the start, {before}"
            ));
        }
        if available < 0 {
            wrong(format!(
                "{available} available at the end; expected is 0 or more"
            ));
        }
        let held = held.remove(sku.as_str()).unwrap_or_default();
        let moved = reserved - stock.before.reserved;
        if moved != held {
            wrong(format!(
                "reserved grew by {moved}; expected is {held}, the sum of the PROCESSED orders"
            ));
        }
    }
    for (sku, quantity) in held {
        found.add(
            Invariant::Stock,
            None,
            format!("SKU {sku} is not in the inventory table, and PROCESSED orders have {quantity} of it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations};
    use super::*;

    /// Indices of the orders of the valid history.
    const PROCESSED: usize = 0;
    const SHORT: usize = 2;
    const UNKNOWN: usize = 3;

    fn assert_contradicted(order: usize, reason: &str) {
        assert_violations(Invariant::Settled, 1, |history| {
            history.end.orders[order].rejection_reason = Some(reason.to_owned());
        });
    }

    #[test]
    fn an_order_that_is_never_settled_is_detected() {
        assert_violations(Invariant::Settled, 1, |history| {
            let order = &mut history.end.orders[UNKNOWN];
            order.status = "CREATED".to_owned();
            order.rejection_reason = None;
        });
    }

    #[test]
    fn an_order_settled_twice_is_detected() {
        assert_violations(Invariant::Settled, 1, |history| {
            history.end.orders[PROCESSED].version = 3;
        });
    }

    #[test]
    fn a_rejection_for_an_incorrect_reason_is_detected() {
        assert_contradicted(UNKNOWN, "Not enough stock: SKU A is unknown (1 wanted)");
        assert_contradicted(UNKNOWN, "Not enough stock: SKU NOPE is unknown (7 wanted)");
        assert_contradicted(
            UNKNOWN,
            "Not enough stock: SKU NOPE has 0 available, 1 wanted",
        );
        assert_contradicted(SHORT, "Not enough stock: SKU SCARCE is unknown (5 wanted)");
        assert_contradicted(
            SHORT,
            "Not enough stock: SKU SCARCE has 5 available, 5 wanted",
        );
        assert_contradicted(
            SHORT,
            "Not enough stock: SKU SCARCE has 0 available, 5 wanted",
        );
        assert_contradicted(
            SHORT,
            "Not enough stock: SKU SCARCE has 2 available, 5 wanted",
        );
        assert_contradicted(
            SHORT,
            "Not enough stock: SKU SCARCE has 1 available, 6 wanted",
        );
        assert_contradicted(SHORT, "Not enough stock: SKU SCARCE has some");
        assert_contradicted(SHORT, "the warehouse is closed");
    }

    #[test]
    fn a_rejection_may_state_any_quantity_available_during_the_run() {
        for available in 1..=4 {
            assert_valid(|history| {
                let scarce = history.end.inventory.get_mut("SCARCE");
                let stock = scarce.expect("it is in the valid history");
                stock.before.available = 4;
                stock.before.reserved = -3;
                history.end.orders[SHORT].rejection_reason = Some(format!(
                    "Not enough stock: SKU SCARCE has {available} available, 5 wanted"
                ));
                stock.before.reserved = 0;
                stock.after.reserved = 3;
                let order = &mut history.end.orders[PROCESSED];
                order.lines.push(crate::history::OrderLine {
                    sku: "SCARCE".to_owned(),
                    quantity: 3,
                });
                let held = order.reservation.as_mut();
                held.expect("it is PROCESSED")
                    .insert("SCARCE".to_owned(), 3);
                for post in &mut history.posts {
                    if post.customer_id == order.customer_id {
                        post.lines = order.lines.clone();
                    }
                }
            });
        }
    }

    #[test]
    fn a_processed_order_with_a_reason_and_a_rejected_one_without_are_detected() {
        assert_violations(Invariant::Settled, 1, |history| {
            history.end.orders[PROCESSED].rejection_reason = Some("Not enough stock".to_owned());
        });
        assert_violations(Invariant::Settled, 1, |history| {
            history.end.orders[SHORT].rejection_reason = None;
        });
    }

    #[test]
    fn stock_reserved_twice_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let after = &mut stock.expect("it is in the valid history").after;
            after.available -= 2;
            after.reserved += 2;
        });
    }

    #[test]
    fn missing_stock_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            stock.expect("it is in the valid history").after.available -= 1;
        });
    }

    #[test]
    fn stock_that_was_not_reserved_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let after = &mut stock.expect("it is in the valid history").after;
            after.available += 1;
            after.reserved -= 1;
        });
    }

    #[test]
    fn stock_below_zero_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let stock = stock.expect("it is in the valid history");
            stock.before.available = 2;
            stock.after.available = -1;
        });
    }

    #[test]
    fn an_order_processed_for_a_sku_that_does_not_exist_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let order = &mut history.end.orders[UNKNOWN];
            order.status = "PROCESSED".to_owned();
            order.rejection_reason = None;
            order.reservation = Some([("NOPE".to_owned(), 1)].into());
        });
    }

    #[test]
    fn a_reservation_of_other_lines_or_of_a_rejected_order_is_detected() {
        assert_violations(Invariant::Stock, 1, |history| {
            let held = history.end.orders[PROCESSED].reservation.as_mut();
            held.expect("it is PROCESSED").insert("A".to_owned(), 3);
        });
        assert_violations(Invariant::Stock, 1, |history| {
            history.end.orders[PROCESSED].reservation = None;
        });
        assert_violations(Invariant::Stock, 1, |history| {
            history.end.orders[SHORT].reservation = Some([("SCARCE".to_owned(), 5)].into());
        });
    }
}
