//! Virtual shards: lineage, splits and trims, as a consumer sees them.

mod lineage;
mod reading;
mod trimming;

use std::num::NonZeroU32;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::ProvideErrorMetadata;
use aws_sdk_dynamodbstreams::types::{
    Record, Shard, ShardFilter, ShardFilterType, ShardIteratorType,
};
use local_cloud::{Config, LocalCloud, ShardOptions};

use crate::support::{create_tables, put_event};

const TABLE: &str = "outbox";

/// A cloud with virtual shards and its tables.
struct Fixture {
    cloud: LocalCloud,
    dynamodb: aws_sdk_dynamodb::Client,
    streams: Client,
    stream_arn: String,
}

impl Fixture {
    async fn start(shards: u32) -> Self {
        Self::with(ShardOptions {
            shards: NonZeroU32::new(shards).unwrap(),
            ..ShardOptions::default()
        })
        .await
    }

    async fn with(options: ShardOptions) -> Self {
        let config = Config {
            shards: Some(options),
            ..Config::default()
        };
        let cloud = LocalCloud::start(config).await.unwrap();
        let dynamodb = cloud.dynamodb_client();
        create_tables(&dynamodb).await;
        let streams = cloud.streams_client();
        let listed = streams.list_streams().table_name(TABLE).send().await;
        let stream_arn = listed.unwrap().streams()[0]
            .stream_arn()
            .unwrap()
            .to_owned();
        Self {
            cloud,
            dynamodb,
            streams,
            stream_arn,
        }
    }

    async fn write(&self, aggregate_id: &str, sequence: u64) {
        write(&self.dynamodb, aggregate_id, sequence).await;
    }

    /// Returns all shards, from all pages.
    async fn shards(&self) -> Vec<Shard> {
        let mut shards = Vec::new();
        let mut start = None;
        loop {
            let page = self
                .streams
                .describe_stream()
                .stream_arn(&self.stream_arn)
                .set_exclusive_start_shard_id(start)
                .send()
                .await
                .unwrap();
            let description = page.stream_description.unwrap();
            shards.extend(description.shards.unwrap());
            start = description.last_evaluated_shard_id;
            if start.is_none() {
                return shards;
            }
        }
    }

    async fn open_shards(&self) -> Vec<String> {
        let shards = self.shards().await;
        shards
            .iter()
            .filter(|shard| is_open(shard))
            .map(id)
            .collect()
    }

    async fn children(&self, parent: &str) -> Vec<String> {
        let filter = ShardFilter::builder()
            .r#type(ShardFilterType::ChildShards)
            .shard_id(parent)
            .build();
        let described = self
            .streams
            .describe_stream()
            .stream_arn(&self.stream_arn)
            .shard_filter(filter)
            .send()
            .await
            .unwrap();
        let description = described.stream_description.unwrap();
        description.shards().iter().map(id).collect()
    }

    /// Returns an iterator, or the code of the error.
    async fn iterator(
        &self,
        shard: &str,
        kind: ShardIteratorType,
        number: Option<&str>,
    ) -> Result<String, String> {
        let answer = self
            .streams
            .get_shard_iterator()
            .stream_arn(&self.stream_arn)
            .shard_id(shard)
            .shard_iterator_type(kind)
            .set_sequence_number(number.map(str::to_owned))
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer.shard_iterator.unwrap()),
            Err(error) => Err(error.code().unwrap().to_owned()),
        }
    }

    /// Reads one page. Returns it with the next iterator, or the code of the error.
    async fn read(
        &self,
        iterator: &str,
        limit: i32,
    ) -> Result<(Vec<Record>, Option<String>), String> {
        let request = self.streams.get_records().shard_iterator(iterator);
        match request.limit(limit).send().await {
            Ok(page) => Ok((page.records.unwrap(), page.next_shard_iterator)),
            Err(error) => Err(error.code().unwrap().to_owned()),
        }
    }

    /// Reads a shard from its oldest record on, until its end or an empty page.
    async fn read_all(&self, shard: &str) -> Vec<Record> {
        let start = self.iterator(shard, ShardIteratorType::TrimHorizon, None);
        let mut next = Some(start.await.unwrap());
        let mut all = Vec::new();
        while let Some(iterator) = next {
            let (records, following) = self.read(&iterator, 1_000).await.unwrap();
            next = following.filter(|_| !records.is_empty());
            all.extend(records);
        }
        all
    }
}

async fn write(dynamodb: &aws_sdk_dynamodb::Client, aggregate_id: &str, sequence: u64) {
    let request = dynamodb.transact_write_items();
    let request = request.transact_items(put_event(aggregate_id, sequence));
    request.send().await.unwrap();
}

fn id(shard: &Shard) -> String {
    shard.shard_id().unwrap().to_owned()
}

fn is_open(shard: &Shard) -> bool {
    ending(shard).is_none()
}

fn starting(shard: &Shard) -> &str {
    let range = shard.sequence_number_range().unwrap();
    range.starting_sequence_number().unwrap()
}

fn ending(shard: &Shard) -> Option<&str> {
    let range = shard.sequence_number_range().unwrap();
    range.ending_sequence_number()
}

fn number(record: &Record) -> &str {
    record.dynamodb().unwrap().sequence_number().unwrap()
}

/// Returns the key of the changed item.
fn key(record: &Record) -> (String, u64) {
    let keys = record.dynamodb().unwrap().keys().unwrap();
    let aggregate = keys["aggregate_id"].as_s().unwrap().clone();
    (aggregate, keys["sequence"].as_n().unwrap().parse().unwrap())
}
