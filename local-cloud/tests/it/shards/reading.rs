//! Iterators and pages of one shard.

use aws_sdk_dynamodbstreams::types::ShardIteratorType;

use super::{Fixture, TABLE, key, number};
use crate::support::{n, s};

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
