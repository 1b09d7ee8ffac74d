//! Relays of an older release beside those of this one, on the same tables.
//!
//! The program of the older release is built from its own commit, and named by `OLD_RELAY`.

use std::collections::BTreeSet;

use test_support::Service;

use super::shards::Shards;
use super::{IN_FLIGHT, ShardedStage, assert_in_order};
use crate::support::{RELAY, string};

const AGGREGATES: usize = 100;

/// Rounds of events that are committed during each step.
const ROUNDS: u64 = 3;

fn old_relay() -> String {
    std::env::var("OLD_RELAY").expect("OLD_RELAY is the program of an older release")
}

struct Releases {
    stage: ShardedStage,
    old: String,
    /// Rounds committed so far.
    sequence: u64,
    /// Maintenance items that a relay of the older release owned.
    wrongly_owned: BTreeSet<(String, String)>,
}

impl Releases {
    async fn new(shards: u64, queue: &'static str) -> Self {
        Self {
            stage: ShardedStage::new(Shards::open(shards), queue).await,
            old: old_relay(),
            sequence: 0,
            wrongly_owned: BTreeSet::new(),
        }
    }

    async fn old(&self, name: &str) -> Service {
        self.stage.relay_of(&self.old, name, &QUICK).await
    }

    async fn new_release(&self, name: &str) -> Service {
        self.stage.relay_of(RELAY, name, &QUICK).await
    }

    /// Commits events and waits until they are published; looks at the leases meanwhile.
    async fn step(&mut self, step: &str) {
        for _ in 0..ROUNDS {
            self.sequence += 1;
            self.stage.commit_round(AGGREGATES, self.sequence).await;
            self.inspect().await;
        }
        self.stage.until_none_pending(super::PATIENCE).await;
        self.inspect().await;
        println!("{step}: {:?}", self.stage.shares().await);
    }

    async fn inspect(&mut self) {
        for row in self.stage.stage.leases().await {
            let (Some(lease), Some(owner)) = (string(&row, "lease"), string(&row, "owner")) else {
                continue;
            };
            let is_new_item = lease.starts_with("sweeper#") || lease.starts_with("member#");
            if is_new_item && owner.starts_with("old-") {
                self.wrongly_owned
                    .insert((lease.to_owned(), owner.to_owned()));
            }
        }
    }

    fn assert_maintenance_is_untouched(&self) {
        assert!(self.wrongly_owned.is_empty(), "{:?}", self.wrongly_owned);
    }
}

const QUICK: [(&str, &str); 3] = [
    ("RELAY_LEASE_DURATION", "2s"),
    ("RELAY_SWEEP_AFTER", "2s"),
    ("RELAY_SWEEP_INTERVAL", "1s"),
];

async fn stop(relay: &mut Service) {
    assert!(relay.terminate().await.unwrap().success());
}

/// Replaces two relays of the older release by two of this one and back. Returns the event ids in
/// the queue and the number of rounds.
async fn roll(shards: u64, queue: &'static str) -> (Vec<String>, u64) {
    let mut releases = Releases::new(shards, queue).await;
    let mut old = [releases.old("old-a").await, releases.old("old-b").await];
    releases.step("two old relays").await;
    let mut new = Vec::new();
    for (n, relay) in old.iter_mut().enumerate() {
        new.push(releases.new_release(&format!("new-{n}")).await);
        releases.step("one more new relay").await;
        stop(relay).await;
        releases.step("one old relay less").await;
    }
    let mut older = Vec::new();
    for (n, relay) in new.iter_mut().enumerate() {
        older.push(releases.old(&format!("old-back-{n}")).await);
        releases.step("one more old relay").await;
        stop(relay).await;
        releases.step("one new relay less").await;
    }
    releases.assert_maintenance_is_untouched();
    let published = AGGREGATES * usize::try_from(releases.sequence).unwrap();
    releases.stage.until_published(published).await;
    (releases.stage.received().await, releases.sequence)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program of an older release: OLD_RELAY"]
async fn an_upgrade_and_a_downgrade_keep_the_order() {
    let (received, rounds) = roll(4, "events.fifo").await;
    assert_in_order(&received, AGGREGATES, rounds);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program of an older release: OLD_RELAY"]
async fn an_upgrade_and_a_downgrade_repeat_nothing_that_was_marked() {
    let (received, rounds) = roll(4, "events").await;
    let distinct: BTreeSet<_> = received.iter().collect();
    assert_eq!(
        distinct.len(),
        AGGREGATES * usize::try_from(rounds).unwrap()
    );
    let repeats = received.len() - distinct.len();
    println!("{repeats} repeats after 4 graceful stops");
    assert_eq!(repeats, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program of an older release: OLD_RELAY"]
async fn relays_of_both_releases_survive_the_kill_of_one() {
    let mut releases = Releases::new(4, "events").await;
    let mut old = releases.old("old-a").await;
    let mut new = releases.new_release("new-a").await;
    releases.step("both").await;
    old.kill().await.unwrap();
    releases.step("the old relay is killed").await;
    let _old = releases.old("old-b").await;
    releases.step("another old relay").await;
    new.kill().await.unwrap();
    releases.step("the new relay is killed").await;
    releases.assert_maintenance_is_untouched();
    let events = AGGREGATES * usize::try_from(releases.sequence).unwrap();
    releases.stage.until_published(events).await;
    let received = releases.stage.received().await;
    let distinct: BTreeSet<_> = received.iter().collect();
    assert_eq!(distinct.len(), events);
    let repeats = received.len() - distinct.len();
    println!("{repeats} repeats after 2 kills");
    assert!(repeats <= 2 * IN_FLIGHT, "{repeats} repeats");
}
