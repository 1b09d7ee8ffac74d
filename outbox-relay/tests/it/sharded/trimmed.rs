use crate::support::event;

use super::shards::Shards;
use super::{ShardedStage, assert_in_order, metric};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_while_the_relay_is_away_is_published_from_the_table() {
    let stage = ShardedStage::new(Shards::open(1), "events.fifo").await;
    let options = [
        ("RELAY_SWEEP_AFTER", "1s"),
        ("RELAY_SWEEP_INTERVAL", "500ms"),
    ];
    let mut relay = stage.relay("relay", &options).await;
    for sequence in 1..=5 {
        stage.commit_round(20, sequence).await;
    }
    stage.until_published(100).await;
    // Who has read nothing cannot tell that something is missing.
    stage.until_checkpointed().await;
    relay.kill().await.unwrap();

    for sequence in 6..=10 {
        stage.commit_round(20, sequence).await;
    }
    stage.streams.shards().trim();
    // What is left of the stream.
    let late = (0..10).map(|n| event(&format!("late-{n}"), 1));
    stage.commit(late.collect()).await;

    let relay = stage.relay("relay", &options).await;
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
