//! The embedded cloud, a relay that uses it, and what tests need of both.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeValue, PutRequest, Select, StreamSpecification, StreamViewType, WriteRequest,
};
use aws_sdk_sqs::types::Message;
use local_cloud::{Config, LocalCloud};
use outbox::Buckets;
use outbox::timestamp::Timestamp;
use shared::provision::{self, Table};
use test_support::{Proxy, Service, eventually};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_outbox-relay");

pub(crate) type Item = HashMap<String, AttributeValue>;

pub(crate) struct Stage {
    pub(crate) cloud: LocalCloud,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
}

impl Stage {
    /// Starts a cloud with the relay's two tables and the queue `order-events`.
    pub(crate) async fn new() -> Self {
        let stage = Self::without_queue().await;
        stage.create_queue("order-events").await;
        stage
    }

    pub(crate) async fn without_queue() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let cloud = LocalCloud::start(Config {
            dynamodb: any,
            sqs: any,
            ..Config::default()
        })
        .await
        .unwrap();
        let dynamodb = cloud.dynamodb_client();
        let tables = [Table::outbox("outbox"), Table::relay_leases("relay_leases")];
        provision::tables(&dynamodb, tables).await.unwrap();
        Self {
            sqs: cloud.sqs_client(),
            dynamodb,
            cloud,
        }
    }

    pub(crate) async fn create_queue(&self, name: &str) -> String {
        provision::queue(&self.sqs, name).await.unwrap()
    }

    /// Starts a proxy in front of DynamoDB and its streams.
    pub(crate) async fn proxy(&self) -> Proxy {
        Proxy::start(self.cloud.dynamodb_url()).await.unwrap()
    }

    /// Starts a relay that reaches DynamoDB through `proxy`.
    pub(crate) async fn relay_behind(&self, proxy: &Proxy, extra: &[(&str, &str)]) -> Service {
        let mut environment = vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", proxy.url()),
        ];
        environment.extend(extra);
        self.relay(&environment).await
    }

    /// Starts a relay with a fixed name, so that its successor reacquires the leases at once.
    pub(crate) async fn relay(&self, extra: &[(&str, &str)]) -> Service {
        self.relay_of(RELAY, extra).await
    }

    /// Starts the relay `program`, which may be of another release.
    pub(crate) async fn relay_of(&self, program: &str, extra: &[(&str, &str)]) -> Service {
        let mut environment: Vec<(String, String)> = self
            .cloud
            .env()
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect();
        for (name, value) in [
            ("RELAY_ADMIN_LISTEN", "127.0.0.1:0"),
            ("RELAY_INSTANCE_ID", "relay-1"),
        ]
        .iter()
        .chain(extra)
        {
            environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        Service::start(program, &[], environment).await.unwrap()
    }

    pub(crate) async fn put(&self, item: Item) {
        self.dynamodb
            .put_item()
            .table_name("outbox")
            .set_item(Some(item))
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn put_all(&self, items: Vec<Item>) {
        for chunk in items.chunks(25) {
            let requests = chunk
                .iter()
                .map(|item| {
                    let put = PutRequest::builder()
                        .set_item(Some(item.clone()))
                        .build()
                        .unwrap();
                    WriteRequest::builder().put_request(put).build()
                })
                .collect();
            self.dynamodb
                .batch_write_item()
                .request_items("outbox", requests)
                .send()
                .await
                .unwrap();
        }
    }

    /// Returns the stored event.
    pub(crate) async fn event(&self, aggregate_id: &str, sequence: u64) -> Item {
        self.dynamodb
            .get_item()
            .table_name("outbox")
            .key("aggregate_id", text(aggregate_id))
            .key("sequence", AttributeValue::N(sequence.to_string()))
            .consistent_read(true)
            .send()
            .await
            .unwrap()
            .item
            .unwrap_or_default()
    }

    pub(crate) async fn until_status(
        &self,
        aggregate_id: &str,
        sequence: u64,
        status: &str,
    ) -> Item {
        eventually(DEADLINE, || async {
            let item = self.event(aggregate_id, sequence).await;
            if string(&item, "status") == Some(status) {
                Ok(item)
            } else {
                Err(format!("{aggregate_id}:{sequence} is {item:?}"))
            }
        })
        .await
        .unwrap()
    }

    /// Returns the number of events with `status`.
    pub(crate) async fn count(&self, status: &str) -> usize {
        let mut pages = self
            .dynamodb
            .scan()
            .table_name("outbox")
            .consistent_read(true)
            .filter_expression("#status = :status")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", text(status))
            .into_paginator()
            .items()
            .send();
        let mut count = 0;
        while let Some(item) = pages.next().await {
            item.unwrap();
            count += 1;
        }
        count
    }

    pub(crate) async fn until_count(&self, status: &str, expected: usize) {
        eventually(DEADLINE, || async {
            match self.count(status).await {
                count if count == expected => Ok(()),
                count => Err(format!("{count} of {expected} are {status}")),
            }
        })
        .await
        .unwrap();
    }

    /// Returns the number of pending events in the index; a lower bound for more than a page.
    pub(crate) async fn pending(&self) -> i32 {
        let mut pending = 0;
        for bucket in Buckets::default().partitions() {
            let counted = self
                .dynamodb
                .query()
                .table_name("outbox")
                .index_name("by_state")
                .select(Select::Count)
                .key_condition_expression("state_bucket = :bucket")
                .expression_attribute_values(":bucket", text(bucket))
                .send()
                .await;
            pending += counted.unwrap().count;
        }
        pending
    }

    /// Enables the stream of the outbox table, or disables it for `None`.
    pub(crate) async fn set_stream(&self, view: Option<StreamViewType>) {
        let specification = StreamSpecification::builder()
            .stream_enabled(view.is_some())
            .set_stream_view_type(view)
            .build()
            .unwrap();
        let change = self.dynamodb.update_table().table_name("outbox");
        let change = change.stream_specification(specification);
        change.send().await.unwrap();
    }

    /// Returns all items of the lease table.
    pub(crate) async fn leases(&self) -> Vec<Item> {
        let items: Result<Vec<_>, _> = self
            .dynamodb
            .scan()
            .table_name("relay_leases")
            .consistent_read(true)
            .into_paginator()
            .items()
            .send()
            .collect()
            .await;
        items.unwrap()
    }

    /// Returns the lease of the only shard.
    pub(crate) async fn lease(&self) -> Option<Item> {
        self.leases().await.into_iter().find(is_shard_lease)
    }

    /// Deletes that lease: the next owner reads the shard from its oldest record.
    pub(crate) async fn delete_lease(&self) {
        let lease = self.lease().await.unwrap();
        self.dynamodb
            .delete_item()
            .table_name("relay_leases")
            .key("stream", lease["stream"].clone())
            .key("lease", lease["lease"].clone())
            .send()
            .await
            .unwrap();
    }

    /// Acquires that lease for another instance. Every call is a heartbeat of that instance.
    pub(crate) async fn steal_lease(&self) {
        let lease = self.lease().await.unwrap();
        self.dynamodb
            .update_item()
            .table_name("relay_leases")
            .key("stream", lease["stream"].clone())
            .key("lease", lease["lease"].clone())
            .update_expression("SET #owner = :owner, epoch = epoch + :one")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", text("thief"))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .send()
            .await
            .unwrap();
    }

    /// Writes the request for a sweep to the lease table, as an operator's command does.
    pub(crate) async fn ask_for_sweep(&self) {
        for row in self.leases().await {
            if string(&row, "lease").is_some_and(|id| id.starts_with("sweeper#")) {
                self.dynamodb
                    .update_item()
                    .table_name("relay_leases")
                    .key("stream", row["stream"].clone())
                    .key("lease", row["lease"].clone())
                    .update_expression("SET sweep_requested = :now")
                    .expression_attribute_values(":now", text(outbox::timestamp::Timestamp::now()))
                    .send()
                    .await
                    .unwrap();
            }
        }
    }

    /// Receives and deletes messages until there were `count`; then asserts that no more follow.
    pub(crate) async fn receive(&self, queue: &str, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let url = shared::aws::queue_url(&self.sqs, queue).await.unwrap();
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let enough = messages.len() >= count;
            let answer = self
                .sqs
                .receive_message()
                .queue_url(&url)
                .max_number_of_messages(10)
                .wait_time_seconds(if enough { 0 } else { 1 })
                .message_attribute_names("All")
                .send()
                .await
                .unwrap();
            let received = answer.messages.unwrap_or_default();
            if received.is_empty() && enough {
                return messages;
            }
            for message in received {
                self.sqs
                    .delete_message()
                    .queue_url(&url)
                    .receipt_handle(message.receipt_handle().unwrap())
                    .send()
                    .await
                    .unwrap();
                messages.push(message);
            }
            assert!(
                tokio::time::Instant::now() < end,
                "{} of {count} messages came",
                messages.len()
            );
        }
    }
}

/// Returns `true` if the item of the lease table is the lease of a shard.
pub(crate) fn is_shard_lease(item: &Item) -> bool {
    string(item, "lease").is_some_and(|id| id.starts_with("shard"))
}

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn string<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// Waits until the admin port responds to `path` with `status` and a body that contains `part`.
pub(crate) async fn until_answer(relay: &Service, path: &str, status: u16, part: &str) {
    eventually(DEADLINE, || async {
        let answer = reqwest::get(relay.url(path)).await.unwrap();
        let answered = answer.status();
        match answer.text().await.unwrap() {
            body if answered == status && body.contains(part) => Ok(()),
            body => Err(format!("{path}: {answered} {body}, without {part}")),
        }
    })
    .await
    .unwrap();
}

/// Returns a pending event as any program may write it.
pub(crate) fn event(aggregate_id: &str, sequence: u64) -> Item {
    let id = format!("{aggregate_id}:{sequence}");
    HashMap::from([
        ("aggregate_id".to_owned(), text(aggregate_id)),
        (
            "sequence".to_owned(),
            AttributeValue::N(sequence.to_string()),
        ),
        ("event_id".to_owned(), text(id)),
        ("aggregate_type".to_owned(), text("order")),
        ("event_type".to_owned(), text("order.placed")),
        ("payload".to_owned(), text(format!(r#"{{"n":{sequence}}}"#))),
        ("occurred_at".to_owned(), text(Timestamp::now())),
        ("status".to_owned(), text("PENDING")),
        (
            "state_bucket".to_owned(),
            text(Buckets::default().partition_of(aggregate_id)),
        ),
    ])
}

/// Returns the `id` of each CloudEvent.
pub(crate) fn ids(messages: &[Message]) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let body: serde_json::Value = serde_json::from_str(message.body().unwrap()).unwrap();
            body["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Returns the sum of the values of a metric, over all labels.
pub(crate) async fn metric(relay: &Service, name: &str) -> u64 {
    let answer = reqwest::get(relay.url("/metrics")).await.unwrap();
    let metrics = answer.text().await.unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}
