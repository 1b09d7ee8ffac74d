//! Idempotency keys: the same key and body return the first order.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use futures::future::join_all;
use outbox::timestamp::Timestamp;
use serde_json::json;
use test_support::Fault;

use crate::support::{TRANSACT, World, an_order, raw};

#[tokio::test]
async fn a_repeated_request_returns_the_first_order() {
    let mut world = World::start().await;
    let key = [("idempotency-key", "k-1")];
    let first = world.post_with(&key, &an_order()).await;
    let order = first.assert_created();
    assert!(!first.replayed());

    // The response is the order as it was created, even if it has changed since.
    let order_id = AttributeValue::S(order["order_id"].as_str().unwrap().to_owned());
    world
        .dynamodb
        .update_item()
        .table_name("orders")
        .key("order_id", order_id)
        .update_expression("SET #s = :s, version = :v, updated_at = :u")
        .expression_attribute_names("#s", "status")
        .expression_attribute_values(":s", AttributeValue::S("PROCESSED".to_owned()))
        .expression_attribute_values(":v", AttributeValue::N("2".to_owned()))
        .expression_attribute_values(":u", AttributeValue::S(Timestamp::now().to_string()))
        .send()
        .await
        .unwrap();
    // White space and the order of members do not matter.
    let respelled = r#" {"items":[{"quantity":2.0, "unit_price_minor":1999,
        "sku":"WIDGET-\u0031"}], "currency":"EUR", "customer_id":"c-1"} "#;
    for n in 0..3 {
        if n == 2 {
            world.restart().await;
        }
        let again = world.post_text(&key, respelled).await;
        again.assert_created();
        assert!(again.replayed());
        assert_eq!(again.body, first.body);
    }
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn a_key_used_with_another_body_is_422() {
    let world = World::start().await;
    let key = [("idempotency-key", "k-1")];
    world.post_with(&key, &an_order()).await.assert_created();
    let mut other = an_order();
    other["items"][0]["quantity"] = json!(3);
    let answer = world.post_with(&key, &other).await;
    answer.assert_problem(422, "idempotency-key-reused");
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn an_invalid_request_does_not_use_its_key() {
    let world = World::start().await;
    let key = [("idempotency-key", "k-1")];
    let invalid = world.post_with(&key, &json!({})).await;
    invalid.assert_problem(422, "invalid-order");
    let valid = world.post_with(&key, &an_order()).await;
    valid.assert_created();
    assert!(!valid.replayed());
}

#[tokio::test]
async fn without_a_key_every_request_creates_an_order() {
    let world = World::start().await;
    for _ in 0..2 {
        world.post(&an_order()).await.assert_created();
    }
    assert_eq!(world.counts().await, [2, 2, 0]);
}

#[tokio::test]
async fn fifty_concurrent_requests_with_one_key_create_one_order() {
    let world = World::start().await;
    // On AWS, concurrent transactions on one key end in conflicts.
    for _ in 0..20 {
        let conflict = &["None", "None", "TransactionConflict"];
        world.proxy.once(TRANSACT, Fault::cancel(conflict));
    }
    let order = an_order();
    let key = [("idempotency-key", "at-once")];
    let answers = join_all((0..50).map(|_| world.post_with(&key, &order))).await;
    for answer in &answers {
        answer.assert_created();
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(answers.iter().filter(|a| !a.replayed()).count(), 1);
    assert_eq!(world.counts().await, [1, 1, 1]);
    let metrics = world.admin_get("/metrics").await.body;
    assert!(
        metrics.contains("\norders_created_total 1\n"),
        "replays are not counted: {metrics}"
    );
}

#[tokio::test]
async fn a_key_is_1_to_255_visible_characters() {
    let world = World::start().await;
    let longest = "k".repeat(255);
    for right in ["k", "!~", &longest] {
        for replayed in [false, true] {
            let answer = world
                .post_with(&[("idempotency-key", right)], &an_order())
                .await;
            answer.assert_created();
            assert_eq!(answer.replayed(), replayed);
        }
    }
    for wrong in ["", "two words", "tab\there", &"k".repeat(256)] {
        let answer = world
            .post_with(&[("idempotency-key", wrong)], &an_order())
            .await;
        answer.assert_problem(400, "invalid-idempotency-key");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    let answer = world.post_with(&twice, &an_order()).await;
    let problem = answer.assert_problem(400, "invalid-idempotency-key");
    assert_eq!(problem["detail"], "Idempotency-Key must be given once.");

    let not_ascii = "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/json\r\nidempotency-key: schlüssel\r\ncontent-length: 2\r\n\r\n{}";
    let answer = raw(&world, not_ascii.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(world.counts().await, [3, 3, 3]);
}

#[tokio::test]
async fn a_key_may_have_the_quotes_of_a_structured_field() {
    let world = World::start().await;
    let plain = [("idempotency-key", "k-1")];
    world.post_with(&plain, &an_order()).await.assert_created();
    let quoted = [("idempotency-key", "\"k-1\"")];
    assert!(world.post_with(&quoted, &an_order()).await.replayed());
    let empty = [("idempotency-key", "\"\"")];
    let answer = world.post_with(&empty, &an_order()).await;
    answer.assert_problem(400, "invalid-idempotency-key");
}

#[tokio::test]
async fn keys_of_customers_do_not_collide() {
    let world = World::start().await;
    let mut orders = Vec::new();
    for customer in ["c-1", "c-2"] {
        let mut order = an_order();
        order["customer_id"] = json!(customer);
        let key = [("idempotency-key", "1")];
        let answer = world.post_with(&key, &order).await;
        assert!(!answer.replayed());
        orders.push(answer.assert_created()["order_id"].clone());
        assert!(world.post_with(&key, &order).await.replayed());
    }
    assert_ne!(orders[0], orders[1]);
    assert_eq!(world.counts().await, [2, 2, 2]);
}

#[tokio::test]
async fn a_key_that_looks_like_the_record_of_another_key_is_independent() {
    let world = World::start().await;
    for key in ["1", "c-1#1", "c-1#c-1#1", "\"c-1#1"] {
        let key = [("idempotency-key", key)];
        let answer = world.post_with(&key, &an_order()).await;
        answer.assert_created();
        assert!(!answer.replayed(), "{key:?}");
        assert!(world.post_with(&key, &an_order()).await.replayed());
    }
    assert_eq!(world.counts().await, [4, 4, 4]);
}

/// Rewrites the record of `c-1#<key>` as releases wrote it that did not scope keys by customer.
async fn unscope(world: &World, key: &str) {
    let scoped = AttributeValue::S(format!("c-1#{key}"));
    let record = world
        .dynamodb
        .delete_item()
        .table_name("idempotency_keys")
        .key("idempotency_key", scoped)
        .return_values(ReturnValue::AllOld)
        .send()
        .await
        .unwrap();
    let mut record = record.attributes.unwrap();
    let unscoped = AttributeValue::S(key.to_owned());
    record.insert("idempotency_key".to_owned(), unscoped);
    world
        .dynamodb
        .put_item()
        .table_name("idempotency_keys")
        .set_item(Some(record))
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_of_an_earlier_release_still_returns_its_order() {
    let world = World::start().await;
    let key = [("idempotency-key", "k-1")];
    let first = world.post_with(&key, &an_order()).await;
    first.assert_created();
    unscope(&world, "k-1").await;

    let again = world.post_with(&key, &an_order()).await;
    assert!(again.replayed());
    assert_eq!(again.body, first.body);
    let mut changed = an_order();
    changed["items"][0]["quantity"] = json!(3);
    let answer = world.post_with(&key, &changed).await;
    answer.assert_problem(422, "idempotency-key-reused");
    // Another customer's key with the same text is another key.
    changed["customer_id"] = json!("c-2");
    let other = world.post_with(&key, &changed).await;
    other.assert_created();
    assert!(!other.replayed());
    assert!(world.post_with(&key, &changed).await.replayed());
    assert_eq!(world.counts().await, [2, 2, 2]);
}

#[tokio::test]
async fn an_expired_key_that_is_not_deleted_yet_can_be_used_again() {
    let world = World::start().await;
    let key = [("idempotency-key", "k-1")];
    let first = world.post_with(&key, &an_order()).await.assert_created();
    world
        .dynamodb
        .update_item()
        .table_name("idempotency_keys")
        .key("idempotency_key", AttributeValue::S("c-1#k-1".to_owned()))
        .update_expression("SET expires_at = :past")
        .expression_attribute_values(
            ":past",
            AttributeValue::N((Timestamp::now().as_seconds() - 5).to_string()),
        )
        .send()
        .await
        .unwrap();
    let second = world.post_with(&key, &an_order()).await;
    assert!(!second.replayed());
    assert_ne!(second.assert_created()["order_id"], first["order_id"]);
    let third = world.post_with(&key, &an_order()).await;
    assert!(third.replayed());
    assert_eq!(third.body, second.body);
}
