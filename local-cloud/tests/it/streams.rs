//! DynamoDB Streams as the relay reads it.

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::operation::describe_stream::builders::DescribeStreamFluentBuilder;
use aws_sdk_dynamodbstreams::types::{
    OperationType, Record, ShardFilter, ShardFilterType, ShardIteratorType, StreamViewType,
};

use crate::support::{create_tables, n, put_event, put_order, s, start};

struct Shard {
    stream_arn: String,
    shard_id: String,
}

async fn only_shard(client: &Client) -> Shard {
    let streams = client
        .list_streams()
        .table_name("outbox")
        .send()
        .await
        .unwrap();
    let [stream] = streams.streams() else {
        panic!("{streams:?}");
    };
    let stream_arn = stream.stream_arn().unwrap().to_owned();
    let described = client
        .describe_stream()
        .stream_arn(&stream_arn)
        .send()
        .await
        .unwrap();
    let description = described.stream_description.unwrap();
    assert_eq!(description.stream_view_type, Some(StreamViewType::NewImage));
    let [shard] = description.shards() else {
        panic!("{description:?}");
    };
    Shard {
        shard_id: shard.shard_id().unwrap().to_owned(),
        stream_arn,
    }
}

async fn iterator(
    client: &Client,
    shard: &Shard,
    kind: ShardIteratorType,
    after: Option<&str>,
) -> String {
    let answer = client
        .get_shard_iterator()
        .stream_arn(&shard.stream_arn)
        .shard_id(&shard.shard_id)
        .shard_iterator_type(kind)
        .set_sequence_number(after.map(str::to_owned))
        .send()
        .await
        .unwrap();
    answer.shard_iterator.unwrap()
}

/// Returns one page and the next iterator.
async fn read(client: &Client, iterator: String, limit: i32) -> (Vec<Record>, String) {
    let answer = client
        .get_records()
        .shard_iterator(iterator)
        .limit(limit)
        .send()
        .await
        .unwrap();
    (answer.records.unwrap(), answer.next_shard_iterator.unwrap())
}

/// Writes the `sequence`-th event of `o-1`, in a transaction of its own.
async fn write_event(dynamodb: &aws_sdk_dynamodb::Client, sequence: u64) {
    dynamodb
        .transact_write_items()
        .transact_items(put_event("o-1", sequence))
        .send()
        .await
        .unwrap();
}

/// Reads all records of the only shard, from the first on.
async fn all_records(client: &Client) -> Vec<Record> {
    let shard = only_shard(client).await;
    let start = iterator(client, &shard, ShardIteratorType::TrimHorizon, None).await;
    read(client, start, 1000).await.0
}

fn sequence_numbers(records: &[Record]) -> Vec<&str> {
    records
        .iter()
        .map(|r| r.dynamodb().unwrap().sequence_number().unwrap())
        .collect()
}

#[tokio::test]
async fn transaction_is_streamed_with_its_new_image() {
    let cloud = start().await;
    let dynamodb = cloud.dynamodb_client();
    create_tables(&dynamodb).await;
    dynamodb
        .transact_write_items()
        .transact_items(put_order("o-1"))
        .transact_items(put_event("o-1", 1))
        .send()
        .await
        .unwrap();

    let streams = cloud.streams_client();
    let shard = only_shard(&streams).await;
    let start = iterator(&streams, &shard, ShardIteratorType::TrimHorizon, None).await;
    let (records, next) = read(&streams, start, 1000).await;

    let [record] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(record.event_name(), Some(&OperationType::Insert));
    let change = record.dynamodb().unwrap();
    assert!(change.approximate_creation_date_time().is_some());
    assert!(change.old_image().is_none());
    let image = change.new_image().unwrap();
    assert_eq!(image["aggregate_id"].as_s().unwrap(), "o-1");
    assert_eq!(image["sequence"].as_n().unwrap(), "1");
    assert_eq!(image["payload"].as_s().unwrap(), r#"{"total_minor":3998}"#);

    let (more, _) = read(&streams, next, 1000).await;
    assert_eq!(
        more,
        [],
        "the next iterator continues after the records read"
    );
}

#[tokio::test]
async fn each_iterator_type_starts_at_its_position() {
    let cloud = start().await;
    let dynamodb = cloud.dynamodb_client();
    create_tables(&dynamodb).await;
    for sequence in 1..=3 {
        write_event(&dynamodb, sequence).await;
    }
    let streams = cloud.streams_client();
    let shard = only_shard(&streams).await;
    let read_from = async |kind, number: Option<&str>| {
        let start = iterator(&streams, &shard, kind, number).await;
        read(&streams, start, 1000).await.0
    };

    let all = read_from(ShardIteratorType::TrimHorizon, None).await;
    let numbers = sequence_numbers(&all);
    assert!(numbers.is_sorted() && numbers.len() == 3, "{numbers:?}");
    let after = read_from(ShardIteratorType::AfterSequenceNumber, Some(numbers[1])).await;
    assert_eq!(sequence_numbers(&after), numbers[2..]);
    let at = read_from(ShardIteratorType::AtSequenceNumber, Some(numbers[1])).await;
    assert_eq!(sequence_numbers(&at), numbers[1..]);

    let latest = iterator(&streams, &shard, ShardIteratorType::Latest, None).await;
    write_event(&dynamodb, 4).await;
    let (new, _) = read(&streams, latest, 1000).await;
    let [record] = &new[..] else {
        panic!("{new:?}");
    };
    assert_eq!(
        record.dynamodb().unwrap().keys().unwrap()["sequence"]
            .as_n()
            .unwrap(),
        "4"
    );
}

#[tokio::test]
async fn open_shard_has_no_end_child_or_successor() {
    let cloud = start().await;
    let dynamodb = cloud.dynamodb_client();
    create_tables(&dynamodb).await;
    let streams = cloud.streams_client();
    let shard = only_shard(&streams).await;
    let describe = || streams.describe_stream().stream_arn(&shard.stream_arn);
    let shards = async |request: DescribeStreamFluentBuilder| {
        let described = request.send().await.unwrap();
        described.stream_description.unwrap().shards.unwrap()
    };
    let range = async || {
        let shards = shards(describe()).await;
        shards[0].sequence_number_range.clone().unwrap()
    };

    let empty = range().await;
    write_event(&dynamodb, 1).await;
    let written = range().await;
    assert_eq!(written, empty);
    assert_eq!(written.ending_sequence_number(), None);
    let first = written.starting_sequence_number();
    let start = iterator(&streams, &shard, ShardIteratorType::AtSequenceNumber, first);
    let (records, _) = read(&streams, start.await, 1000).await;
    assert_eq!(
        records.len(),
        1,
        "reading from the start returns all records"
    );

    let filter = ShardFilter::builder()
        .r#type(ShardFilterType::ChildShards)
        .shard_id(&shard.shard_id)
        .build();
    assert_eq!(shards(describe().shard_filter(filter)).await, []);
    let after = describe().exclusive_start_shard_id(&shard.shard_id);
    assert_eq!(shards(after).await, []);
}

#[tokio::test]
async fn page_has_at_most_limit_records() {
    let cloud = start().await;
    let dynamodb = cloud.dynamodb_client();
    create_tables(&dynamodb).await;
    for sequence in 1..=3 {
        write_event(&dynamodb, sequence).await;
    }
    let streams = cloud.streams_client();
    let shard = only_shard(&streams).await;
    let start = iterator(&streams, &shard, ShardIteratorType::TrimHorizon, None).await;

    let (first, next) = read(&streams, start, 2).await;
    let (second, _) = read(&streams, next, 2).await;

    assert_eq!((first.len(), second.len()), (2, 1));
}

#[tokio::test]
async fn update_is_streamed_as_modify_and_delete_as_remove() {
    let cloud = start().await;
    let dynamodb = cloud.dynamodb_client();
    create_tables(&dynamodb).await;
    write_event(&dynamodb, 1).await;
    dynamodb
        .update_item()
        .table_name("outbox")
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(1))
        .update_expression("SET #s = :p")
        .expression_attribute_names("#s", "status")
        .expression_attribute_values(":p", s("PUBLISHED"))
        .send()
        .await
        .unwrap();
    dynamodb
        .delete_item()
        .table_name("outbox")
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(1))
        .send()
        .await
        .unwrap();

    let records = all_records(&cloud.streams_client()).await;
    let names: Vec<_> = records
        .iter()
        .map(|r| r.event_name().unwrap().as_str())
        .collect();
    assert_eq!(names, ["INSERT", "MODIFY", "REMOVE"]);
    assert!(records[2].dynamodb().unwrap().new_image().is_none());
}
