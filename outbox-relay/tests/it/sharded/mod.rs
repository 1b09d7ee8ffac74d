//! Relays on a stream of many shards, which the embedded cloud does not support: the cloud provides
//! tables and queues, and a server of the tests the stream.

mod group;
mod instances;
mod limits;
mod memory;
mod reading;
mod releases;
mod retained;
mod server;
mod shards;
mod splits;
mod trimmed;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, QueueAttributeName};
use limits::Requests;
use server::StreamsServer;
use shards::Shards;
use test_support::{Service, eventually};

use crate::support::{Item, RELAY, Stage, event, ids, string, text};

/// Time limit for several unoptimised relays and the cloud on one machine.
const PATIENCE: Duration = Duration::from_secs(45);

/// Upper bound on the events that one kill or pause may repeat: those that a relay sends at once,
/// 16 batches of 10.
const IN_FLIGHT: usize = 160;

struct ShardedStage {
    stage: Stage,
    streams: StreamsServer,
    queue: &'static str,
    routes: String,
}

impl ShardedStage {
    async fn new(shards: Shards, queue: &'static str) -> Self {
        let stage = Stage::without_queue().await;
        stage.create_queue(queue).await;
        Self {
            stage,
            streams: StreamsServer::start(shards).await,
            queue,
            routes: format!("*={queue}"),
        }
    }

    async fn relay(&self, name: &str, extra: &[(&str, &str)]) -> Service {
        self.relay_of(RELAY, name, extra).await
    }

    /// Starts the relay `program`.
    async fn relay_of(&self, program: &str, name: &str, extra: &[(&str, &str)]) -> Service {
        let mut options = vec![
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", self.streams.url()),
            ("RELAY_ROUTES", &self.routes),
            ("RELAY_INSTANCE_ID", name),
            ("RELAY_LEASE_DURATION", "2s"),
        ];
        options.extend_from_slice(extra);
        self.stage.relay_of(program, &options).await
    }

    /// Returns the requests of `operation` to the stream so far.
    fn requests(&self, operation: &str) -> Requests {
        self.streams.shards().throttle.requests(operation)
    }

    /// Commits events to the table, then to the stream.
    async fn commit(&self, events: Vec<Item>) {
        self.stage.put_all(events.clone()).await;
        let mut shards = self.streams.shards();
        for event in &events {
            shards.append(event);
        }
    }

    /// Commits one event of each of `aggregates`.
    async fn commit_round(&self, aggregates: usize, sequence: u64) {
        let round = (0..aggregates).map(|n| event(&format!("a-{n}"), sequence));
        self.commit(round.collect()).await;
    }

    /// Returns the leases of shards that are not fully read.
    async fn open_leases(&self) -> Vec<Item> {
        let mut rows = self.stage.leases().await;
        rows.retain(|row| {
            string(row, "state") == Some("OPEN")
                && string(row, "lease").is_some_and(|lease| lease.starts_with("shardId-"))
        });
        rows
    }

    /// Returns the lease of `shard`.
    async fn lease(&self, shard: &str) -> Item {
        let mut leases = self.stage.leases().await.into_iter();
        let lease = leases.find(|lease| string(lease, "lease") == Some(shard));
        lease.unwrap_or_else(|| panic!("no lease of {shard}"))
    }

    /// Writes to the lease of `shard` what its owner writes when it has consumed the shard.
    async fn end_lease(&self, shard: &str) {
        let mut lease = self.lease(shard).await;
        lease.insert("state".to_owned(), text("ENDED"));
        lease.remove("owner");
        let table = self.stage.dynamodb.put_item().table_name("relay_leases");
        table.set_item(Some(lease)).send().await.unwrap();
    }

    /// Waits until every shard that may be read has been, and a checkpoint is written.
    async fn until_checkpointed(&self) {
        eventually(PATIENCE, || async {
            let leases = self.open_leases().await;
            let checkpointed = |lease: &Item| string(lease, "checkpoint").is_some();
            if !leases.is_empty() && leases.iter().all(checkpointed) {
                Ok(())
            } else {
                Err(format!("{leases:?}"))
            }
        })
        .await
        .unwrap();
    }

    /// Returns the number of shards of each instance.
    async fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for row in self.open_leases().await {
            if let Some(owner) = string(&row, "owner") {
                *shares.entry(owner.to_owned()).or_default() += 1;
            }
        }
        shares
    }

    async fn until_shares(&self, expected: &[(&str, usize)]) {
        let expected = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        eventually(PATIENCE, || async {
            let shares = self.shares().await;
            if shares == expected {
                Ok(())
            } else {
                Err(format!("{shares:?} instead of {expected:?}"))
            }
        })
        .await
        .unwrap();
    }

    /// Waits until the queue contains `count` messages.
    async fn until_sent(&self, count: usize) {
        let url = shared::aws::queue_url(&self.stage.sqs, self.queue)
            .await
            .unwrap();
        eventually(PATIENCE, || async {
            let answer = self
                .stage
                .sqs
                .get_queue_attributes()
                .queue_url(&url)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
                .send()
                .await
                .unwrap();
            let sent: usize = answer.attributes.unwrap_or_default()
                [&QueueAttributeName::ApproximateNumberOfMessages]
                .parse()
                .unwrap();
            if sent >= count {
                Ok(())
            } else {
                Err(format!("{sent} of {count} are sent"))
            }
        })
        .await
        .unwrap();
    }

    async fn until_none_pending(&self, limit: Duration) {
        eventually(limit, || async {
            match self.stage.pending().await {
                0 => Ok(()),
                pending => Err(format!("{pending} events are pending")),
            }
        })
        .await
        .unwrap();
    }

    /// Waits until no event is pending; then asserts that all `count` events are PUBLISHED.
    async fn until_published(&self, count: usize) {
        self.until_none_pending(PATIENCE).await;
        assert_eq!(self.stage.count("PUBLISHED").await, count);
    }

    /// Returns the event ids in the queue, in the order in which they are received.
    async fn received(&self) -> Vec<String> {
        let sqs = &self.stage.sqs;
        let url = shared::aws::queue_url(sqs, self.queue).await.unwrap();
        let mut received = Vec::new();
        loop {
            let answer = sqs
                .receive_message()
                .queue_url(&url)
                .max_number_of_messages(10)
                .send()
                .await
                .unwrap();
            let messages = answer.messages.unwrap_or_default();
            if messages.is_empty() {
                return received;
            }
            received.extend(ids(&messages));
            let entries = messages
                .iter()
                .enumerate()
                .map(|(n, message)| {
                    DeleteMessageBatchRequestEntry::builder()
                        .id(n.to_string())
                        .receipt_handle(message.receipt_handle().unwrap())
                        .build()
                        .unwrap()
                })
                .collect();
            sqs.delete_message_batch()
                .queue_url(&url)
                .set_entries(Some(entries))
                .send()
                .await
                .unwrap();
        }
    }
}

/// Asserts that every event was received once, and in order per aggregate.
fn assert_in_order(received: &[String], aggregates: usize, sequences: u64) {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    for id in received {
        let (aggregate_id, sequence) = id.split_once(':').unwrap();
        let next = next.entry(aggregate_id).or_insert(1);
        assert_eq!(
            sequence,
            next.to_string(),
            "the next event of {aggregate_id}"
        );
        *next += 1;
    }
    assert_eq!(next.len(), aggregates);
    assert!(next.values().all(|next| *next == sequences + 1), "{next:?}");
}

/// Returns the value of a metric without labels, or with one set of labels.
async fn metric(relay: &Service, name: &str) -> Option<u64> {
    let answer = reqwest::get(relay.url("/metrics")).await.unwrap();
    let metrics = answer.text().await.unwrap();
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
