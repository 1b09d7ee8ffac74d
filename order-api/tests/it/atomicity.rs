//! Atomicity: an order, its event and its key exist together or not at all.

use std::collections::BTreeSet;

use outbox::Buckets;
use serde_json::Value;
use shared::order::Order;
use test_support::Fault;

use crate::support::{Item, TRANSACT, World, an_order};

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item[name].as_s().unwrap()
}

#[tokio::test]
async fn an_order_is_stored_with_exactly_one_event_and_one_key() {
    let world = World::start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let created = world
        .post_with(
            &[
                ("idempotency-key", "k-1"),
                ("traceparent", &format!("00-{trace}-b7ad6b7169203331-01")),
                ("tracestate", "vendor=1"),
            ],
            &an_order(),
        )
        .await;
    let body = created.assert_created();
    let id = body["order_id"].as_str().unwrap();
    assert_eq!(world.counts().await, [1, 1, 1]);

    let stored = world.items("orders").await.remove(0);
    assert_eq!(text(&stored, "order_id"), id);
    assert_eq!(text(&stored, "status"), "CREATED");
    assert_eq!(stored["total_minor"].as_n().unwrap(), "3998");
    assert_eq!(stored["version"].as_n().unwrap(), "1");
    assert_eq!(Order::from_item(stored).unwrap().order_id.to_string(), id);

    let event = world.items("outbox").await.remove(0);
    let names: BTreeSet<_> = event.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "aggregate_id",
            "aggregate_type",
            "event_id",
            "event_type",
            "occurred_at",
            "payload",
            "sequence",
            "state_bucket",
            "status",
            "traceparent",
            "tracestate",
        ])
    );
    assert_eq!(text(&event, "aggregate_id"), id);
    assert_eq!(event["sequence"].as_n().unwrap(), "1");
    assert_eq!(text(&event, "event_id"), format!("{id}:1"));
    assert_eq!(text(&event, "aggregate_type"), "order");
    assert_eq!(text(&event, "event_type"), "order.placed");
    assert_eq!(text(&event, "status"), "PENDING");
    assert_eq!(
        text(&event, "state_bucket"),
        Buckets::default().partition_of(id)
    );
    assert_eq!(text(&event, "occurred_at"), body["created_at"]);
    assert!(text(&event, "traceparent").starts_with(&format!("00-{trace}-")));
    assert_eq!(text(&event, "tracestate"), "vendor=1");
    let mut data = body.clone();
    let members = data.as_object_mut().unwrap();
    for only_of_the_order in ["status", "version", "created_at", "updated_at", "trace_id"] {
        members.remove(only_of_the_order);
    }
    let payload: Value = serde_json::from_str(text(&event, "payload")).unwrap();
    assert_eq!(payload, data);

    let key = world.items("idempotency_keys").await.remove(0);
    assert_eq!(key.len(), 4);
    assert_eq!(text(&key, "idempotency_key"), "c-1#k-1");
    assert_eq!(text(&key, "order_id"), id);
    assert_eq!(text(&key, "request_hash").len(), 64);
    let created_at: outbox::timestamp::Timestamp =
        body["created_at"].as_str().unwrap().parse().unwrap();
    let expires_at: i64 = key["expires_at"].as_n().unwrap().parse().unwrap();
    assert_eq!(expires_at, created_at.as_seconds() + 24 * 60 * 60);
}

#[tokio::test]
async fn the_response_equals_the_stored_order() {
    let world = World::start().await;
    let created = world.post(&an_order()).await;
    let order = created.assert_created();
    assert_eq!(order["customer_id"], "c-1");
    assert_eq!(order["status"], "CREATED");
    assert_eq!(order["currency"], "EUR");
    assert_eq!(order["items"], an_order()["items"]);
    assert_eq!(order["total_minor"], 3998);
    assert_eq!(order["version"], 1);
    assert_eq!(order["created_at"], order["updated_at"]);
    assert!(order.get("rejection_reason").is_none());
    let read = world.get(created.header("location")).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.body, created.body);

    // A change by a worker is visible at once.
    let id = order["order_id"].as_str().unwrap();
    let s = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    world
        .dynamodb
        .update_item()
        .table_name("orders")
        .key("order_id", s(id))
        .update_expression("SET #s = :s, rejection_reason = :r")
        .expression_attribute_names("#s", "status")
        .expression_attribute_values(":s", s("REJECTED"))
        .expression_attribute_values(":r", s("not enough WIDGET-1"))
        .send()
        .await
        .unwrap();
    let rejected = world.get(created.header("location")).await.json();
    assert_eq!(rejected["status"], "REJECTED");
    assert_eq!(rejected["rejection_reason"], "not enough WIDGET-1");
}

#[tokio::test]
async fn nothing_is_stored_if_one_part_cannot_be() {
    let world = World::start().await;
    for table in ["outbox", "idempotency_keys"] {
        let delete = world.dynamodb.delete_table().table_name(table);
        delete.send().await.unwrap();
        let answer = world
            .post_with(&[("idempotency-key", "k")], &an_order())
            .await;
        answer.assert_problem(503, "unavailable");
        assert!(world.items("orders").await.is_empty());
        world.provision().await;
    }
    let answer = world
        .post_with(&[("idempotency-key", "k")], &an_order())
        .await;
    answer.assert_created();
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn a_request_that_dynamodb_rejects_is_500_without_internals() {
    let world = World::start().await;
    for code in ["SerializationException", "ValidationException"] {
        world.proxy.once(TRANSACT, Fault::refuse(code));
        let answer = world.post(&an_order()).await;
        answer.assert_problem(500, "internal");
    }
    assert_eq!(world.counts().await, [0, 0, 0]);
}
