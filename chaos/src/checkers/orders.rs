//! Orders as they are stored at the end, against what clients asked for and
//! were told.

use std::collections::{HashMap, HashSet};

use super::super::history::{History, OrderRow, Post};
use super::{Findings, Invariant};

/// The type of the event that a new order has, and its sequence.
const PLACED: (&str, u64) = ("order.placed", 1);

pub(super) fn confirmed(history: &History, found: &mut Findings) {
    let stored = by_id(history);
    for post in history.posts.iter().filter(|post| post.status == Some(201)) {
        let mut wrong = |what: String| found.add(Invariant::Confirmed, post.at, what);
        let Some(id) = &post.order_id else {
            wrong(format!("a 201 for {} has no order id", post.customer_id));
            continue;
        };
        match stored.get(id.as_str()) {
            None => wrong(format!(
                "order {id} was answered with 201 and does not exist"
            )),
            Some(order) if order.customer_id != post.customer_id || order.lines != post.lines => {
                wrong(format!("order {id} is not stored as it was asked for"));
            }
            Some(_) => {}
        }
    }
}

pub(super) fn atomic(history: &History, found: &mut Findings) {
    let orders = by_id(history);
    let mut wrong = |what: String| found.add(Invariant::Atomic, None, what);

    let mut events = HashSet::new();
    for row in history
        .end
        .outbox
        .iter()
        .filter(|row| row.event_type == PLACED.0)
    {
        if !orders.contains_key(row.aggregate_id.as_str()) {
            wrong(format!("event {} exists without its order", row.event_id));
        }
        if row.sequence == PLACED.1 {
            events.insert(row.aggregate_id.as_str());
        } else {
            wrong(format!(
                "event {} is a second one of its order",
                row.event_id
            ));
        }
    }
    for order in history.end.orders.iter() {
        if !events.contains(order.order_id.as_str()) {
            wrong(format!("order {} exists without its event", order.order_id));
        }
    }

    let wanted = wishes(history);
    let mut keys: HashMap<&str, Vec<&str>> = HashMap::new();
    for row in &history.end.idempotency {
        keys.entry(row.order_id.as_str())
            .or_default()
            .push(&row.key);
        if !orders.contains_key(row.order_id.as_str()) {
            wrong(format!(
                "key {} names order {}, which does not exist",
                row.key, row.order_id
            ));
        }
    }
    for order in &history.end.orders {
        let id = &order.order_id;
        let Some(posts) = wanted.get(order.customer_id.as_str()) else {
            wrong(format!("order {id} exists and nobody asked for it"));
            continue;
        };
        let expected: Vec<&str> = posts[0].key.as_deref().into_iter().collect();
        let stored = keys.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        if stored != expected {
            wrong(format!(
                "order {id} has the idempotency keys {stored:?}, and should have {expected:?}"
            ));
        }
    }
}

pub(super) fn one_key_one_order(history: &History, found: &mut Findings) {
    let mut stored: HashMap<&str, usize> = HashMap::new();
    for order in &history.end.orders {
        *stored.entry(&order.customer_id).or_default() += 1;
    }
    let mut ids: HashMap<&str, &str> = HashMap::new();
    for (customer_id, posts) in wishes(history) {
        let mut wrong = |what: String| found.add(Invariant::OneKeyOneOrder, posts[0].at, what);
        let orders = stored.get(customer_id).copied().unwrap_or_default();
        // Without a key each request is an order of its own.
        let keyed = posts[0].key.is_some();
        let most = if keyed { 1 } else { posts.len() };
        if orders > most {
            wrong(format!(
                "{} requests for {customer_id} made {orders} orders",
                posts.len()
            ));
        }
        let confirmed = || posts.iter().filter(|post| post.status == Some(201));
        let new = confirmed().filter(|post| !post.replayed).count();
        if keyed && new > 1 {
            wrong(format!(
                "{new} requests with the key of {customer_id} were answered as the first one"
            ));
        }
        if !keyed && new < confirmed().count() {
            wrong(format!(
                "a request for {customer_id} without a key was answered with an earlier order"
            ));
        }
        for id in confirmed().filter_map(|post| post.order_id.as_deref()) {
            if let Some(other) = ids.insert(id, customer_id)
                && (other != customer_id || !keyed)
            {
                wrong(format!(
                    "order {id} was the answer to {other} and to {customer_id}"
                ));
            }
        }
    }
}

fn by_id(history: &History) -> HashMap<&str, &OrderRow> {
    let orders = history.end.orders.iter();
    orders
        .map(|order| (order.order_id.as_str(), order))
        .collect()
}

/// All requests for each wanted order, by its customer.
fn wishes(history: &History) -> HashMap<&str, Vec<&Post>> {
    let mut wishes: HashMap<&str, Vec<&Post>> = HashMap::new();
    for post in &history.posts {
        wishes.entry(&post.customer_id).or_default().push(post);
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, row};
    use super::*;
    use crate::history::IdempotencyRow;

    #[test]
    fn a_confirmed_order_that_is_lost_is_caught() {
        caught(Invariant::Confirmed, 1, |history| {
            // Wholly: its event is gone as well.
            let mut post = history.posts[2].clone();
            post.at = 60_000;
            post.customer_id = "c-6".to_owned();
            post.order_id = Some("o-6".to_owned());
            history.posts.push(post);
        });
    }

    #[test]
    fn a_confirmed_order_stored_with_other_lines_is_caught() {
        caught(Invariant::Confirmed, 1, |history| {
            // Of the rejected order: no stock moved for it.
            history.posts[4].lines[0].quantity = 9;
        });
    }

    #[test]
    fn an_order_without_its_event_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            let gone = |id: &str| id == "o-4:1";
            history.end.outbox.retain(|row| !gone(&row.event_id));
            history.publishes.retain(|one| !gone(&one.event_id));
            history.deliveries.retain(|one| !gone(&one.event_id));
        });
    }

    #[test]
    fn an_event_without_its_order_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            history.end.outbox[4] = row("steps", 1, "order.placed");
        });
    }

    #[test]
    fn a_second_event_of_an_order_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            let mut second = row("o-1", 2, "order.placed");
            second.status = "PUBLISHED".to_owned();
            history.end.outbox.push(second.clone());
            for publish in &mut history.publishes {
                if publish.event_id == "steps:2" {
                    publish.aggregate_id = second.aggregate_id.clone();
                    publish.event_id = second.event_id.clone();
                }
            }
            for delivery in &mut history.deliveries {
                if delivery.event_id == "steps:2" {
                    delivery.event_id = second.event_id.clone();
                }
            }
            history.steps.retain(|step| step.sequence != 2);
            history.end.outbox.retain(|row| row.event_id != "steps:2");
        });
    }

    #[test]
    fn an_idempotency_record_without_its_order_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            history.end.idempotency.push(IdempotencyRow {
                key: "k-5".to_owned(),
                order_id: "o-5".to_owned(),
            });
        });
    }

    #[test]
    fn an_order_without_its_idempotency_record_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            history.end.idempotency.remove(0);
        });
    }

    #[test]
    fn an_order_that_nobody_asked_for_is_caught() {
        caught(Invariant::Atomic, 1, |history| {
            history.posts.remove(4);
        });
    }

    #[test]
    fn an_order_answered_with_an_error_may_exist_wholly() {
        allowed(|history| {
            let post = &mut history.posts[4];
            post.at = 1_320;
            post.status = Some(504);
            post.order_id = None;
        });
    }

    #[test]
    fn a_key_that_made_two_orders_is_caught() {
        caught(Invariant::OneKeyOneOrder, 1, |history| {
            // c-4's order becomes a second one of c-3.
            history.posts.remove(4);
            let order = &mut history.end.orders[3];
            order.customer_id = "c-3".to_owned();
            history.end.idempotency.push(IdempotencyRow {
                key: "k-3".to_owned(),
                order_id: "o-4".to_owned(),
            });
        });
    }

    #[test]
    fn two_first_answers_for_one_key_are_caught() {
        caught(Invariant::OneKeyOneOrder, 1, |history| {
            let mut again = history.posts[3].clone();
            again.at += 100;
            history.posts.push(again);
        });
    }

    #[test]
    fn a_replayed_answer_without_a_key_is_caught() {
        caught(Invariant::OneKeyOneOrder, 1, |history| {
            history.posts[4].replayed = true;
        });
    }

    #[test]
    fn one_order_as_the_answer_to_two_requests_without_a_key_is_caught() {
        caught(Invariant::OneKeyOneOrder, 1, |history| {
            let mut again = history.posts[4].clone();
            again.at += 100;
            history.posts.push(again);
        });
    }
}
