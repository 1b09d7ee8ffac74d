//! What deliveries did: each event's effect happened once.

use std::collections::HashMap;

use super::super::history::{History, Level, OrderRow};
use super::{Findings, Invariant};

pub(super) fn settled(history: &History, found: &mut Findings) {
    for order in &history.end.orders {
        let id = &order.order_id;
        let wrong = match (order.status.as_str(), &order.rejection_reason) {
            ("PROCESSED", None) => None,
            ("PROCESSED", Some(_)) => Some("is PROCESSED and has a reason for a rejection".into()),
            ("REJECTED", Some(reason)) => untrue(history, order, reason)
                .map(|why| format!("was REJECTED because of {reason:?}: {why}")),
            ("REJECTED", None) => Some("was REJECTED without a reason".into()),
            (other, _) => Some(format!("is {other} at the end")),
        };
        if let Some(wrong) = wrong {
            found.add(
                Invariant::Settled,
                order.created_at,
                format!("order {id} {wrong}"),
            );
        } else if order.version != 2 {
            // 1 when created, one more when settled.
            found.add(
                Invariant::Settled,
                order.created_at,
                format!(
                    "order {id} was changed {} times",
                    order.version.saturating_sub(1)
                ),
            );
        }
    }
}

/// Why a rejection's reason cannot be true. Each shortage that it names must
/// have been one: nobody restocks during a run, so what was available then is
/// between what was available at the start and at the end.
fn untrue(history: &History, order: &OrderRow, reason: &str) -> Option<String> {
    let Some(shortages) = reason.strip_prefix("Not enough stock: ") else {
        return Some("that is not about stock".to_owned());
    };
    for shortage in shortages.split("; ") {
        let Some((sku, claim)) = parse(shortage) else {
            return Some(format!("{shortage:?} is not understood"));
        };
        let wanted = order.lines.iter().find(|line| line.sku == sku);
        let Some(wanted) = wanted.map(|line| line.quantity) else {
            return Some(format!("it has no line of SKU {sku}"));
        };
        match (claim, history.end.inventory.get(sku)) {
            (Claim::Unknown { wanted: said }, None) if said == wanted => {}
            (Claim::Unknown { .. }, Some(_)) => return Some(format!("SKU {sku} exists")),
            (Claim::Short { .. }, None) => return Some(format!("SKU {sku} does not exist")),
            (
                Claim::Short {
                    available,
                    wanted: said,
                },
                Some(stock),
            ) if said == wanted => {
                if u64::try_from(available).is_ok_and(|available| available >= wanted) {
                    return Some(format!("{available} of SKU {sku} are enough"));
                }
                if !(stock.after.available..=stock.before.available).contains(&available) {
                    return Some(format!(
                        "available of SKU {sku} went from {} to {}",
                        stock.before.available, stock.after.available
                    ));
                }
            }
            (Claim::Unknown { wanted: said } | Claim::Short { wanted: said, .. }, _) => {
                return Some(format!("it wants {wanted} of SKU {sku}, and not {said}"));
            }
        }
    }
    None
}

enum Claim {
    Unknown { wanted: u64 },
    Short { available: i64, wanted: u64 },
}

/// `SKU A is unknown (3 wanted)`, `SKU B has 1 available, 3 wanted`.
fn parse(shortage: &str) -> Option<(&str, Claim)> {
    let (sku, rest) = shortage.strip_prefix("SKU ")?.split_once(' ')?;
    let claim = if let Some(wanted) = rest.strip_prefix("is unknown (") {
        let wanted = wanted.strip_suffix(" wanted)")?.parse().ok()?;
        Claim::Unknown { wanted }
    } else {
        let (available, wanted) = rest.strip_prefix("has ")?.split_once(" available, ")?;
        Claim::Short {
            available: available.parse().ok()?,
            wanted: wanted.strip_suffix(" wanted")?.parse().ok()?,
        }
    };
    Some((sku, claim))
}

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
                "{available} available + {reserved} reserved are not the {before} of the start"
            ));
        }
        if available < 0 {
            wrong(format!("{available} are available"));
        }
        let held = held.remove(sku.as_str()).unwrap_or_default();
        let moved = reserved - stock.before.reserved;
        if moved != held {
            wrong(format!(
                "{moved} were reserved, and processed orders hold {held}"
            ));
        }
    }
    for (sku, quantity) in held {
        found.add(
            Invariant::Stock,
            None,
            format!("SKU {sku} does not exist, and processed orders hold {quantity} of it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught};
    use super::*;

    /// The orders of the valid history.
    const PROCESSED: usize = 0;
    const SHORT: usize = 2;
    const UNKNOWN: usize = 3;

    fn untrue(order: usize, reason: &str) {
        caught(Invariant::Settled, 1, |history| {
            history.end.orders[order].rejection_reason = Some(reason.to_owned());
        });
    }

    #[test]
    fn an_order_that_is_never_settled_is_caught() {
        caught(Invariant::Settled, 1, |history| {
            let order = &mut history.end.orders[UNKNOWN];
            order.status = "CREATED".to_owned();
            order.rejection_reason = None;
        });
    }

    #[test]
    fn an_order_that_was_settled_twice_is_caught() {
        caught(Invariant::Settled, 1, |history| {
            history.end.orders[PROCESSED].version = 3;
        });
    }

    #[test]
    fn a_rejection_for_an_untrue_reason_is_caught() {
        untrue(UNKNOWN, "Not enough stock: SKU A is unknown (1 wanted)");
        untrue(UNKNOWN, "Not enough stock: SKU NOPE is unknown (7 wanted)");
        untrue(
            UNKNOWN,
            "Not enough stock: SKU NOPE has 0 available, 1 wanted",
        );
        untrue(SHORT, "Not enough stock: SKU SCARCE is unknown (5 wanted)");
        untrue(
            SHORT,
            "Not enough stock: SKU SCARCE has 5 available, 5 wanted",
        );
        untrue(
            SHORT,
            "Not enough stock: SKU SCARCE has 0 available, 5 wanted",
        );
        untrue(
            SHORT,
            "Not enough stock: SKU SCARCE has 2 available, 5 wanted",
        );
        untrue(
            SHORT,
            "Not enough stock: SKU SCARCE has 1 available, 6 wanted",
        );
        untrue(SHORT, "Not enough stock: SKU SCARCE has some");
        untrue(SHORT, "the warehouse is closed");
    }

    #[test]
    fn what_was_available_at_the_time_is_a_true_reason() {
        for available in 1..=4 {
            allowed(|history| {
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
                for post in &mut history.posts {
                    if post.customer_id == order.customer_id {
                        post.lines = order.lines.clone();
                    }
                }
            });
        }
    }

    #[test]
    fn a_reason_on_a_processed_order_and_none_on_a_rejected_one_are_caught() {
        caught(Invariant::Settled, 1, |history| {
            history.end.orders[PROCESSED].rejection_reason = Some("Not enough stock".to_owned());
        });
        caught(Invariant::Settled, 1, |history| {
            history.end.orders[SHORT].rejection_reason = None;
        });
    }

    #[test]
    fn stock_that_was_moved_twice_is_caught() {
        caught(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let after = &mut stock.expect("it is in the valid history").after;
            after.available -= 2;
            after.reserved += 2;
        });
    }

    #[test]
    fn stock_that_vanished_is_caught() {
        caught(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            stock.expect("it is in the valid history").after.available -= 1;
        });
    }

    #[test]
    fn stock_that_was_not_moved_is_caught() {
        caught(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let after = &mut stock.expect("it is in the valid history").after;
            after.available += 1;
            after.reserved -= 1;
        });
    }

    #[test]
    fn stock_below_zero_is_caught() {
        caught(Invariant::Stock, 1, |history| {
            let stock = history.end.inventory.get_mut("A");
            let stock = stock.expect("it is in the valid history");
            stock.before.available = 2;
            stock.after.available = -1;
        });
    }

    #[test]
    fn an_order_processed_for_a_sku_that_does_not_exist_is_caught() {
        caught(Invariant::Stock, 1, |history| {
            let order = &mut history.end.orders[UNKNOWN];
            order.status = "PROCESSED".to_owned();
            order.rejection_reason = None;
        });
    }
}
