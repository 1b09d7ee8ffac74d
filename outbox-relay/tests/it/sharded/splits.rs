use std::time::{Duration, Instant};

use super::shards::Shards;
use super::{ShardedStage, assert_in_order};
use crate::support::{event, string, text, until_answer};

/// Time for which a queue fails before the relay defers its events, and for which an event waits
/// for its predecessor.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn split_shards_are_read_parents_first() {
    const AGGREGATES: usize = 60;
    let stage = ShardedStage::new(Shards::open(2), "events.fifo").await;
    let _relays = [stage.relay("one", &[]).await, stage.relay("two", &[]).await];
    for sequence in 1..=20 {
        stage.commit_round(AGGREGATES, sequence).await;
        if sequence % 5 == 0 && sequence < 20 {
            stage.streams.shards().split_all();
        }
    }
    stage.until_published(AGGREGATES * 20).await;
    assert_in_order(&stage.received().await, AGGREGATES, 20);
    stage.until_shares(&[("one", 8), ("two", 8)]).await;

    let shards = stage.streams.shards();
    let mut children = 0;
    for (id, shard) in shards.iter() {
        if let Some(parent) = &shard.parent {
            children += 1;
            let parent_end = shards.get(parent).unwrap().end_served;
            assert!(
                parent_end.is_some() && shard.first_read > parent_end,
                "{id} was first read at {:?}, and the end of its parent at {parent_end:?}",
                shard.first_read
            );
        }
    }
    assert_eq!(children, 4 + 8 + 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_found_when_the_reader_of_their_parent_ends_before_it_looks_them_up() {
    let stage = ShardedStage::new(Shards::open(2), "events").await;
    let mut relays = [stage.relay("one", &[]).await, stage.relay("two", &[]).await];
    stage.until_shares(&[("one", 1), ("two", 1)]).await;
    stage.commit_round(20, 1).await;
    stage.until_published(20).await;
    stage.until_checkpointed().await;

    // The lister survives.
    let lister = stage.lease("sweeper").await;
    let (name, reader) = match string(&lister, "owner") {
        Some("one") => ("two", &mut relays[1]),
        _ => ("one", &mut relays[0]),
    };
    let lease = stage.open_leases().await;
    let lease = lease
        .iter()
        .find(|lease| string(lease, "owner") == Some(name));
    let shard = string(lease.unwrap(), "lease").unwrap().to_owned();
    reader.kill().await.unwrap();
    stage.streams.shards().split_all();
    stage.end_lease(&shard).await;
    let began = Instant::now();
    stage.commit_round(20, 2).await;
    stage.until_published(40).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_missing_queue_do_not_delay_the_children_of_their_shard() {
    let stage = ShardedStage::new(Shards::open(1), "events").await;
    let routes = [("RELAY_ROUTES", "down.*=missing,*=events")];
    let relay = stage.relay("one", &routes).await;
    let mut stuck = event("stuck", 1);
    stuck.insert("event_type".to_owned(), text("down.happened"));
    let began = Instant::now();
    stage.commit(vec![stuck]).await;
    until_answer(&relay, "/readyz", 503, "missing").await;
    stage.streams.shards().split_all();
    stage.commit(vec![event("a", 1), event("b", 1)]).await;
    stage.until_sent(2).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let stuck = stage.stage.event("stuck", 1).await;
    assert_eq!(string(&stuck, "status"), Some("PENDING"));
    assert!(stuck.contains_key("deferred_at"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_its_predecessor_does_not_delay_the_children_of_its_shard() {
    let stage = ShardedStage::new(Shards::open(1), "events").await;
    let _relay = stage.relay("one", &[]).await;
    stage.commit(vec![event("read", 1)]).await;
    stage.until_sent(1).await;
    // Its record was trimmed.
    stage.stage.put(event("a", 1)).await;
    let began = Instant::now();
    stage.commit(vec![event("a", 2)]).await;
    stage.streams.shards().split_all();
    stage.commit(vec![event("b", 1)]).await;
    stage.until_sent(2).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(stage.received().await, ["read:1", "b:1"]);
    assert!(stage.stage.event("a", 2).await.contains_key("deferred_at"));
}
