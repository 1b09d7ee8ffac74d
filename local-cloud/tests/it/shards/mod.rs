//! Virtual shards: lineage, splits and trims, as a consumer sees them.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::ProvideErrorMetadata;
use aws_sdk_dynamodbstreams::types::{
    Record, Shard, ShardFilter, ShardFilterType, ShardIteratorType,
};
use futures::future::join_all;
use local_cloud::{Config, LocalCloud, ShardError, ShardOptions};

use crate::support::{create_tables, eventually, n, put_event, s, start};

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

#[tokio::test]
async fn shards_are_listed_with_their_parents_and_bounds() {
    let fixture = Fixture::start(2).await;
    let [first, second] = &fixture.open_shards().await[..] else {
        panic!("a new stream has two open shards");
    };
    fixture.write("o-1", 1).await;

    let halves = fixture.cloud.split_shard(TABLE, first).await.unwrap();
    let rolled = fixture.cloud.roll_shard(TABLE, second).await.unwrap();

    assert_eq!(halves.len(), 2);
    let shards: HashMap<_, _> = fixture
        .shards()
        .await
        .into_iter()
        .map(|one| (id(&one), one))
        .collect();
    assert_eq!(shards.len(), 5);
    for (child, parent) in [(&halves[0], first), (&halves[1], first), (&rolled, second)] {
        let (child, parent) = (&shards[child], &shards[parent]);
        assert_eq!(child.parent_shard_id(), parent.shard_id());
        assert!(is_open(child) && !is_open(parent));
        assert!(ending(parent).unwrap() < starting(child));
        assert!(starting(parent) < ending(parent).unwrap());
    }
    assert_eq!(shards[first].parent_shard_id(), None);

    assert_eq!(fixture.children(first).await.len(), 2);
    assert_eq!(
        fixture.children(second).await,
        std::slice::from_ref(&rolled)
    );
    assert_eq!(fixture.children(&rolled).await, [""; 0]);
}

#[tokio::test]
async fn listing_has_pages_of_a_hundred_shards() {
    let fixture = Fixture::start(1).await;
    let mut open = fixture.open_shards().await.remove(0);
    for _ in 0..120 {
        open = fixture.cloud.roll_shard(TABLE, &open).await.unwrap();
    }
    let described = fixture
        .streams
        .describe_stream()
        .stream_arn(&fixture.stream_arn);
    let first = described.send().await.unwrap().stream_description.unwrap();
    assert_eq!(first.shards().len(), 100);
    assert_eq!(
        first.last_evaluated_shard_id(),
        first.shards()[99].shard_id()
    );

    let all = fixture.shards().await;
    assert_eq!(all.len(), 121);
    for pair in all.windows(2) {
        assert_eq!(pair[1].parent_shard_id(), pair[0].shard_id());
    }
}

/// Reads a shard to its end, and then its children.
async fn follow(fixture: &Fixture, root: String, written: &AtomicBool) -> Vec<(String, Record)> {
    let mut records = Vec::new();
    let mut shards = vec![root];
    while let Some(shard) = shards.pop() {
        let start = fixture.iterator(&shard, ShardIteratorType::TrimHorizon, None);
        let mut next = Some(start.await.unwrap());
        while let Some(iterator) = next {
            // Read before the page, so that the last page has everything.
            let is_last = written.load(Ordering::Acquire);
            let (page, following) = fixture.read(&iterator, 7).await.unwrap();
            next = following;
            if next.is_none() {
                shards.extend(fixture.children(&shard).await);
            } else if is_last && page.is_empty() {
                next = None;
            }
            records.extend(page.into_iter().map(|record| (shard.clone(), record)));
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_in_one_shard_and_in_order_while_shards_split() {
    const WRITERS: u64 = 6;
    const CHANGES: u64 = 60;
    let fixture = Fixture::start(2).await;
    let roots = fixture.open_shards().await;
    let written = AtomicBool::new(false);
    let writing = async {
        let writers = (0..WRITERS).map(|writer| {
            let dynamodb = fixture.dynamodb.clone();
            tokio::spawn(async move {
                for sequence in 1..=CHANGES {
                    write(&dynamodb, &format!("o-{writer}"), sequence).await;
                }
            })
        });
        for writer in join_all(writers).await {
            writer.unwrap();
        }
        written.store(true, Ordering::Release);
    };
    let splitting = async {
        for round in 0.. {
            if written.load(Ordering::Acquire) {
                return round;
            }
            let open = fixture.open_shards().await;
            let shard = &open[round % open.len()];
            if open.len() < 12 {
                fixture.cloud.split_shard(TABLE, shard).await.unwrap();
            } else {
                fixture.cloud.roll_shard(TABLE, shard).await.unwrap();
            }
        }
        unreachable!("the loop has no end")
    };
    let reading = join_all(
        roots
            .into_iter()
            .map(|root| follow(&fixture, root, &written)),
    );
    let ((), splits, read) = tokio::join!(writing, splitting, reading);

    assert!(splits > 5, "{splits}");
    let records: Vec<_> = read.into_iter().flatten().collect();
    let mut seen = HashSet::new();
    for (shard, record) in &records {
        assert!(
            seen.insert(number(record)),
            "{} in {shard} again",
            number(record)
        );
    }
    let mut of_key: HashMap<_, Vec<_>> = HashMap::new();
    for (shard, record) in &records {
        let (aggregate, sequence) = key(record);
        of_key.entry(aggregate).or_default().push((shard, sequence));
    }
    assert_eq!(of_key.len() as u64, WRITERS);
    for (aggregate, changes) in of_key {
        let order: Vec<_> = changes.iter().map(|(_, sequence)| *sequence).collect();
        assert_eq!(
            order,
            (1..=CHANGES).collect::<Vec<_>>(),
            "{aggregate}: {changes:?}"
        );
    }
}

#[tokio::test]
async fn closed_shard_ends_after_its_last_record() {
    let fixture = Fixture::start(1).await;
    let root = fixture.open_shards().await.remove(0);
    for sequence in 1..=3 {
        fixture.write("o-1", sequence).await;
    }
    let waiting = fixture
        .iterator(&root, ShardIteratorType::Latest, None)
        .await
        .unwrap();
    let child = fixture.cloud.roll_shard(TABLE, &root).await.unwrap();
    fixture.write("o-1", 4).await;

    let start = fixture
        .iterator(&root, ShardIteratorType::TrimHorizon, None)
        .await
        .unwrap();
    let (first, next) = fixture.read(&start, 2).await.unwrap();
    let (second, end) = fixture.read(&next.unwrap(), 2).await.unwrap();
    assert_eq!((first.len(), second.len(), end), (2, 1, None));

    let last = number(&second[0]);
    let after = fixture.iterator(&root, ShardIteratorType::AfterSequenceNumber, Some(last));
    let latest = fixture.iterator(&root, ShardIteratorType::Latest, None);
    for iterator in [waiting, after.await.unwrap(), latest.await.unwrap()] {
        assert_eq!(fixture.read(&iterator, 10).await.unwrap(), (vec![], None));
    }
    let beyond = fixture.read_all(&child).await;
    assert_eq!(
        beyond.iter().map(key).collect::<Vec<_>>(),
        [("o-1".to_owned(), 4)]
    );
    let at = Some(number(&beyond[0]));
    let outside = fixture
        .iterator(&root, ShardIteratorType::AtSequenceNumber, at)
        .await;
    assert_eq!(outside.unwrap_err(), "ValidationException");
}

#[tokio::test]
async fn iterator_starts_at_its_position_in_its_shard() {
    let fixture = Fixture::start(4).await;
    for sequence in 1..=3 {
        for aggregate in 0..20 {
            fixture.write(&format!("o-{aggregate}"), sequence).await;
        }
    }
    let mut total = 0;
    for shard in fixture.open_shards().await {
        let all = fixture.read_all(&shard).await;
        total += all.len();
        assert!(all.len() > 2, "{} of 60 records", all.len());
        let middle = all.len() / 2;
        for (kind, rest) in [
            (ShardIteratorType::AtSequenceNumber, &all[middle..]),
            (ShardIteratorType::AfterSequenceNumber, &all[middle + 1..]),
        ] {
            let start = fixture.iterator(&shard, kind, Some(number(&all[middle])));
            let (page, next) = fixture.read(&start.await.unwrap(), 1_000).await.unwrap();
            assert_eq!(page, rest);
            assert!(next.is_some(), "the shard is open");
        }
        let latest = fixture
            .iterator(&shard, ShardIteratorType::Latest, None)
            .await;
        let (page, _) = fixture.read(&latest.unwrap(), 1_000).await.unwrap();
        assert_eq!(page, []);
    }
    assert_eq!(total, 60);
}

#[tokio::test]
async fn trimmed_records_cannot_be_read_and_their_shards_disappear() {
    let fixture = Fixture::start(1).await;
    let root = fixture.open_shards().await.remove(0);
    let open = fixture.cloud.roll_shard(TABLE, &root).await.unwrap();
    fixture.write("o-1", 1).await;
    let at_first = fixture
        .iterator(&open, ShardIteratorType::TrimHorizon, None)
        .await
        .unwrap();
    let first = fixture.read_all(&open).await.remove(0);
    let at_end = fixture
        .iterator(&open, ShardIteratorType::Latest, None)
        .await
        .unwrap();

    fixture.cloud.trim_stream(TABLE).await.unwrap();
    fixture.write("o-1", 2).await;

    let trimmed = "TrimmedDataAccessException";
    assert_eq!(fixture.read(&at_first, 10).await.unwrap_err(), trimmed);
    for kind in [
        ShardIteratorType::AtSequenceNumber,
        ShardIteratorType::AfterSequenceNumber,
    ] {
        let position = fixture.iterator(&open, kind, Some(number(&first))).await;
        assert_eq!(position.unwrap_err(), trimmed);
    }
    // A reader that had read everything lost nothing.
    let (page, _) = fixture.read(&at_end, 10).await.unwrap();
    assert_eq!(
        page.iter().map(key).collect::<Vec<_>>(),
        [("o-1".to_owned(), 2)]
    );
    assert_eq!(fixture.read_all(&open).await, page);

    assert_eq!(
        fixture.shards().await.iter().map(id).collect::<Vec<_>>(),
        [open]
    );
    let gone = fixture
        .iterator(&root, ShardIteratorType::TrimHorizon, None)
        .await;
    assert_eq!(gone.unwrap_err(), "ResourceNotFoundException");
}

#[tokio::test]
async fn records_are_trimmed_by_age() {
    let fixture = Fixture::with(ShardOptions {
        trim_after: Duration::from_secs(2),
        ..ShardOptions::default()
    })
    .await;
    let shard = fixture.open_shards().await.remove(0);
    fixture.write("o-1", 1).await;
    eventually("the record is trimmed", async || {
        let start = fixture.iterator(&shard, ShardIteratorType::TrimHorizon, None);
        // The record may be trimmed between the two requests.
        let (page, _) = fixture.read(&start.await.unwrap(), 10).await.ok()?;
        page.is_empty().then_some(())
    })
    .await;
    fixture.write("o-1", 2).await;
    assert_eq!(
        key(&fixture.read_all(&shard).await[0]),
        ("o-1".to_owned(), 2)
    );
}

#[tokio::test]
async fn page_has_at_most_one_mebibyte() {
    let fixture = Fixture::start(1).await;
    for sequence in 1..=5 {
        let put = fixture.dynamodb.put_item().table_name(TABLE);
        let put = put
            .item("aggregate_id", s("o-1"))
            .item("sequence", n(sequence));
        put.item("payload", s("x".repeat(300 * 1024)))
            .send()
            .await
            .unwrap();
    }
    let shard = fixture.open_shards().await.remove(0);
    let start = fixture
        .iterator(&shard, ShardIteratorType::TrimHorizon, None)
        .await
        .unwrap();
    let (first, next) = fixture.read(&start, 1_000).await.unwrap();
    let (second, _) = fixture.read(&next.unwrap(), 1_000).await.unwrap();
    assert_eq!((first.len(), second.len()), (3, 2));
}

#[tokio::test]
async fn shards_split_at_an_interval_up_to_twice_their_number() {
    let fixture = Fixture::with(ShardOptions {
        shards: NonZeroU32::new(2).unwrap(),
        split_every: Some(Duration::from_millis(20)),
        ..ShardOptions::default()
    })
    .await;
    let all = eventually("ten closed shards", async || {
        let all = fixture.shards().await;
        (all.iter().filter(|shard| !is_open(shard)).count() >= 10).then_some(all)
    })
    .await;
    assert_eq!(all.iter().filter(|shard| is_open(shard)).count(), 4);
}

#[tokio::test]
async fn only_an_open_shard_of_a_stream_can_be_split() {
    let fixture = Fixture::start(1).await;
    let root = fixture.open_shards().await.remove(0);
    fixture.cloud.roll_shard(TABLE, &root).await.unwrap();
    for shard in [root.as_str(), "no-such-shard"] {
        let error = fixture.cloud.split_shard(TABLE, shard).await.unwrap_err();
        assert!(matches!(error, ShardError::NotOpen(_)), "{error}");
    }
    for table in ["orders", "no-such-table"] {
        let error = fixture.cloud.trim_stream(table).await.unwrap_err();
        assert!(matches!(error, ShardError::NoStream(_)), "{error}");
    }
    let plain = start().await;
    let error = plain.split_shard(TABLE, &root).await.unwrap_err();
    assert!(matches!(error, ShardError::NotVirtual), "{error}");
}
