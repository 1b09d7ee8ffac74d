use test_support::eventually;

use super::shards::Shards;
use super::{PATIENCE, ShardedStage, assert_in_order, metric};
use crate::support::event;

/// Options of a relay that soon sweeps what it could not read.
const SWEEPS: [(&str, &str); 2] = [
    ("RELAY_SWEEP_AFTER", "1s"),
    ("RELAY_SWEEP_INTERVAL", "500ms"),
];

/// Starts a relay on one shard and kills it once it has published `rounds` of 20 events and written
/// a checkpoint: a relay that has read nothing cannot detect that records are missing.
async fn stage_of_a_killed_relay(rounds: u64) -> ShardedStage {
    let stage = ShardedStage::new(Shards::open(1), "events.fifo").await;
    let mut relay = stage.relay("relay", &SWEEPS).await;
    for sequence in 1..=rounds {
        stage.commit_round(20, sequence).await;
    }
    let committed = 20 * usize::try_from(rounds).unwrap();
    stage.until_published(committed).await;
    stage.until_checkpointed().await;
    relay.kill().await.unwrap();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn events_trimmed_while_the_relay_is_down_are_published_from_the_table() {
    let stage = stage_of_a_killed_relay(5).await;
    for sequence in 6..=10 {
        stage.commit_round(20, sequence).await;
    }
    stage.streams.shards().trim();
    // The records that are not trimmed.
    let late = (0..10).map(|n| event(&format!("late-{n}"), 1));
    stage.commit(late.collect()).await;

    let relay = stage.relay("relay", &SWEEPS).await;
    stage.until_published(210).await;
    let gaps = metric(&relay, "outbox_stream_gaps_total").await;
    assert_eq!(gaps, Some(1));
    let swept = r#"outbox_events_published_total{path="sweep",queue="events.fifo"}"#;
    assert_eq!(metric(&relay, swept).await, Some(100));
    let log = relay.log();
    let loud = log
        .lines()
        .filter(|line| line.contains("stream gap") && line.contains("\"ERROR\""));
    assert_eq!(loud.count(), 1, "{log}");
    let (late, received): (Vec<_>, Vec<_>) = stage
        .received()
        .await
        .into_iter()
        .partition(|id| id.starts_with("late"));
    assert_eq!(late.len(), 10);
    assert_in_order(&received, 20, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_deleted_before_they_are_fully_read_are_a_gap() {
    let stage = stage_of_a_killed_relay(1).await;
    // After more than a day the shard that the relay was reading is closed and deleted, and so is
    // the next generation.
    stage.commit_round(20, 2).await;
    stage.streams.shards().split_all();
    stage.commit_round(20, 3).await;
    stage.streams.shards().split_all();
    stage.streams.shards().trim_away();
    stage.commit_round(20, 4).await;

    let relay = stage.relay("relay", &SWEEPS).await;
    stage.until_published(80).await;
    eventually(PATIENCE, || async {
        let gaps = metric(&relay, "outbox_stream_gaps_total").await;
        let rows = stage.open_leases().await.len();
        let open = stage.streams.shards().count_open();
        if gaps == Some(1) && rows == open {
            Ok(())
        } else {
            Err(format!("{gaps:?} gaps, {rows} rows for {open} open shards"))
        }
    })
    .await
    .unwrap();
    let health = reqwest::get(relay.url("/healthz")).await.unwrap();
    assert_eq!(health.status(), 200);
    assert_in_order(&stage.received().await, 20, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_start_of_a_shard_that_was_never_read_is_a_gap() {
    let stage = stage_of_a_killed_relay(1).await;
    // The children wait for their parent until their records are trimmed.
    stage.streams.shards().split_all();
    stage.commit_round(20, 2).await;
    stage.streams.shards().trim_open();

    let relay = stage.relay("relay", &SWEEPS).await;
    stage.until_published(40).await;
    let gaps = metric(&relay, "outbox_stream_gaps_total").await;
    assert_eq!(gaps, Some(2));
    assert_in_order(&stage.received().await, 20, 2);
}
