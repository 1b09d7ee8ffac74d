use std::time::{Duration, Instant};

use test_support::eventually;

use super::shards::Shards;
use super::{ShardedStage, assert_in_order};

/// Returns the peak resident memory of a process in MiB.
pub(super) fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .unwrap();
    peak.parse::<u64>().unwrap() / 1024
}

/// Generations of shards within a day, at some hours each: the depth of a shard tree.
const GENERATIONS: usize = 5;

/// Time limit of the start. The listing alone takes a quarter of it: 101 pages at the pace that
/// leaves half of the stream's calls to others.
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_retained_shards_delay_nothing() {
    let mut shards = Shards::default();
    shards.retain_closed(10_000 / GENERATIONS, GENERATIONS);
    shards.open_more(4);
    let stage = ShardedStage::new(shards, "events.fifo").await;
    for sequence in 1..=5 {
        stage.commit_round(20, sequence).await;
    }
    let began = Instant::now();
    let relay = stage.relay("relay", &[]).await;
    stage.until_none_pending(LIMIT).await;
    let published = began.elapsed();
    // The metric is cheap to read, unlike the lease table.
    let health = relay.url("/healthz");
    eventually(LIMIT, || async {
        let answer = reqwest::get(&health).await.unwrap();
        let status = answer.status();
        assert_eq!(status, 200, "{}", answer.text().await.unwrap());
        match stage.streams.shards().unread() {
            0 => Ok(()),
            unread => Err(format!("{unread} shards were never read")),
        }
    })
    .await
    .unwrap();
    stage.until_shares(&[("relay", 4)]).await;
    let converged = began.elapsed();
    // The ended shards are processed: the relay does not lag behind because of them, and finds the
    // children of a shard that splits now.
    stage.streams.shards().split_all();
    for sequence in 6..=7 {
        stage.commit_round(20, sequence).await;
    }
    stage.until_published(140).await;
    let split = began.elapsed() - converged;
    let peak = peak_memory(relay.pid().unwrap());
    let listings = stage.streams.shards().listings;
    println!(
        "published in {published:?}, converged in {converged:?}, children after {split:?}, {peak} MiB, {listings} pages listed"
    );
    assert!(converged < LIMIT, "{converged:?}");
    assert!(split < Duration::from_secs(30), "{split:?}");
    assert!(peak < 150, "{peak} MiB");
    // One listing at the start and none per shard; one more after a minute.
    assert!(listings <= 2 * 101, "{listings} pages");
    assert_in_order(&stage.received().await, 20, 7);
}
