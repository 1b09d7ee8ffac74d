//! Memory of a relay that holds hundreds of shards.

use std::time::Duration;

use test_support::eventually;

use super::retained::peak_memory;
use super::shards::Shards;
use super::{ShardedStage, metric};
use crate::support::event;

/// Limit for the whole process, whatever the number of shards and aggregates.
const MAX_MIB: u64 = 128;

/// Publishes `rounds` events of aggregates that differ in every round on each of `shards` shards,
/// all held by one relay.
async fn hold(shards: usize, rounds: usize) {
    let stage = ShardedStage::new(Shards::open(shards as u64), "events").await;
    let options = [
        ("RELAY_LEASE_DURATION", "10s"),
        ("RELAY_POLL_MAX", "1s"),
        // As in the container image.
        ("MALLOC_ARENA_MAX", "1"),
    ];
    let relay = stage.relay("relay", &options).await;
    eventually(Duration::from_secs(120), || async {
        match metric(&relay, "outbox_shards_held").await {
            Some(held) if held == shards as u64 => Ok(()),
            held => Err(format!("{held:?} shards are held")),
        }
    })
    .await
    .unwrap();
    let pid = relay.pid().unwrap();
    let held = peak_memory(pid);
    for round in 0..rounds {
        // Names as long as a UUID, as those of orders are.
        let events = (0..shards).map(|n| event(&format!("{round:08}-aggregate-{n:018}"), 1));
        stage.commit(events.collect()).await;
        // The memory of the test itself should not grow with the number of events.
        if round % 20 == 19 {
            stage.until_none_pending(Duration::from_secs(60)).await;
            stage.streams.shards().drop_records();
        }
    }
    stage.until_none_pending(Duration::from_secs(60)).await;
    let peak = peak_memory(pid);
    println!(
        "{shards} held shards: {held} MiB without events, {peak} MiB after {} aggregates",
        shards * rounds
    );
    assert!(peak < MAX_MIB, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_held_shards_need_less_than_128_mib() {
    hold(200, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn five_hundred_held_shards_need_less_than_128_mib() {
    hold(500, 400).await;
}
