//! Throttled partitions, delayed indexes and streams, and the deletion of expired items.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    BatchStatementErrorCodeEnum, BatchStatementRequest, CancellationReason, PutRequest,
    TimeToLiveSpecification, WriteRequest,
};
use aws_sdk_dynamodb::{Client, config};
use aws_sdk_dynamodbstreams::types::{OperationType, Record, ShardIteratorType};
use local_cloud::{Config, Fidelity, LocalCloud};

use crate::support::{create_tables, eventually, n, put_event, put_order, s};

/// Far longer than the requests of a test take.
const LONG: Duration = Duration::from_secs(5);

/// Bytes of an item that exhausts its partition key for minutes.
const LARGE: usize = 300_000;

async fn start(fidelity: Fidelity) -> (LocalCloud, Client) {
    let config = Config {
        fidelity,
        ..Config::default()
    };
    let cloud = LocalCloud::start(config).await.unwrap();
    // Each request is sent once.
    let builder = config::Builder::from(&cloud.sdk_config());
    let builder = builder.retry_config(config::retry::RetryConfig::disabled());
    let client = Client::from_conf(builder.endpoint_url(cloud.dynamodb_url()).build());
    create_tables(&client).await;
    (cloud, client)
}

fn limited(units: u32) -> Fidelity {
    Fidelity {
        partition_write_units: NonZeroU32::new(units),
        ..Fidelity::default()
    }
}

async fn write_event(client: &Client, sequence: u64) -> Result<(), TransactWriteItemsError> {
    let sent = client.transact_write_items();
    let sent = sent.transact_items(put_event("o-1", sequence));
    sent.send()
        .await
        .map(drop)
        .map_err(|error| error.into_service_error())
}

/// Writes an item of this size. With 1 unit per second it exhausts its partition key for a second
/// per KB.
async fn update(client: &Client, order_id: &str, bytes: usize) -> Result<(), UpdateItemError> {
    let update = client.update_item().table_name("orders");
    let update = update
        .key("order_id", s(order_id))
        .update_expression("SET a = :a")
        .expression_attribute_values(":a", s("a".repeat(bytes)));
    let updated = update.send().await;
    updated
        .map(drop)
        .map_err(|error| error.into_service_error())
}

#[tokio::test]
async fn writes_of_one_partition_key_are_throttled_beyond_its_throughput() {
    let (_cloud, client) = start(limited(1)).await;
    update(&client, "o-1", LARGE).await.unwrap();

    let error = update(&client, "o-1", 1).await.unwrap_err();
    let UpdateItemError::ThrottlingException(throttled) = &error else {
        panic!("{error:?}");
    };
    let [reason] = throttled.throttling_reasons() else {
        panic!("{throttled:?}");
    };
    let kind = "TableWriteKeyRangeThroughputExceeded";
    assert_eq!(reason.reason(), Some(kind));
    assert!(reason.resource().unwrap().ends_with(":table/orders"));

    // Other partition keys and reads are not affected, and the throughput returns.
    update(&client, "o-2", 3_000).await.unwrap();
    let get = client.get_item().table_name("orders");
    let read = get.key("order_id", s("o-1")).send().await.unwrap();
    assert!(read.item.is_some());
    let again = async || update(&client, "o-2", 1).await.ok();
    eventually("its throughput", again).await;
}

#[tokio::test]
async fn throttled_index_throttles_the_writes_of_its_table() {
    let (_cloud, client) = start(limited(1)).await;
    write_event(&client, 1).await.unwrap();
    let update = client.update_item().table_name("outbox");
    let update = update
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(1))
        .update_expression("SET a = :a")
        .expression_attribute_values(":a", s("a".repeat(LARGE)));
    eventually("throughput", async || update.clone().send().await.ok()).await;
    // Another aggregate with the same partition key in the index.
    let other = client
        .transact_write_items()
        .transact_items(put_order("o-2"))
        .transact_items(put_event("o-2", 1));
    let error = other.send().await.unwrap_err().into_service_error();
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        panic!("{error:?}");
    };
    let reasons = cancelled.cancellation_reasons();
    let codes: Vec<_> = reasons
        .iter()
        .filter_map(CancellationReason::code)
        .collect();
    assert_eq!(codes, ["None", "ThrottlingError"]);
    let message = reasons[1].message().unwrap();
    assert!(message.contains("global secondary indexes"), "{message}");
}

#[tokio::test]
async fn throttled_parts_of_a_batch_fail_by_themselves() {
    let (_cloud, client) = start(limited(1)).await;
    update(&client, "o-1", LARGE).await.unwrap();

    let statement = |order_id: &str| {
        BatchStatementRequest::builder()
            .statement("UPDATE orders SET a=? WHERE order_id=?")
            .set_parameters(Some(vec![s("b"), s(order_id)]))
            .build()
            .unwrap()
    };
    let batch = client.batch_execute_statement();
    let batch = batch.statements(statement("o-1")).send().await.unwrap();
    let error = batch.responses()[0].error().unwrap();
    assert_eq!(
        error.code(),
        Some(&BatchStatementErrorCodeEnum::ThrottlingError)
    );

    let put = |order_id: &str| {
        let put = PutRequest::builder().item("order_id", s(order_id));
        let put = put.build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let batch = async |requests: Vec<WriteRequest>| {
        let batch = client.batch_write_item();
        batch.request_items("orders", requests).send().await
    };
    let written = batch(vec![put("o-1"), put("o-3")]).await.unwrap();
    assert_eq!(written.unprocessed_items.unwrap()["orders"], [put("o-1")]);
    update(&client, "o-4", LARGE).await.unwrap();
    let error = batch(vec![put("o-1"), put("o-4")]).await.unwrap_err();
    assert_eq!(error.code(), Some("ThrottlingException"));
}

async fn pending(client: &Client) -> usize {
    let query = client.query().table_name("outbox").index_name("by_state");
    let found = query
        .key_condition_expression("state_bucket = :b")
        .expression_attribute_values(":b", s("PENDING#0"))
        .send()
        .await
        .unwrap();
    found.items().len()
}

async fn publish(client: &Client, sequence: u64) {
    let update = client.update_item().table_name("outbox");
    update
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(sequence))
        .update_expression("REMOVE state_bucket")
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn index_receives_changes_after_its_delay() {
    let (cloud, client) = start(Fidelity {
        index_delay: Some(LONG),
        ..Fidelity::default()
    })
    .await;
    let started = Instant::now();
    write_event(&client, 1).await.unwrap();
    let get = client.get_item().table_name("outbox");
    let read = get.key("aggregate_id", s("o-1")).key("sequence", n(1));
    assert!(read.send().await.unwrap().item.is_some());
    assert_eq!(
        pending(&client).await,
        0,
        "the table has it, the index not yet"
    );
    eventually("the index", async || {
        (pending(&client).await == 1).then_some(())
    })
    .await;
    assert!(started.elapsed() >= LONG);

    // An item that left the index is still found for a while.
    publish(&client, 1).await;
    assert_eq!(pending(&client).await, 1);
    eventually("the index", async || {
        (pending(&client).await == 0).then_some(())
    })
    .await;

    cloud
        .fidelity()
        .update(|fidelity| fidelity.index_delay = Some(Duration::ZERO));
    write_event(&client, 2).await.unwrap();
    assert_eq!(pending(&client).await, 1);
}

#[tokio::test]
async fn index_converges_after_concurrent_writes() {
    let (_cloud, client) = start(Fidelity {
        index_delay: Some(Duration::from_millis(20)),
        transaction_time: None,
        ..Fidelity::default()
    })
    .await;
    write_event(&client, 1).await.unwrap();
    let insert = || async {
        let update = client.update_item().table_name("outbox");
        let update = update
            .key("aggregate_id", s("o-1"))
            .key("sequence", n(1))
            .update_expression("SET state_bucket = :b")
            .expression_attribute_values(":b", s("PENDING#0"));
        update.send().await.unwrap();
    };
    for _ in 0..20 {
        let writes = (0..4).map(|i| {
            let insert = &insert;
            let client = &client;
            async move {
                match i % 2 {
                    0 => insert().await,
                    _ => publish(client, 1).await,
                }
            }
        });
        futures::future::join_all(writes).await;
    }
    let get = client.get_item().table_name("outbox");
    let read = get.key("aggregate_id", s("o-1")).key("sequence", n(1));
    let item = read.send().await.unwrap().item.unwrap();
    let expected = usize::from(item.contains_key("state_bucket"));
    // The last change is applied when one that was made later is visible.
    write_event(&client, 2).await.unwrap();
    let visible = async || (pending(&client).await == expected + 1).then_some(());
    eventually("the last change", visible).await;
}

async fn records(cloud: &LocalCloud) -> Vec<Record> {
    let client = cloud.streams_client();
    let streams = client.list_streams().table_name("outbox").send();
    let arn = streams.await.unwrap().streams()[0]
        .stream_arn()
        .unwrap()
        .to_owned();
    let described = client.describe_stream().stream_arn(&arn).send();
    let description = described.await.unwrap().stream_description.unwrap();
    let iterator = client
        .get_shard_iterator()
        .stream_arn(&arn)
        .shard_id(description.shards()[0].shard_id().unwrap())
        .shard_iterator_type(ShardIteratorType::TrimHorizon);
    let iterator = iterator.send().await.unwrap().shard_iterator.unwrap();
    let records = client.get_records().shard_iterator(iterator).send();
    records.await.unwrap().records.unwrap()
}

#[tokio::test]
async fn stream_has_records_after_its_delay() {
    let (cloud, client) = start(Fidelity {
        stream_delay: Some(LONG),
        ..Fidelity::default()
    })
    .await;
    let started = Instant::now();
    write_event(&client, 1).await.unwrap();
    write_event(&client, 2).await.unwrap();
    assert_eq!(records(&cloud).await.len(), 0);
    let first = async || (!records(&cloud).await.is_empty()).then_some(());
    eventually("the first record", first).await;
    assert!(started.elapsed() >= LONG);
    let both = async || (records(&cloud).await.len() == 2).then_some(());
    eventually("both records", both).await;
}

/// Enables the deletion of the items of a table by `expires_at`.
async fn enable_expiry(client: &Client, table: &str) {
    let specification = TimeToLiveSpecification::builder()
        .attribute_name("expires_at")
        .enabled(true);
    client
        .update_time_to_live()
        .table_name(table)
        .time_to_live_specification(specification.build().unwrap())
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn expired_items_are_deleted_by_the_service() {
    let (cloud, client) = start(Fidelity {
        index_delay: Some(Duration::from_millis(1)),
        ..Fidelity::default()
    })
    .await;
    enable_expiry(&client, "outbox").await;
    for sequence in [1, 2] {
        write_event(&client, sequence).await.unwrap();
    }
    assert_eq!(cloud.sweep_ttl().await.unwrap(), 0);
    let update = client.update_item().table_name("outbox");
    let update = update
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(1))
        .update_expression("SET expires_at = :past")
        .expression_attribute_values(":past", n(1));
    update.send().await.unwrap();

    assert_eq!(cloud.sweep_ttl().await.unwrap(), 1);

    let left = client.scan().table_name("outbox").send().await.unwrap();
    assert_eq!(left.items()[0]["sequence"], n(2));
    assert_eq!(left.count(), 1);
    let records = records(&cloud).await;
    let removed = records.last().unwrap();
    assert_eq!(removed.event_name(), Some(&OperationType::Remove));
    let identity = removed.user_identity().unwrap();
    assert_eq!(identity.r#type(), Some("Service"));
    assert_eq!(identity.principal_id(), Some("dynamodb.amazonaws.com"));
    let remaining = async || (pending(&client).await == 1).then_some(());
    eventually("the index without the deleted item", remaining).await;
}

#[tokio::test]
async fn expired_items_are_deleted_at_the_interval() {
    let (_cloud, client) = start(Fidelity {
        ttl_interval: Some(Duration::from_millis(50)),
        ..Fidelity::default()
    })
    .await;
    enable_expiry(&client, "orders").await;
    let put = client.put_item().table_name("orders");
    let put = put.item("order_id", s("o-1")).item("expires_at", n(1));
    put.send().await.unwrap();
    let deleted = async || {
        let orders = client.scan().table_name("orders").send().await.unwrap();
        (orders.count() == 0).then_some(())
    };
    eventually("the deletion", deleted).await;
}
