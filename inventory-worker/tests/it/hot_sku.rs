//! One SKU that all orders need, three workers, and transactions that conflict as on AWS: an item
//! inside a running transaction makes every other write of it fail.
//!
//! `cargo test --release -p inventory-worker --test it hot_sku -- --nocapture` prints what it
//! measures.

use std::time::Duration;

use futures::future::join_all;
use local_cloud::Fidelity;
use shared::order::{Order, OrderStatus};
use test_support::{Service, eventually};
use tokio::time::Instant;

use crate::support::{DEADLINE, TestCloud, message, metric};

/// Time for which a transaction holds its items.
const TRANSACTION_TIME: Duration = Duration::from_millis(12);

const HOT: &[(&str, u64)] = &[("HOT", 1)];

const WORKERS: usize = 3;

/// Required orders per second. An unoptimised build shares the machine with other tests; the rate
/// must exceed that of one transaction after another, each with its conflicts: 38 a second.
const REQUIRED: f64 = if cfg!(debug_assertions) { 100.0 } else { 300.0 };

/// Allowed ratio of the latencies of other orders, with orders of one SKU beside them to without.
const ALLOWED_RATIO: u32 = if cfg!(debug_assertions) { 4 } else { 2 };

/// Interval between orders for another SKU.
const INTERVAL: Duration = Duration::from_millis(40);

async fn start(stock: &[(&str, u64)]) -> (TestCloud, Vec<Service>) {
    let config = local_cloud::Config {
        fidelity: Fidelity {
            transaction_time: Some(TRANSACTION_TIME),
            ..Fidelity::default()
        },
        ..local_cloud::Config::default()
    };
    let cloud = TestCloud::start_with(config, stock).await;
    let quiet = [("RUST_LOG", "info")];
    let workers = join_all((0..WORKERS).map(|_| cloud.worker(&quiet))).await;
    (cloud, workers)
}

async fn place_all(cloud: &TestCloud, count: usize) -> Vec<Order> {
    let mut orders = Vec::new();
    for _ in 0..count / 25 {
        orders.extend(join_all((0..25).map(|_| cloud.place(HOT))).await);
    }
    orders
}

/// Waits until this many pieces of the hot SKU are reserved.
async fn reserved(cloud: &TestCloud, pieces: i64) {
    let reserved = eventually(Duration::from_secs(120), || async {
        match cloud.stock("HOT").await {
            (_, reserved) if reserved == pieces => Ok(()),
            stock => Err(stock),
        }
    });
    reserved.await.unwrap();
}

async fn sum(workers: &[Service], sample: &str) -> f64 {
    let values = workers.iter().map(|worker| metric(worker, sample));
    join_all(values).await.into_iter().sum()
}

/// Asserts that each order was decided by its first delivery.
async fn each_once(cloud: &TestCloud, workers: &[Service], orders: usize) {
    cloud.drained().await;
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    for (outcome, count) in [
        ("processed", orders as f64),
        ("duplicate", 0.0),
        ("failed", 0.0),
        ("unreadable", 0.0),
    ] {
        let sample = format!("orders_processed_total{{outcome=\"{outcome}\"}}");
        assert_eq!(sum(workers, &sample).await, count, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_process_hundreds_of_orders_a_second_of_one_sku() {
    const ORDERS: usize = 2_000;
    let (cloud, workers) = start(&[("HOT", 1_000_000)]).await;
    let orders = place_all(&cloud, ORDERS).await;
    let messages: Vec<_> = orders.iter().map(message).collect();

    let started = Instant::now();
    cloud.send(&messages).await;
    reserved(&cloud, ORDERS as i64).await;
    let took = started.elapsed();

    let rate = ORDERS as f64 / took.as_secs_f64();
    let conflicts = sum(&workers, r#"worker_retries_total{kind="conflict"}"#).await;
    println!("{ORDERS} orders in {took:.1?}: {rate:.0}/s, {conflicts} conflicts");
    assert!(rate >= REQUIRED, "{rate}");
    each_once(&cloud, &workers, ORDERS).await;
    cloud.all(&orders, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("HOT").await, (998_000, 2_000));
}

/// Places orders for other SKUs at intervals. Returns the times from sending their messages to
/// their decisions, sorted.
async fn latencies(cloud: &TestCloud, count: usize) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for n in 0..count {
        let sku = format!("COLD-{}", n % 10);
        let order = cloud.place(&[(&sku, 1)]).await;
        let sent = Instant::now();
        cloud.send(&[message(&order)]).await;
        let decided = async {
            while cloud.order(&order).await.status == OrderStatus::Created {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, decided).await;
        assert!(in_time.is_ok(), "{order:?} is still not decided");
        latencies.push(sent.elapsed());
        tokio::time::sleep_until(sent + INTERVAL).await;
    }
    latencies.sort_unstable();
    latencies
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_for_other_skus_take_about_their_usual_time() {
    const COLD: usize = 100;
    const HOT_PER_INTERVAL: usize = 12;
    let names: Vec<_> = (0..10).map(|n| format!("COLD-{n}")).collect();
    let mut stock: Vec<_> = names.iter().map(|sku| (sku.as_str(), 1_000)).collect();
    stock.push(("HOT", 1_000_000));
    let (cloud, workers) = start(&stock).await;
    latencies(&cloud, 20).await;
    let usual = latencies(&cloud, COLD).await;

    let orders = place_all(&cloud, 12 * 125).await;
    let messages: Vec<_> = orders.iter().map(message).collect();
    let started = Instant::now();
    let hot = async {
        let mut interval = tokio::time::interval(INTERVAL);
        for batch in messages.chunks(HOT_PER_INTERVAL) {
            interval.tick().await;
            cloud.send(batch).await;
        }
        reserved(&cloud, orders.len() as i64).await;
        orders.len() as f64 / started.elapsed().as_secs_f64()
    };
    let (others, rate) = tokio::join!(latencies(&cloud, COLD), hot);

    let conflicts = sum(&workers, r#"worker_retries_total{kind="conflict"}"#).await;
    let of = |latencies: &[Duration]| (latencies[COLD / 2], latencies[COLD * 95 / 100]);
    println!(
        "p50 and p95 of other orders: {:?} without, {:?} with {rate:.0} orders/s of one SKU, {conflicts} conflicts",
        of(&usual),
        of(&others)
    );
    assert!(others[COLD / 2] <= usual[COLD / 2] * ALLOWED_RATIO);
    each_once(&cloud, &workers, orders.len() + 20 + 2 * COLD).await;
}
