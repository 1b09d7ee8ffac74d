//! Measures the rate at which the relay drains a backlog, compared with a bare loop of the same
//! calls on the same kind of cloud in the same run, and the relay's peak memory.
//!
//! `cargo bench -p outbox-relay --bench drain -- 20000` drains this number of pending events of
//! 1 KB each; the default is 20,000.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark measures real time"
)]

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures::stream::{self, StreamExt, TryStreamExt};
use local_cloud::LocalCloud;
use outbox::timestamp::Timestamp;
use outbox::{Message, OutboxItem};
use support::event;
use test_support::eventually;

/// Concurrent requests of the bare loop: the limits of the relay.
const SENDS: usize = 16;
const MARKS: usize = 4;

const DEADLINE: Duration = Duration::from_secs(900);

/// Limits outside which the run fails, whatever the backlog. The ratio is meaningful only if
/// nothing else runs on the machine during either half.
const MIN_RATIO: f64 = 0.8;
const MAX_MEMORY_KIB: u64 = 80_000;

#[tokio::main]
async fn main() -> Result<()> {
    let count = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(20_000);
    let cloud = backlog(count).await?;
    let bare = bare_loop(&cloud, count).await?;
    cloud.stop().await?;
    let cloud = backlog(count).await?;
    let (relay, memory) = relay(&cloud).await?;
    cloud.stop().await?;

    let rate = |took: Duration| count as f64 / took.as_secs_f64();
    println!("{count} pending events of 1 KB");
    println!("  bare loop {:>8.0} events/s", rate(bare));
    println!("  relay     {:>8.0} events/s", rate(relay));
    let ratio = rate(relay) / rate(bare);
    println!("  ratio     {ratio:>8.2}");
    println!("  relay's peak resident memory {memory} KiB");
    ensure!(ratio >= MIN_RATIO, "less than {MIN_RATIO} of the bare loop");
    ensure!(
        memory < MAX_MEMORY_KIB,
        "more than {MAX_MEMORY_KIB} KiB of memory"
    );
    Ok(())
}

/// Starts a cloud with `count` pending events.
async fn backlog(count: usize) -> Result<LocalCloud> {
    let cloud = support::cloud().await?;
    let payload = format!("\"{}\"", "x".repeat(1022));
    let events = (0..count).map(|n| event(&format!("aggregate-{n}"), &payload));
    support::put_all(&cloud, events).await?;
    Ok(cloud)
}

/// Reads, sends and marks as fast as possible, without any of the guarantees. Returns the time
/// taken.
async fn bare_loop(cloud: &LocalCloud, count: usize) -> Result<Duration> {
    let (dynamodb, streams, sqs) = (
        cloud.dynamodb_client(),
        cloud.streams_client(),
        cloud.sqs_client(),
    );
    let url = shared::aws::queue_url(&sqs, "order-events").await?;
    let table = dynamodb
        .describe_table()
        .table_name("outbox")
        .send()
        .await?
        .table
        .context("no table")?;
    let arn = table.latest_stream_arn.context("no stream")?;
    let description = streams.describe_stream().stream_arn(&arn).send().await?;
    let shards = description
        .stream_description
        .context("no stream")?
        .shards
        .context("no shards")?;
    let started = Instant::now();
    let mut iterator = streams
        .get_shard_iterator()
        .stream_arn(&arn)
        .shard_id(shards[0].shard_id.as_deref().context("no id")?)
        .shard_iterator_type(ShardIteratorType::TrimHorizon)
        .send()
        .await?
        .shard_iterator
        .context("no iterator")?;
    let mut done = 0;
    while done < count {
        let page = streams
            .get_records()
            .shard_iterator(&iterator)
            .send()
            .await?;
        iterator = page.next_shard_iterator.context("no iterator")?;
        let items: Vec<OutboxItem> = page
            .records
            .unwrap_or_default()
            .into_iter()
            .filter(|record| {
                record
                    .event_name
                    .as_ref()
                    .is_some_and(|n| n.as_str() == "INSERT")
            })
            .filter_map(|record| item(record.dynamodb?.new_image?))
            .collect();
        let sends = items.chunks(10).map(|chunk| {
            let entries: Vec<_> = chunk
                .iter()
                .enumerate()
                .map(|(n, item)| {
                    let message = Message::from_item(item).expect("a good event");
                    SendMessageBatchRequestEntry::builder()
                        .id(n.to_string())
                        .message_body(message.body)
                        .build()
                        .expect("id and body are set")
                })
                .collect();
            sqs.send_message_batch()
                .queue_url(&url)
                .set_entries(Some(entries))
                .send()
        });
        stream::iter(sends)
            .buffer_unordered(SENDS)
            .try_collect::<Vec<_>>()
            .await?;
        let marks = items.chunks(25).map(|chunk| {
            let statements: Vec<_> = chunk.iter().map(mark).collect();
            dynamodb
                .batch_execute_statement()
                .set_statements(Some(statements))
                .send()
        });
        stream::iter(marks)
            .buffer_unordered(MARKS)
            .try_collect::<Vec<_>>()
            .await?;
        done += items.len();
    }
    Ok(started.elapsed())
}

fn item(
    image: HashMap<String, aws_sdk_dynamodbstreams::types::AttributeValue>,
) -> Option<OutboxItem> {
    use aws_sdk_dynamodbstreams::types::AttributeValue as Value;
    let image = image
        .into_iter()
        .filter_map(|(name, value)| {
            let value = match value {
                Value::S(text) => AttributeValue::S(text),
                Value::N(number) => AttributeValue::N(number),
                _ => return None,
            };
            Some((name, value))
        })
        .collect();
    OutboxItem::from_attributes(image).ok()
}

fn mark(item: &OutboxItem) -> BatchStatementRequest {
    BatchStatementRequest::builder()
        .statement(
            r#"UPDATE "outbox" SET "status" = 'PUBLISHED' SET "published_at" = ? SET "message_id" = ? SET "expires_at" = ? REMOVE "state_bucket" WHERE "aggregate_id" = ? AND "sequence" = ?"#,
        )
        .parameters(AttributeValue::S(Timestamp::now().to_string()))
        .parameters(AttributeValue::S("00000000-0000-0000-0000-000000000000".to_owned()))
        .parameters(AttributeValue::N("1".to_owned()))
        .parameters(AttributeValue::S(item.aggregate_id.clone()))
        .parameters(AttributeValue::N(item.sequence.to_string()))
        .build()
        .expect("the statement is set")
}

/// Returns the time from the start of the relay until no event is pending, and its peak memory in
/// KiB.
async fn relay(cloud: &LocalCloud) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let service = support::relay(cloud, &[]).await?;
    let dynamodb = cloud.dynamodb_client();
    eventually(DEADLINE, || async {
        for bucket in outbox::Buckets::default().partitions() {
            let found = dynamodb
                .query()
                .table_name("outbox")
                .index_name("by_state")
                .key_condition_expression("state_bucket = :bucket")
                .expression_attribute_values(":bucket", AttributeValue::S(bucket))
                .limit(1)
                .send()
                .await?;
            anyhow::ensure!(found.count == 0, "events are still pending");
        }
        Ok(())
    })
    .await?;
    let took = started.elapsed();
    let pid = service.pid().context("the relay has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .context("no VmHWM")?;
    Ok((took, memory.trim().parse()?))
}
