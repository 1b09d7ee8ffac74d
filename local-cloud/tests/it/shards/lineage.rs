//! Shards and their parents, while shards split and close.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodbstreams::types::{Record, ShardIteratorType};
use futures::future::join_all;
use local_cloud::{ShardError, ShardOptions};

use super::{Fixture, TABLE, ending, id, is_open, key, number, starting, write};
use crate::support::{eventually, start};

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
