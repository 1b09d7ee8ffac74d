//! Three relays share twelve shards, while one is killed, one is paused past
//! its leases, and one is stopped and replaced.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::{Service, eventually};

use super::shards::Shards;
use super::{IN_FLIGHT, PATIENCE, ShardedStage, assert_in_order, metric};

const AGGREGATES: usize = 100;
const SEQUENCES: u64 = 20;
const EVENTS: usize = 2_000;

fn signal(relay: &Service, signal: Signal) {
    let pid = i32::try_from(relay.pid().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

impl ShardedStage {
    async fn commit_rounds(&self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            self.commit_round(AGGREGATES, sequence).await;
        }
    }

    async fn until_owned_by_none_of(&self, instance: &str) {
        eventually(PATIENCE, || async {
            let shares = self.shares().await;
            if !shares.contains_key(instance) && shares.values().sum::<usize>() == 12 {
                Ok(())
            } else {
                Err(format!("{shares:?}"))
            }
        })
        .await
        .unwrap();
    }
}

/// Returns the event ids that the queue contains at the end.
async fn lose_three_relays(queue: &'static str) -> Vec<String> {
    let stage = ShardedStage::new(Shards::open(12), queue).await;
    let mut killed = stage.relay("killed", &[]).await;
    let paused = stage.relay("paused", &[]).await;
    let mut stopped = stage.relay("stopped", &[]).await;
    stage
        .until_shares(&[("killed", 4), ("paused", 4), ("stopped", 4)])
        .await;

    let ((), ()) = tokio::join!(stage.commit_rounds(1..=5), async {
        stage.until_sent(150).await;
        killed.kill().await.unwrap();
    });
    stage.until_owned_by_none_of("killed").await;

    assert!(
        stage.shares().await["paused"] > 0,
        "the relay to be paused holds no shard"
    );
    let ((), ()) = tokio::join!(stage.commit_rounds(6..=10), async {
        stage.until_sent(600).await;
        signal(&paused, Signal::SIGSTOP);
    });
    stage.until_owned_by_none_of("paused").await;
    stage.commit_rounds(11..=15).await;
    signal(&paused, Signal::SIGCONT);
    eventually(PATIENCE, || async {
        match metric(&paused, "outbox_leases_lost_total").await {
            Some(lost @ 1..) => Ok(lost),
            lost => Err(format!("{lost:?} leases lost")),
        }
    })
    .await
    .unwrap();

    let ((), replacement) = tokio::join!(stage.commit_rounds(16..=SEQUENCES), async {
        stage.until_sent(1_550).await;
        assert!(stopped.terminate().await.unwrap().success());
        assert_eq!(stage.shares().await.get("stopped"), None);
        stage.relay("replacement", &[]).await
    });
    stage.until_published(EVENTS).await;
    stage
        .until_shares(&[("paused", 6), ("replacement", 6)])
        .await;
    drop(replacement);
    stage.received().await
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_when_relays_are_killed_paused_and_stopped() {
    let received = lose_three_relays("events.fifo").await;
    assert_in_order(&received, AGGREGATES, SEQUENCES);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_paused_and_stopped_repeat_at_most_what_was_in_flight() {
    let received = lose_three_relays("events").await;
    let distinct: BTreeSet<_> = received.iter().collect();
    assert_eq!(distinct.len(), EVENTS);
    let repeats = received.len() - distinct.len();
    println!("{repeats} repeats after a kill, a pause and a stop");
    assert!(repeats <= 2 * IN_FLIGHT, "{repeats} repeats");
}
