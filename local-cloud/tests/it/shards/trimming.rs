//! Records and shards that are trimmed.

use std::time::Duration;

use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use local_cloud::ShardOptions;

use super::{Fixture, TABLE, id, key, number};
use crate::support::eventually;

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
async fn the_start_of_a_shard_without_records_is_not_trimmed() {
    let fixture = Fixture::start(1).await;
    let root = fixture.open_shards().await.remove(0);
    fixture.cloud.roll_shard(TABLE, &root).await.unwrap();
    for shard in fixture.shards().await {
        let range = shard.sequence_number_range().unwrap();
        let start = range.starting_sequence_number().unwrap();
        for kind in [
            ShardIteratorType::AtSequenceNumber,
            ShardIteratorType::AfterSequenceNumber,
        ] {
            let position = fixture.iterator(&id(&shard), kind, Some(start)).await;
            let page = fixture.read(&position.unwrap(), 10).await;
            assert!(page.unwrap().0.is_empty());
        }
    }
}
