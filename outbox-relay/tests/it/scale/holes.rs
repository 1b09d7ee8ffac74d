//! Aggregates with a long history whose sequences have holes, such as epoch milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use test_support::{Fault, Proxy, eventually};

use crate::support::{Item, Stage, event, text};

/// First sequence, and the distance between two.
const EPOCH_MILLIS: u64 = 1_790_000_000_000;
const STEP: u64 = 37;

/// Number of events that are pending at the start, and of those that follow.
const PENDING: usize = 50;

/// Requests to the table for each event, apart from its mark: one for its predecessor's status and
/// one for the nearest earlier item.
const REQUESTS_PER_EVENT: usize = 2;

/// Requests that do not depend on the number of events, such as those after a takeover.
const OTHER_REQUESTS: usize = 10;

fn sequence(n: usize) -> u64 {
    EPOCH_MILLIS + STEP * u64::try_from(n).unwrap()
}

fn published(n: usize) -> Item {
    let mut item = event("history", sequence(n));
    item.remove("state_bucket");
    item.insert("status".to_owned(), text("PUBLISHED"));
    // A thousand of them are a page of a query.
    item.insert(
        "payload".to_owned(),
        text(format!("\"{}\"", "x".repeat(1_000))),
    );
    item
}

/// Counts the reads of base items: by their keys, and in the order of an aggregate.
async fn counting_proxy(stage: &Stage) -> (Proxy, Arc<AtomicUsize>) {
    let proxy = stage.proxy().await;
    let reads = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&reads);
    proxy.rule(move |call| {
        let is_read = match call.operation {
            "Query" => !call.body.contains("by_state") && !call.body.contains("relay_leases"),
            "BatchGetItem" | "GetItem" => true,
            _ => false,
        };
        if is_read {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Fault::Pass
    });
    (proxy, reads)
}

/// Publishes events after a history of `items` published ones.
async fn run(items: usize) {
    let patience =
        Duration::from_secs(30) + Duration::from_millis(4) * u32::try_from(items).unwrap();
    let stage = Stage::new().await;
    stage.write_paced((0..items).map(published), 100_000).await;
    let pending = |from: usize| (from..from + PENDING).map(|n| event("history", sequence(n)));
    stage.put_all(pending(items).collect()).await;
    let (proxy, reads) = counting_proxy(&stage).await;
    let began = Instant::now();
    let relay = stage
        .relay_behind(&proxy, &[("RELAY_SWEEP_AFTER", "1h")])
        .await;
    let until_published = || async {
        eventually(patience, || async {
            match stage.pending().await {
                0 => Ok(()),
                pending => Err(format!("{pending} events are pending")),
            }
        })
        .await
        .unwrap();
    };
    until_published().await;
    let (cold, took_cold) = (reads.swap(0, Ordering::Relaxed), began.elapsed());
    let began = Instant::now();
    stage.put_all(pending(items + PENDING).collect()).await;
    until_published().await;
    let (warm, took_warm) = (reads.load(Ordering::Relaxed), began.elapsed());
    println!(
        "{items} published items of the aggregate: {cold} reads and {took_cold:.1?} for {PENDING} events after the start, {warm} reads and {took_warm:.1?} for {PENDING} more; {:?}",
        super::Memory::of(&relay)
    );
    let most = REQUESTS_PER_EVENT * PENDING + OTHER_REQUESTS;
    assert!(cold <= most, "{cold} reads");
    assert!(warm <= most, "{warm} reads");
    let received = stage.receive("order-events", 2 * PENDING).await;
    assert_eq!(received.len(), 2 * PENDING);
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_after_five_thousand_events_cost_a_constant_number_of_requests() {
    run(5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn holes_after_fifty_thousand_events_cost_a_constant_number_of_requests() {
    run(50_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn holes_after_a_hundred_thousand_events_cost_a_constant_number_of_requests() {
    run(100_000).await;
}
