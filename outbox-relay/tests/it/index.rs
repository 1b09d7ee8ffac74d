//! An outbox table without the index of pending events, or with another projection.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use shared::provision::{self, Table};

use crate::support::{Item, Stage, event, ids, string, text, until_answer};

fn key(name: &str, key_type: KeyType) -> KeySchemaElement {
    let key = KeySchemaElement::builder().attribute_name(name);
    key.key_type(key_type).build().unwrap()
}

fn index_keys() -> Vec<KeySchemaElement> {
    let sort = key("occurred_at", KeyType::Range);
    vec![key("state_bucket", KeyType::Hash), sort]
}

fn attribute(name: &str, attribute_type: ScalarAttributeType) -> AttributeDefinition {
    let attribute = AttributeDefinition::builder().attribute_name(name);
    attribute.attribute_type(attribute_type).build().unwrap()
}

/// Creates an outbox table whose index has `projection`, or none.
pub(crate) async fn create_outbox(
    dynamodb: &aws_sdk_dynamodb::Client,
    table: &str,
    projection: Option<ProjectionType>,
) {
    use ScalarAttributeType::{N, S};
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewImage)
        .build()
        .unwrap();
    let mut request = dynamodb
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("aggregate_id", KeyType::Hash))
        .key_schema(key("sequence", KeyType::Range))
        .attribute_definitions(attribute("aggregate_id", S))
        .attribute_definitions(attribute("sequence", N))
        .stream_specification(stream);
    if let Some(projection) = projection {
        let projection = Projection::builder().projection_type(projection).build();
        let index = GlobalSecondaryIndex::builder()
            .index_name("by_state")
            .set_key_schema(Some(index_keys()))
            .projection(projection)
            .build()
            .unwrap();
        request = request
            .attribute_definitions(attribute("state_bucket", S))
            .attribute_definitions(attribute("occurred_at", S))
            .global_secondary_indexes(index);
    }
    request.send().await.unwrap();
}

/// Adds the index to the table `outbox`, with the attributes that relays need.
async fn add_index(dynamodb: &aws_sdk_dynamodb::Client) {
    let names = [
        "event_id",
        "event_type",
        "failed_at",
        "retried_at",
        "replayed_at",
    ];
    let projection = Projection::builder()
        .projection_type(ProjectionType::Include)
        .set_non_key_attributes(Some(names.map(str::to_owned).into()))
        .build();
    let index = CreateGlobalSecondaryIndexAction::builder()
        .index_name("by_state")
        .set_key_schema(Some(index_keys()))
        .projection(projection)
        .build()
        .unwrap();
    dynamodb
        .update_table()
        .table_name("outbox")
        .attribute_definitions(attribute("state_bucket", ScalarAttributeType::S))
        .attribute_definitions(attribute("occurred_at", ScalarAttributeType::S))
        .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(index).build())
        .send()
        .await
        .unwrap();
}

/// Starts a cloud whose outbox table has no index.
async fn stage_without_index() -> Stage {
    let stage = Stage::new().await;
    let delete = stage.dynamodb.delete_table().table_name("outbox");
    delete.send().await.unwrap();
    create_outbox(&stage.dynamodb, "outbox", None).await;
    stage
}

fn typed(aggregate_id: &str, event_type: &str) -> Item {
    let mut item = event(aggregate_id, 1);
    item.insert("event_type".to_owned(), text(event_type));
    item
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_index_the_stream_is_published_and_the_rest_waits_for_it() {
    const SWEEPS: [(&str, &str); 2] = [
        ("RELAY_SWEEP_INTERVAL", "500ms"),
        ("RELAY_SWEEP_AFTER", "500ms"),
    ];
    let stage = stage_without_index().await;
    let mut relay = stage.relay(&SWEEPS).await;
    stage.put(typed("deferred", "stock.moved")).await;
    stage.put(event("o-1", 1)).await;
    stage.until_status("o-1", 1, "PUBLISHED").await;
    let cause = "index `by_state` of table `outbox` cannot be read";
    until_answer(&relay, "/readyz", 503, cause).await;
    until_answer(&relay, "/healthz", 200, "").await;
    let list = stage.operate(&["list"]).await;
    assert_eq!(list.code, Some(69), "{list:?}");
    assert!(
        format!("{list:?}").contains("all-in-one provision"),
        "{list:?}"
    );

    relay.kill().await.unwrap();
    let mut environment = SWEEPS.to_vec();
    environment.push(("RELAY_ROUTES", "*=order-events"));
    let relay = stage.relay(&environment).await;
    until_answer(&relay, "/readyz", 503, cause).await;
    let waiting = stage.event("deferred", 1).await;
    assert_eq!(string(&waiting, "status"), Some("PENDING"));

    add_index(&stage.dynamodb).await;
    stage.until_status("deferred", 1, "PUBLISHED").await;
    until_answer(&relay, "/readyz", 200, "").await;
    let mut sent = ids(&stage.receive("order-events", 2).await);
    sent.sort();
    assert_eq!(sent, ["deferred:1", "o-1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_keeps_an_index_that_works_and_rejects_others_with_the_steps() {
    let stage = Stage::without_queue().await;
    for (table, projection, steps) in [
        ("none", None, true),
        ("keys", Some(ProjectionType::KeysOnly), true),
        ("all", Some(ProjectionType::All), false),
    ] {
        create_outbox(&stage.dynamodb, table, projection).await;
        let provisioned = provision::tables(&stage.dynamodb, [Table::outbox(table)]).await;
        match provisioned {
            Ok(()) => assert!(!steps, "{table}"),
            Err(error) => {
                let error = error.to_string();
                assert!(steps && error.contains("UpdateTable"), "{table}: {error}");
                assert!(error.contains("`by_state`"), "{table}: {error}");
            }
        }
    }
}
