//! Tables, items and waiting for conditions, for several modules.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement,
    KeyType, Projection, ProjectionType, Put, ScalarAttributeType, StreamSpecification,
    StreamViewType, TransactWriteItem,
};
use local_cloud::{Config, LocalCloud};

/// Far longer than any operation here takes; reaching it means that the condition never holds.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) async fn start() -> LocalCloud {
    LocalCloud::start(Config::default()).await.unwrap()
}

/// Polls until `poll` returns a value. Each poll sends a request to the cloud, which paces the
/// loop.
pub(crate) async fn eventually<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "timed out waiting for {what}");
    }
}

pub(crate) fn s(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn n(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// Creates `orders` and `outbox` with the keys, index and stream of the real tables.
pub(crate) async fn create_tables(client: &Client) {
    client
        .create_table()
        .table_name("orders")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("order_id", ScalarAttributeType::S))
        .key_schema(key("order_id", KeyType::Hash))
        .send()
        .await
        .unwrap();
    let by_state = GlobalSecondaryIndex::builder()
        .index_name("by_state")
        .key_schema(key("state_bucket", KeyType::Hash))
        .key_schema(key("occurred_at", KeyType::Range))
        .projection(
            Projection::builder()
                .projection_type(ProjectionType::All)
                .build(),
        )
        .build()
        .unwrap();
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewImage)
        .build()
        .unwrap();
    client
        .create_table()
        .table_name("outbox")
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("aggregate_id", ScalarAttributeType::S))
        .attribute_definitions(attribute("sequence", ScalarAttributeType::N))
        .attribute_definitions(attribute("state_bucket", ScalarAttributeType::S))
        .attribute_definitions(attribute("occurred_at", ScalarAttributeType::S))
        .key_schema(key("aggregate_id", KeyType::Hash))
        .key_schema(key("sequence", KeyType::Range))
        .global_secondary_indexes(by_state)
        .stream_specification(stream)
        .send()
        .await
        .unwrap();
}

/// Returns a `Put` of an order that must not exist yet.
pub(crate) fn put_order(order_id: &str) -> TransactWriteItem {
    let put = Put::builder()
        .table_name("orders")
        .item("order_id", s(order_id))
        .item("status", s("CREATED"))
        .condition_expression("attribute_not_exists(order_id)")
        .build()
        .unwrap();
    TransactWriteItem::builder().put(put).build()
}

/// Returns a `Put` of a pending event that must not exist yet.
pub(crate) fn put_event(aggregate_id: &str, sequence: u64) -> TransactWriteItem {
    let put = Put::builder()
        .table_name("outbox")
        .item("aggregate_id", s(aggregate_id))
        .item("sequence", n(sequence))
        .item("status", s("PENDING"))
        .item("state_bucket", s("PENDING#0"))
        .item("occurred_at", s(format!("2026-01-01T00:00:{sequence:02}Z")))
        .item("payload", s(r#"{"total_minor":3998}"#))
        .condition_expression("attribute_not_exists(aggregate_id)")
        .build()
        .unwrap();
    TransactWriteItem::builder().put(put).build()
}

fn attribute(name: &str, kind: ScalarAttributeType) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(kind)
        .build()
        .unwrap()
}

fn key(name: &str, kind: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder()
        .attribute_name(name)
        .key_type(kind)
        .build()
        .unwrap()
}
