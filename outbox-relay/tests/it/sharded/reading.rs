//! Reads of one shard: under a limit of their rate, and of a shard without records.

use std::time::{Duration, Instant};

use test_support::eventually;

use super::limits::Limits;
use super::shards::Shards;
use super::{PATIENCE, ShardedStage, metric};
use crate::support::event;

/// The lowest number of reads per second and shard in reports on the service.
const FEW_READS: Limits = Limits {
    describe_stream: None,
    get_records: Some(5),
};

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_five_reads_a_second_delays_events_by_less_than_two_seconds() {
    const BACKLOG: usize = 2_000;
    let mut shards = Shards::open(1);
    shards.throttle.set(FEW_READS);
    let stage = ShardedStage::new(shards, "events").await;
    let backlog = (0..BACKLOG).map(|n| event(&format!("b-{n}"), 1));
    stage.commit(backlog.collect()).await;
    let _relay = stage.relay("relay", &[]).await;
    stage.until_sent(BACKLOG).await;

    let mut slowest = Duration::ZERO;
    for round in 1..=10 {
        let committed = Instant::now();
        stage.commit_round(10, round).await;
        let sequence = usize::try_from(round).unwrap();
        stage.until_sent(BACKLOG + 10 * sequence).await;
        slowest = slowest.max(committed.elapsed());
    }
    let (reads, iterators) = (
        stage.requests("GetRecords"),
        stage.requests("GetShardIterator"),
    );
    println!("{reads:?}, {iterators:?}, slowest round {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(reads.throttled > 0, "{reads:?}");
    assert_eq!(iterators.answered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_trimmed_before_the_first_record_of_a_shard_is_not_a_gap() {
    let stage = ShardedStage::new(Shards::open(1), "events").await;
    let relay = stage.relay("relay", &[]).await;
    eventually(PATIENCE, || async {
        match stage.requests("GetRecords").answered {
            0 => Err("the shard was not read"),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    stage.streams.shards().move_start();
    stage.commit_round(5, 1).await;
    stage.until_published(5).await;
    let log = relay.log();
    assert!(log.contains("reading from there"), "{log}");
    assert!(!log.contains("stream gap"), "{log}");
    let gaps = metric(&relay, "outbox_stream_gaps_total").await;
    assert!(gaps.is_none_or(|gaps| gaps == 0), "{gaps:?}");
}
