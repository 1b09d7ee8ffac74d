//! Groups of relays on streams of many shards: the start of all at once, a rolling restart, and
//! the rate of lease writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use test_support::{Proxy, Service, eventually};

use super::limits::Limits;
use super::shards::Shards;
use super::{ShardedStage, assert_in_order, metric};
use crate::support::string;

/// Limits under which a group has to start: those of the service.
const SERVICE_LIMITS: Limits = Limits {
    describe_stream: Some(10),
    get_records: None,
};

/// Operations that write lease items.
const WRITES: [&str; 3] = ["PutItem", "UpdateItem", "DeleteItem"];

impl ShardedStage {
    /// Starts `count` relays at once.
    async fn group(&self, count: usize, extra: &[(&str, &str)]) -> Vec<Service> {
        let names: Vec<_> = (0..count).map(|n| format!("relay-{n}")).collect();
        join_all(names.iter().map(|name| self.relay(name, extra))).await
    }

    /// Returns the owner and the number of acquisitions of each open lease.
    async fn ownership(&self) -> BTreeMap<String, (Option<String>, u64)> {
        let leases = self.open_leases().await;
        leases
            .iter()
            .map(|lease| {
                let epoch = lease["epoch"].as_n().unwrap().parse().unwrap();
                let owner = string(lease, "owner").map(str::to_owned);
                let shard = string(lease, "lease").unwrap().to_owned();
                (shard, (owner, epoch))
            })
            .collect()
    }

    /// Waits until the stream has answered `count` more reads, and returns their number.
    async fn until_read(&self, count: u64) -> u64 {
        const LIMIT: Duration = Duration::from_secs(120);
        let before = self.requests("GetRecords").answered;
        let read = eventually(LIMIT, || async {
            match self.requests("GetRecords").answered - before {
                reads if reads >= count => Ok(reads),
                reads => Err(format!("{reads} of {count} reads after {LIMIT:?}")),
            }
        });
        read.await.unwrap()
    }

    /// Waits until each of `relays` has a number of shards within one of its share. Returns the
    /// time taken.
    async fn until_balanced(&self, shards: usize, relays: usize, limit: Duration) -> Duration {
        let began = Instant::now();
        eventually(limit, || async {
            let shares = self.shares().await;
            let least = shards / relays - 1;
            let most = shards.div_ceil(relays) + 1;
            let balanced = shares.len() == relays
                && shares.values().sum::<usize>() == shards
                && shares.values().all(|share| (least..=most).contains(share));
            if balanced {
                Ok(())
            } else {
                Err(format!("{shares:?}"))
            }
        })
        .await
        .unwrap();
        began.elapsed()
    }
}

/// Returns the number of lease writes that passed `proxy`.
fn writes(proxy: &Proxy) -> usize {
    let counts = proxy.counts();
    WRITES
        .iter()
        .filter_map(|operation| counts.get(*operation))
        .map(|count| count.requests)
        .sum()
}

/// Waits until each of `relays` has held a shard, at most `limit`.
async fn until_each_has_work(relays: &[Service], limit: Duration) {
    let mut idle: Vec<_> = relays.iter().collect();
    let began = Instant::now();
    // Each poll is a request to every relay, so the polls are not frequent.
    let mut polls = tokio::time::interval(Duration::from_millis(250));
    while !idle.is_empty() {
        polls.tick().await;
        let mut still_idle = Vec::new();
        for relay in idle {
            if metric(relay, "outbox_shards_held").await.unwrap_or(0) == 0 {
                still_idle.push(relay);
            }
        }
        idle = still_idle;
        assert!(
            began.elapsed() < limit,
            "{} of {} relays have no shard after {limit:?}",
            idle.len(),
            relays.len()
        );
    }
}

/// Starts `instances` relays at once on a stream of `retained` closed shards and some open ones.
async fn start_together(instances: usize, retained: usize, limit: Duration) {
    const GENERATIONS: usize = 5;
    const AGGREGATES: usize = 100;
    let mut shards = Shards::default();
    shards.retain_closed(retained / GENERATIONS, GENERATIONS);
    let open = 2 * instances;
    shards.open_more(open as u64);
    shards.throttle.set(SERVICE_LIMITS);
    let stage = ShardedStage::new(shards, "events.fifo").await;
    stage.commit_round(AGGREGATES, 1).await;
    let proxy = stage.stage.proxy().await;

    let began = Instant::now();
    let relays = stage
        .group(
            instances,
            &[
                ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url()),
                ("RELAY_LEASE_DURATION", "10s"),
                ("RELAY_POLL_MAX", "1s"),
            ],
        )
        .await;
    let started = began.elapsed();
    until_each_has_work(&relays, limit).await;
    let working = began.elapsed();
    let of_start = (stage.requests("DescribeStream"), writes(&proxy));
    stage.until_published(AGGREGATES).await;
    let published = began.elapsed();
    eventually(limit, || async {
        match stage.streams.shards().unread() {
            0 => Ok(()),
            unread => Err(format!("{unread} shards were never read")),
        }
    })
    .await
    .unwrap();
    let read = began.elapsed();
    stage.commit_round(AGGREGATES, 2).await;
    stage.until_published(2 * AGGREGATES).await;
    println!(
        "{instances} instances, {retained} retained shards: processes started after {started:.1?}, each has work after {working:.1?} ({:?}, {} lease writes), events published after {published:.1?}, all shards read after {read:.1?}: {:?}, {} lease writes, {:?}",
        of_start.0,
        of_start.1,
        stage.requests("DescribeStream"),
        writes(&proxy),
        proxy.counts(),
    );
    assert!(working < limit, "{working:?}");
    assert_in_order(&stage.received().await, AGGREGATES, 2);
    for relay in &relays {
        let health = reqwest::get(relay.url("/healthz")).await.unwrap();
        assert_eq!(health.status(), 200, "{}", health.text().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_relays_that_start_at_once_on_a_thousand_retained_shards_all_get_work() {
    start_together(5, 1_000, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "20 processes for minutes"]
async fn twenty_relays_that_start_at_once_on_ten_thousand_retained_shards_all_get_work() {
    start_together(20, 10_000, Duration::from_secs(120)).await;
}

/// Stops and starts each of three relays, one after the other. Each step ends when the shards are
/// balanced again.
async fn rolling_restart(shards: usize, lease_duration: &str) {
    const RELAYS: usize = 3;
    const LIMIT: Duration = Duration::from_secs(30);
    let stage = ShardedStage::new(Shards::open(shards as u64), "events").await;
    let options = [
        ("RELAY_LEASE_DURATION", lease_duration),
        ("RELAY_POLL_MAX", "1s"),
    ];
    let mut relays = stage.group(RELAYS, &options).await;
    let balanced = stage.until_balanced(shards, RELAYS, 2 * LIMIT).await;
    println!("{shards} shards: balanced over {RELAYS} relays after {balanced:.1?}");
    let before = stage.ownership().await;
    for (n, relay) in relays.iter_mut().enumerate() {
        let began = Instant::now();
        assert!(relay.terminate().await.unwrap().success());
        let stopped = began.elapsed();
        let spread = stage.until_balanced(shards, RELAYS - 1, LIMIT).await;
        *relay = stage.relay(&format!("relay-{n}"), &options).await;
        let balanced = stage.until_balanced(shards, RELAYS, LIMIT).await;
        println!(
            "relay-{n} stopped in {stopped:.1?}; its shards spread in {spread:.1?}; balanced {balanced:.1?} after its start"
        );
    }
    let after = stage.ownership().await;
    let mut moved = BTreeMap::<u64, usize>::new();
    for (shard, (_, epoch)) in &after {
        *moved.entry(epoch - before[shard].1).or_default() += 1;
    }
    println!("shards by number of acquisitions: {moved:?}");
    assert!(moved.keys().all(|moves| *moves <= 2), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_moves_each_of_sixty_shards_at_most_twice() {
    rolling_restart(60, "4s").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "300 shards in debug builds occupy the machine"]
async fn a_rolling_restart_moves_each_of_three_hundred_shards_at_most_twice() {
    rolling_restart(300, "10s").await;
}

/// Counts the lease writes of relays whose shards all have new records all the time.
async fn lease_writes(shards: usize, instances: usize, most_per_second: f64) {
    /// Reads of each shard until the relays have adapted to the traffic, and during the count.
    const READS_BEFORE: u64 = 25;
    const READS_COUNTED: u64 = 50;
    const RECORD_INTERVAL: Duration = Duration::from_millis(500);
    let stage = ShardedStage::new(Shards::open(shards as u64), "events").await;
    let proxy = stage.stage.proxy().await;
    let options = [
        ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url()),
        ("RELAY_LEASE_DURATION", "10s"),
        ("RELAY_POLL_MIN", "400ms"),
        ("RELAY_POLL_MAX", "400ms"),
    ];
    let _relays = stage.group(instances, &options).await;
    stage
        .until_balanced(shards, instances, Duration::from_secs(90))
        .await;
    let mut ticks = tokio::time::interval(RECORD_INTERVAL);
    let traffic = async {
        loop {
            ticks.tick().await;
            stage.streams.shards().append_published_to_each();
        }
    };
    let count = async {
        let shards = shards as u64;
        stage.until_read(READS_BEFORE * shards).await;
        let (before, began) = (writes(&proxy), Instant::now());
        let reads = stage.until_read(READS_COUNTED * shards).await;
        (writes(&proxy) - before, reads, began.elapsed())
    };
    let (count, reads, took) = tokio::select! {
        count = count => count,
        () = traffic => unreachable!("the traffic does not end"),
    };
    let rate = |count: f64| count / took.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let (written, read) = (rate(count as f64), rate(reads as f64));
    println!(
        "{shards} busy shards, {instances} instances: {written:.0} lease writes/s, {read:.0} reads/s"
    );
    assert!(
        written < most_per_second,
        "{written:.0} lease writes a second"
    );
    assert!(
        written > 0.1 * shards as f64,
        "{written:.0} lease writes a second: the shards are not busy"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "1,000 shards in debug builds occupy the machine"]
async fn a_thousand_busy_shards_need_less_than_500_lease_writes_a_second() {
    lease_writes(1_000, 4, 500.0).await;
}
