//! Every bound of the contract: at, below and above it.

use serde_json::{Value, json};

use crate::support::{World, an_order};

/// Returns the example with `value` at `pointer`.
fn with(pointer: &str, value: Value) -> Value {
    let mut order = an_order();
    *order.pointer_mut(pointer).unwrap() = value;
    order
}

fn lines(count: usize) -> Value {
    let line = |n| json!({"sku": format!("S-{n}"), "quantity": 1, "unit_price_minor": 1});
    (0..count).map(line).collect()
}

#[tokio::test]
async fn values_within_their_bounds_are_accepted() {
    let world = World::start().await;
    let longest = "x".repeat(64);
    for order in [
        with("/items", lines(1)),
        with("/items", lines(50)),
        with("/items/0/quantity", json!(1)),
        with("/items/0/quantity", json!(1_000_000)),
        with("/items/0/quantity", json!(2.0)),
        with("/items/0/unit_price_minor", json!(0)),
        with("/items/0/unit_price_minor", json!(1_000_000_000_000_u64)),
        with("/customer_id", json!("a")),
        with("/customer_id", json!(longest)),
        with("/customer_id", json!("AZaz09._-")),
        with("/items/0/sku", json!("a")),
        with("/items/0/sku", json!(longest)),
        with("/items/0/sku", json!("AZaz09._-")),
        with("/currency", json!("JPY")),
    ] {
        world.post(&order).await.assert_created();
    }
}

#[tokio::test]
async fn values_outside_their_bounds_are_reported() {
    let world = World::start().await;
    let too_long = "x".repeat(65);
    let quantity = "must be a whole number from 1 to 1000000";
    let price = "must be a whole number from 0 to 1000000000000";
    let name = "must be 1 to 64 characters of A-Z a-z 0-9 . _ -";
    let currency = "must be an ISO 4217 code: three capital letters";
    for (pointer, value, reason) in [
        ("/items", json!([]), "must have 1 to 50 items"),
        ("/items", lines(51), "must have 1 to 50 items"),
        ("/items/0/quantity", json!(0), quantity),
        ("/items/0/quantity", json!(1_000_001), quantity),
        ("/items/0/quantity", json!(-1), quantity),
        ("/items/0/quantity", json!(1.5), quantity),
        ("/items/0/quantity", json!(1_u64 << 63), quantity),
        ("/items/0/quantity", json!(1e30), quantity),
        ("/items/0/quantity", json!("2"), quantity),
        ("/items/0/quantity", json!(null), quantity),
        (
            "/items/0/unit_price_minor",
            json!(1_000_000_000_001_u64),
            price,
        ),
        ("/items/0/unit_price_minor", json!(-1), price),
        ("/items/0/unit_price_minor", json!(1_u64 << 63), price),
        ("/items/0/unit_price_minor", json!("1999"), price),
        ("/items/0/unit_price_minor", json!(0.5), price),
        ("/customer_id", json!(""), name),
        ("/customer_id", json!(too_long), name),
        ("/customer_id", json!("a b"), name),
        ("/customer_id", json!("nul\0"), name),
        ("/customer_id", json!("ü"), name),
        ("/customer_id", json!(7), "must be a string"),
        ("/items/0/sku", json!(""), name),
        ("/items/0/sku", json!(too_long), name),
        ("/items/0/sku", json!("a/b"), name),
        ("/items/0/sku", json!("nul\0"), name),
        ("/currency", json!("EU"), currency),
        ("/currency", json!("EURO"), currency),
        ("/currency", json!("eur"), currency),
        (
            "/currency",
            json!("ZZZ"),
            "is not a currency code of ISO 4217",
        ),
        ("/items", json!({}), "must be an array of 1 to 50 items"),
        ("/items/0", json!(null), "must be an object"),
    ] {
        let answer = world.post(&with(pointer, value)).await;
        assert_eq!(
            answer.offending(),
            [(pointer.to_owned(), reason.to_owned())]
        );
    }
    assert_eq!(world.counts().await, [0, 0, 0]);
}

#[tokio::test]
async fn a_body_has_at_most_64_kib() {
    let world = World::start().await;
    let mut body = an_order().to_string();
    body.extend(std::iter::repeat_n(' ', 65_536 - body.len()));
    world.post_text(&[], body.clone()).await.assert_created();
    body.push(' ');
    let answer = world.post_text(&[], body).await;
    answer.assert_problem(413, "body-too-large");
}

#[tokio::test]
async fn a_total_is_exact_in_a_double() {
    let world = World::start().await;
    let items = |rest: u64| {
        json!([
            {"sku": "A", "quantity": 9_007, "unit_price_minor": 1_000_000_000_000_u64},
            {"sku": "B", "quantity": 1, "unit_price_minor": rest},
        ])
    };
    let largest = world.post(&with("/items", items(199_254_740_991))).await;
    let order = largest.assert_created();
    assert_eq!(order["total_minor"], (1_u64 << 53) - 1);
    let read = world.get(largest.header("location")).await;
    assert_eq!(read.body, largest.body);

    let line = |n| json!({"sku": format!("S-{n}"), "quantity": 1_000_000, "unit_price_minor": 1_000_000_000_000_u64});
    for items in [items(199_254_740_992), (0..50).map(line).collect()] {
        let answer = world.post(&with("/items", items)).await;
        let reason = "must have a total of at most 9007199254740991".to_owned();
        assert_eq!(answer.offending(), [("/items".to_owned(), reason)]);
    }
    assert_eq!(world.counts().await, [1, 1, 0]);
}
