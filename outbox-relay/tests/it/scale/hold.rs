//! One event in each of many aggregates that can never be sent, and a relay that keeps the order
//! (`RELAY_ON_FAILURE=hold`).

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{self, StreamExt};
use test_support::eventually;

use super::load::SteadyLoad;
use super::sends::SqsRecorder;
use super::{Memory, sum_of};
use crate::support::{Item, Stage, event, text};

const SEQUENCES: u64 = 20;
const STEADY: u32 = 100;
const MAX_LAG: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 1 });

/// Time limit for the publication of what can be sent, before and after the retry.
const PATIENCE: Duration = Duration::from_secs(240);

/// Returns the sequence of the event of aggregate `n` that can never be sent.
const fn poisoned(n: u64) -> u64 {
    n % SEQUENCES + 1
}

/// Returns the events of all aggregates, round by round.
fn items(aggregates: u64) -> impl Iterator<Item = Item> {
    (1..=SEQUENCES).flat_map(move |sequence| {
        (0..aggregates).map(move |n| {
            let mut item = event(&format!("blocked-{n}"), sequence);
            if sequence == poisoned(n) {
                item.insert("payload".to_owned(), text("not JSON"));
            }
            item
        })
    })
}

impl Stage {
    /// Replaces the payload of an event that can never be sent, as an operator does.
    async fn mend(&self, n: u64) {
        self.dynamodb
            .update_item()
            .table_name("outbox")
            .key("aggregate_id", text(format!("blocked-{n}")))
            .key("sequence", AttributeValue::N(poisoned(n).to_string()))
            .update_expression("SET payload = :payload")
            .expression_attribute_values(":payload", text("{}"))
            .send()
            .await
            .unwrap();
    }
}

/// Runs `aggregates` with one such event each, which are retried after `pause`.
async fn run(aggregates: u64, rate: u32, pause: Duration) {
    let stage = Stage::new().await;
    let sqs = SqsRecorder::start(&stage).await;
    let relay = stage
        .relay(&[
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("RELAY_ON_FAILURE", "hold"),
            ("RELAY_LEASE_DURATION", "2s"),
            ("RELAY_SWEEP_INTERVAL", "2s"),
        ])
        .await;
    let mut steady = SteadyLoad::start(&stage, STEADY);
    let began = Instant::now();
    stage.write_paced(items(aggregates), rate).await;
    let before: u64 = (0..aggregates).map(|n| poisoned(n) - 1).sum();
    let before = usize::try_from(before).unwrap();
    sqs.until_sent("blocked-", before, PATIENCE).await;
    eventually(PATIENCE, || async {
        match sum_of(&relay, "outbox_events_quarantined_total").await {
            count if count == aggregates => Ok(()),
            count => Err(format!("{count} of {aggregates} are quarantined")),
        }
    })
    .await
    .unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(250));
    let paused = Instant::now();
    while paused.elapsed() < pause {
        looks.tick().await;
        assert_eq!(
            sqs.sends().count("blocked-"),
            before,
            "successors were sent"
        );
    }
    let (count, blocked_lag) = steady.lag(&sqs.sends(), began, Instant::now());

    let retried = Instant::now();
    let mends = stream::iter(0..aggregates).map(|n| stage.mend(n));
    mends.buffer_unordered(4).collect::<Vec<_>>().await;
    let retry = stage.operate(&["retry", "--all-failed"]).await;
    assert_eq!(retry.code, Some(0), "{retry:?}");
    let all = usize::try_from(aggregates * SEQUENCES).unwrap();
    sqs.until_sent("blocked-", all, PATIENCE).await;
    let followed = retried.elapsed();
    let (after, lag) = steady.lag(&sqs.sends(), retried, Instant::now());
    steady.stop().await;
    eventually(PATIENCE, || async {
        match stage.pending().await {
            0 => Ok(()),
            pending => Err(format!("{pending} events are pending")),
        }
    })
    .await
    .unwrap();
    let sends = sqs.sends();
    println!(
        "{aggregates} blocked aggregates: p99 lag of {count} other events {blocked_lag:.0?} while they are blocked, of {after} after the retry {lag:.0?}; all follow in {followed:.1?}; {} repeats, {:?}",
        sends.repeats,
        Memory::of(&relay)
    );
    assert!(
        sends.out_of_order.is_empty(),
        "{} events out of order, such as {:?}",
        sends.out_of_order.len(),
        &sends.out_of_order[..sends.out_of_order.len().min(5)]
    );
    assert_eq!(sends.repeats, 0);
    assert!(
        blocked_lag < MAX_LAG && lag < MAX_LAG,
        "{blocked_lag:?}, {lag:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_aggregates_delay_no_others_and_continue_in_order_after_a_retry() {
    run(60, 600, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn a_thousand_blocked_aggregates_delay_no_others_and_continue_in_order_after_a_retry() {
    run(1_000, 1_000, Duration::from_secs(60)).await;
}
