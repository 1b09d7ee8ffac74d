//! The reservation that an order holds, and the agreement of messages with stored orders.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};
use outbox::Message;
use shared::order::{Order, OrderStatus};

use crate::support::{TestCloud, message};

/// Stores an order as an earlier release did, without a digest of its lines.
async fn place_without_digest(cloud: &TestCloud, lines: &[(&str, u64)]) -> Order {
    let order = cloud.place(lines).await;
    let removed = cloud
        .dynamodb
        .update_item()
        .table_name("orders")
        .key("order_id", AttributeValue::S(order.order_id.to_string()))
        .update_expression("REMOVE items_digest")
        .send();
    removed.await.unwrap();
    order
}

fn with_more_pieces(order: &Order) -> Message {
    let body = message(order)
        .body
        .replace(r#""quantity":2"#, r#""quantity":20"#);
    assert_ne!(body, message(order).body);
    Message::new(body, Vec::new())
}

#[tokio::test]
async fn a_processed_order_records_what_it_holds_and_a_rejected_one_holds_nothing() {
    let cloud = TestCloud::start(&[("A", 10), ("B", 10)]).await;
    let _worker = cloud.worker(&[]).await;
    let placed = cloud
        .place_and_send(&[&[("A", 2), ("B", 3)], &[("A", 100)]])
        .await;

    let held = cloud.decided(&placed[0]).await.reservation.unwrap();
    let held: Vec<_> = held
        .iter()
        .map(|(sku, n)| (sku.as_str(), n.get()))
        .collect();
    assert_eq!(held, [("A", 2), ("B", 3)]);
    let rejected = cloud.decided(&placed[1]).await;
    assert_eq!(rejected.status, OrderStatus::Rejected);
    assert_eq!(rejected.reservation, None);
}

/// Sends the transaction of the runbook (docs/operations.md, stock and reservations).
#[tokio::test]
async fn a_reservation_can_be_released_once() {
    let cloud = TestCloud::start(&[("A", 10), ("B", 10)]).await;
    let _worker = cloud.worker(&[]).await;
    let placed = cloud.place_and_send(&[&[("A", 2), ("B", 3)]]).await;
    cloud.all(&placed, OrderStatus::Processed).await;
    let item = cloud.order_item(&placed[0]).await;
    let held: &HashMap<_, _> = item["reservation"].as_m().unwrap();

    let release = || {
        let order = Update::builder()
            .table_name("orders")
            .key("order_id", item["order_id"].clone())
            .update_expression("REMOVE reservation ADD version :one")
            .condition_expression("reservation = :held")
            .expression_attribute_values(":held", item["reservation"].clone())
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()));
        let stock = held.iter().map(|(sku, quantity)| {
            Update::builder()
                .table_name("inventory")
                .key("sku", AttributeValue::S(sku.clone()))
                .update_expression("SET available = available + :n, reserved = reserved - :n")
                .expression_attribute_values(":n", quantity.clone())
        });
        let updates = std::iter::once(order).chain(stock);
        let actions = updates.map(|update| {
            TransactWriteItem::builder()
                .update(update.build().unwrap())
                .build()
        });
        let transaction = cloud.dynamodb.transact_write_items();
        transaction
            .set_transact_items(Some(actions.collect()))
            .send()
    };
    release().await.unwrap();
    assert!(release().await.is_err());

    assert_eq!(cloud.stock("A").await, (10, 0));
    assert_eq!(cloud.stock("B").await, (10, 0));
    // A late delivery does not reserve again.
    cloud.send(&[message(&placed[0])]).await;
    cloud.drained().await;
    assert_eq!(cloud.stock("A").await, (10, 0));
}

#[tokio::test]
async fn a_message_with_other_quantities_than_the_stored_order_changes_nothing() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let _worker = cloud.worker(&[("WORKER_VISIBILITY_TIMEOUT", "1s")]).await;
    let with_digest = cloud.place(&[("A", 2)]).await;
    let without = place_without_digest(&cloud, &[("A", 2)]).await;
    for order in [&with_digest, &without] {
        cloud.send(&[with_more_pieces(order)]).await;
    }
    // Other SKUs, and more than there is: neither rejects the order.
    let other_sku = message(&with_digest).body.replace(r#""A""#, r#""NO-SUCH""#);
    cloud.send(&[Message::new(other_sku, Vec::new())]).await;

    cloud.dead_letters(3).await;
    assert_eq!(cloud.stock("A").await, (100, 0));
    for order in [with_digest, without] {
        assert_eq!(cloud.order(&order).await, order);
        cloud.send(&[message(&order)]).await;
        cloud.all(&[order], OrderStatus::Processed).await;
    }
    assert_eq!(cloud.stock("A").await, (96, 4));
}

#[tokio::test]
async fn orders_of_an_earlier_release_are_processed_and_rejected() {
    let cloud = TestCloud::start(&[("A", 3)]).await;
    let first = place_without_digest(&cloud, &[("A", 2)]).await;
    let second = place_without_digest(&cloud, &[("A", 2)]).await;
    cloud.send(&[message(&first), message(&second)]).await;
    let _worker = cloud.worker(&[]).await;

    cloud.all(&[first], OrderStatus::Processed).await;
    cloud.all(&[second], OrderStatus::Rejected).await;
    assert_eq!(cloud.stock("A").await, (1, 2));
}
