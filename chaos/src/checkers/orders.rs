//! Compares the stored orders with the requests of the clients and the responses to them.

use std::collections::{HashMap, HashSet};

use super::super::history::{History, Post, StoredOrder};
use super::{Findings, Invariant};

/// Type and sequence of the event of a new order.
const PLACED: (&str, u64) = ("order.placed", 1);

/// Checks that every order confirmed with 201 is stored as requested.
pub(super) fn confirmed(history: &History, found: &mut Findings) {
    let stored = by_id(history);
    for post in history.posts.iter().filter(|post| post.status == Some(201)) {
        let mut wrong = |what: String| found.add(Invariant::Confirmed, post.at, what);
        let Some(id) = &post.order_id else {
            wrong(format!(
                "the 201 for customer {} has no order id",
                post.customer_id
            ));
            continue;
        };
        match stored.get(id.as_str()) {
            None => wrong(format!(
                "order {id} was confirmed with 201 and is not in the orders table"
            )),
            Some(order) if order.customer_id != post.customer_id || order.lines != post.lines => {
                wrong(format!(
                    "order {id} is stored for customer {} with the lines {:?}; requested were {} and {:?}",
                    order.customer_id, order.lines, post.customer_id, post.lines
                ));
            }
            Some(_) => {}
        }
    }
}

/// Checks that order, event and idempotency record exist together or not at all.
pub(super) fn atomic(history: &History, found: &mut Findings) {
    let orders = by_id(history);
    let mut wrong = |what: String| found.add(Invariant::Atomic, None, what);

    let mut events = HashSet::new();
    for event in history
        .end
        .outbox
        .iter()
        .filter(|event| event.event_type == PLACED.0)
    {
        if !orders.contains_key(event.aggregate_id.as_str()) {
            wrong(format!(
                "event {} is in the outbox, and its order is not in the orders table",
                event.event_id
            ));
        }
        if event.sequence == PLACED.1 {
            events.insert(event.aggregate_id.as_str());
        } else {
            wrong(format!(
                "event {} is in the outbox; expected is only one event of its order",
                event.event_id
            ));
        }
    }
    for order in history.end.orders.iter() {
        if !events.contains(order.order_id.as_str()) {
            wrong(format!(
                "order {} is in the orders table, and its event is not in the outbox",
                order.order_id
            ));
        }
    }

    let requests = requests_by_customer(history);
    let mut keys: HashMap<&str, Vec<&str>> = HashMap::new();
    for record in &history.end.idempotency {
        keys.entry(record.order_id.as_str())
            .or_default()
            .push(&record.key);
        if !orders.contains_key(record.order_id.as_str()) {
            wrong(format!(
                "idempotency key {} refers to order {}, which is not in the orders table",
                record.key, record.order_id
            ));
        }
    }
    for order in &history.end.orders {
        let id = &order.order_id;
        let Some(posts) = requests.get(order.customer_id.as_str()) else {
            wrong(format!(
                "order {id} is in the orders table, and no client requested it"
            ));
            continue;
        };
        // The key of a client identifies a request of its customer only.
        let customer = &order.customer_id;
        let key = posts[0].key.as_ref();
        let expected: Vec<_> = key
            .map(|key| format!("{customer}#{key}"))
            .into_iter()
            .collect();
        let stored = keys.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        if stored != expected {
            wrong(format!(
                "order {id} has the idempotency keys {stored:?}; expected are {expected:?}"
            ));
        }
    }
}

/// Checks that requests with one idempotency key created at most one order.
pub(super) fn one_key_one_order(history: &History, found: &mut Findings) {
    let mut stored: HashMap<&str, usize> = HashMap::new();
    for order in &history.end.orders {
        *stored.entry(&order.customer_id).or_default() += 1;
    }
    let mut ids: HashMap<&str, &str> = HashMap::new();
    for (customer_id, posts) in requests_by_customer(history) {
        let mut wrong = |what: String| found.add(Invariant::OneKeyOneOrder, posts[0].at, what);
        let orders = stored.get(customer_id).copied().unwrap_or_default();
        // Without a key each request creates a separate order.
        let keyed = posts[0].key.is_some();
        let most = if keyed { 1 } else { posts.len() };
        if orders > most {
            wrong(format!(
                "{} requests for customer {customer_id} created {orders} orders; at most {most} expected",
                posts.len()
            ));
        }
        let confirmed = || posts.iter().filter(|post| post.status == Some(201));
        let new = confirmed().filter(|post| !post.replayed).count();
        if keyed && new > 1 {
            wrong(format!(
                "{new} requests with the key of customer {customer_id} were answered with 201 and without Idempotency-Replayed; at most 1 expected"
            ));
        }
        if !keyed && new < confirmed().count() {
            wrong(format!(
                "a request for customer {customer_id} without a key was answered with Idempotency-Replayed"
            ));
        }
        for id in confirmed().filter_map(|post| post.order_id.as_deref()) {
            if let Some(other) = ids.insert(id, customer_id)
                && (other != customer_id || !keyed)
            {
                wrong(format!(
                    "order {id} is in the responses to requests for customers {other} and {customer_id} that are separate orders"
                ));
            }
        }
    }
}

fn by_id(history: &History) -> HashMap<&str, &StoredOrder> {
    let orders = history.end.orders.iter();
    orders
        .map(|order| (order.order_id.as_str(), order))
        .collect()
}

/// Returns all requests by customer: each customer id stands for one requested order.
fn requests_by_customer(history: &History) -> HashMap<&str, Vec<&Post>> {
    let mut requests: HashMap<&str, Vec<&Post>> = HashMap::new();
    for post in &history.posts {
        requests.entry(&post.customer_id).or_default().push(post);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations, stored_event};
    use super::*;
    use crate::history::IdempotencyRecord;

    #[test]
    fn a_confirmed_order_that_is_lost_is_detected() {
        assert_violations(Invariant::Confirmed, 1, |history| {
            // The order and its event are both missing.
            let mut post = history.posts[2].clone();
            post.at = 60_000;
            post.customer_id = "c-6".to_owned();
            post.order_id = Some("o-6".to_owned());
            history.posts.push(post);
        });
    }

    #[test]
    fn a_confirmed_order_stored_with_other_lines_is_detected() {
        assert_violations(Invariant::Confirmed, 1, |history| {
            // Those of the rejected order, which reserved no stock.
            history.posts[4].lines[0].quantity = 9;
        });
    }

    #[test]
    fn an_order_without_its_event_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            let missing = |id: &str| id == "o-4:1";
            history.end.outbox.retain(|event| !missing(&event.event_id));
            history.publishes.retain(|one| !missing(&one.event_id));
            history.deliveries.retain(|one| !missing(&one.event_id));
        });
    }

    #[test]
    fn an_event_without_its_order_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            history.end.outbox[4] = stored_event("steps", 1, "order.placed");
        });
    }

    #[test]
    fn a_second_event_of_an_order_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            let mut second = stored_event("o-1", 2, "order.placed");
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
            history
                .end
                .outbox
                .retain(|event| event.event_id != "steps:2");
        });
    }

    #[test]
    fn an_idempotency_record_without_its_order_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            history.end.idempotency.push(IdempotencyRecord {
                key: "c-5#k-5".to_owned(),
                order_id: "o-5".to_owned(),
            });
        });
    }

    #[test]
    fn an_order_without_its_idempotency_record_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            history.end.idempotency.remove(0);
        });
    }

    #[test]
    fn an_order_without_a_request_is_detected() {
        assert_violations(Invariant::Atomic, 1, |history| {
            history.posts.remove(4);
        });
    }

    #[test]
    fn an_order_answered_with_an_error_may_exist_with_its_event() {
        assert_valid(|history| {
            let post = &mut history.posts[4];
            post.at = 1_320;
            post.status = Some(504);
            post.order_id = None;
        });
    }

    #[test]
    fn two_orders_for_one_key_are_detected() {
        assert_violations(Invariant::OneKeyOneOrder, 1, |history| {
            // The order of c-4 becomes a second order of c-3.
            history.posts.remove(4);
            let order = &mut history.end.orders[3];
            order.customer_id = "c-3".to_owned();
            history.end.idempotency.push(IdempotencyRecord {
                key: "c-3#k-3".to_owned(),
                order_id: "o-4".to_owned(),
            });
        });
    }

    #[test]
    fn two_responses_not_marked_as_replayed_for_one_key_are_detected() {
        assert_violations(Invariant::OneKeyOneOrder, 1, |history| {
            let mut again = history.posts[3].clone();
            again.at += 100;
            history.posts.push(again);
        });
    }

    #[test]
    fn a_replayed_response_without_a_key_is_detected() {
        assert_violations(Invariant::OneKeyOneOrder, 1, |history| {
            history.posts[4].replayed = true;
        });
    }

    #[test]
    fn one_order_in_the_responses_to_two_requests_without_a_key_is_detected() {
        assert_violations(Invariant::OneKeyOneOrder, 1, |history| {
            let mut again = history.posts[4].clone();
            again.at += 100;
            history.posts.push(again);
        });
    }
}
