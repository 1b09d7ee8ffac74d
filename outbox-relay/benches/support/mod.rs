//! Common parts of the benches: an embedded cloud with events in it, and a relay that publishes
//! them.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures::stream::{self, StreamExt, TryStreamExt};
use local_cloud::{Config, LocalCloud};
use outbox::Buckets;
use outbox::timestamp::Timestamp;
use shared::provision::{self, Table};
use test_support::Service;

pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_outbox-relay");

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Items of one BatchWriteItem, and number of concurrent requests.
const BATCH: usize = 25;
const WRITERS: usize = 8;

/// Starts an embedded cloud with the relay's tables and the queue `order-events`.
pub(crate) async fn cloud() -> Result<LocalCloud> {
    let any = "127.0.0.1:0".parse()?;
    let cloud = LocalCloud::start(Config {
        dynamodb: any,
        sqs: any,
        ..Config::default()
    })
    .await?;
    let tables = [Table::outbox("outbox"), Table::relay_leases("relay_leases")];
    provision::tables(&cloud.dynamodb_client(), tables).await?;
    provision::queue(&cloud.sqs_client(), "order-events").await?;
    Ok(cloud)
}

/// Returns the first event of the aggregate `id`, pending.
pub(crate) fn event(id: &str, payload: &str) -> Item {
    HashMap::from([
        ("aggregate_id".to_owned(), text(id)),
        ("sequence".to_owned(), AttributeValue::N("1".to_owned())),
        ("event_id".to_owned(), text(format!("{id}:1"))),
        ("aggregate_type".to_owned(), text("order")),
        ("event_type".to_owned(), text("order.placed")),
        ("payload".to_owned(), text(payload)),
        ("occurred_at".to_owned(), text(Timestamp::now())),
        ("status".to_owned(), text("PENDING")),
        (
            "state_bucket".to_owned(),
            text(Buckets::default().partition_of(id)),
        ),
    ])
}

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// Writes `items` to the outbox table, with at most a few batches of them in memory.
pub(crate) async fn put_all(
    cloud: &LocalCloud,
    items: impl IntoIterator<Item = Item>,
) -> Result<()> {
    let dynamodb = cloud.dynamodb_client();
    stream::iter(items)
        .chunks(BATCH)
        .map(|items| {
            let batch = dynamodb
                .batch_write_item()
                .request_items("outbox", items.into_iter().map(put).collect());
            async move {
                let answer = batch.send().await?;
                let left = answer.unprocessed_items.unwrap_or_default();
                ensure!(left.is_empty(), "the cloud did not take a whole batch");
                Ok(())
            }
        })
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
}

fn put(item: Item) -> WriteRequest {
    let put = PutRequest::builder()
        .set_item(Some(item))
        .build()
        .expect("the item is set");
    WriteRequest::builder().put_request(put).build()
}

/// Starts a relay process with the additional environment variables `extra`.
pub(crate) async fn relay(cloud: &LocalCloud, extra: &[(&str, &str)]) -> Result<Service> {
    let mut environment: Vec<(String, String)> = cloud
        .env()
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect();
    let own = [
        ("RELAY_ADMIN_LISTEN", "127.0.0.1:0"),
        // As in the container image.
        ("MALLOC_ARENA_MAX", "1"),
    ];
    for (name, value) in own.iter().chain(extra) {
        environment.push(((*name).to_owned(), (*value).to_owned()));
    }
    Ok(Service::start(RELAY, &[], environment).await?)
}
