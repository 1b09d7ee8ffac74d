use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, StreamSpecification, StreamViewType};
use test_support::{Call, Fault, eventually};

use crate::support::{DEADLINE, Item, Stage, event, ids, string, text, until_answer};

/// Returns `true` if the request reads the index of pending events.
fn reads_index(call: &Call<'_>) -> bool {
    call.operation == "Query" && call.body.contains("by_state")
}

async fn until_at_least(count: &AtomicUsize, least: usize) {
    eventually(DEADLINE, || async {
        let count = count.load(Ordering::Relaxed);
        (count >= least).then_some(()).ok_or(count)
    })
    .await
    .unwrap();
}

/// Returns an event of which the pending ones are in the first bucket.
fn in_first_bucket(aggregate: &str) -> Item {
    let mut item = event(aggregate, 1);
    item.insert("state_bucket".to_owned(), text("PENDING#0"));
    item
}

/// Writes pending events that are not in the stream, like those of a shard that cannot be read.
async fn put_stuck(stage: &Stage, count: usize) {
    stream(stage, false).await;
    let stuck = (0..count).map(|n| in_first_bucket(&format!("stuck-{n}")));
    stage.put_all(stuck.collect()).await;
    stream(stage, true).await;
}

async fn stream(stage: &Stage, enabled: bool) {
    let specification = StreamSpecification::builder().stream_enabled(enabled);
    let specification = if enabled {
        specification.stream_view_type(StreamViewType::NewImage)
    } else {
        specification
    };
    stage
        .dynamodb
        .update_table()
        .table_name("outbox")
        .stream_specification(specification.build().unwrap())
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_missing_from_the_stream_are_swept_in_order() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    stream(&stage, false).await;
    stage
        .put_all((1..=30).map(|sequence| event("a", sequence)).collect())
        .await;
    let mut bad = event("bad", 1);
    bad.insert("payload".to_owned(), text("{oops"));
    stage.put(bad).await;
    stream(&stage, true).await;
    let relay = stage
        .relay(&[
            ("RELAY_ROUTES", "*=events.fifo"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
            ("RELAY_SWEEP_AFTER", "1s"),
        ])
        .await;
    stage.until_count("PUBLISHED", 30).await;
    stage.until_status("bad", 1, "FAILED").await;
    let expected: Vec<_> = (1..=30).map(|sequence| format!("a:{sequence}")).collect();
    assert_eq!(ids(&stage.receive("events.fifo", 30).await), expected);
    let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = r#"outbox_events_published_total{path="sweep",queue="events.fifo"} 30"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_skips_events_that_the_stream_delivers() {
    let stage = Stage::new().await;
    let relay = stage
        .relay(&[
            ("RELAY_SWEEP_INTERVAL", "100ms"),
            ("RELAY_SWEEP_AFTER", "200ms"),
        ])
        .await;
    for n in 0..200 {
        stage.put(event(&format!("a-{n}"), 1)).await;
    }
    stage.until_count("PUBLISHED", 200).await;
    assert_eq!(stage.receive("order-events", 200).await.len(), 200);
    let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
    assert!(!metrics.text().await.unwrap().contains(r#"path="sweep""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_predecessor_is_not_in_the_stream_waits_for_it() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    stream(&stage, false).await;
    stage.put(event("a", 1)).await;
    stream(&stage, true).await;
    stage.put(event("a", 2)).await;
    let _relay = stage
        .relay(&[
            ("RELAY_ROUTES", "*=events.fifo"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
            ("RELAY_SWEEP_AFTER", "1s"),
        ])
        .await;
    let received = ids(&stage.receive("events.fifo", 2).await);
    assert_eq!(received, ["a:1", "a:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_retry_is_published_by_the_requested_sweep() {
    let stage = Stage::new().await;
    let _relay = stage
        .relay(&[
            ("RELAY_LEASE_DURATION", "1s"),
            ("RELAY_SWEEP_INTERVAL", "1h"),
            ("RELAY_SWEEP_AFTER", "1h"),
        ])
        .await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);
    let mut again = event("a", 1);
    again.insert("replayed_at".to_owned(), text("2026-01-01T00:00:00.000Z"));
    again.insert("replays".to_owned(), AttributeValue::N("1".to_owned()));
    stage.put(again).await;
    // The relay's first sweep may still be running, or its lease not be created yet. An operator
    // would request the sweep again as well.
    eventually(DEADLINE, || async {
        stage.ask_for_sweep().await;
        let item = stage.event("a", 1).await;
        anyhow::ensure!(string(&item, "status") == Some("PUBLISHED"), "{item:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_with_old_times_is_left_to_the_stream() {
    let stage = Stage::new().await;
    let old = |n: usize| {
        let mut event = event(&format!("a-{n}"), 1);
        event.insert("occurred_at".to_owned(), text("2020-01-01T00:00:00.000Z"));
        event
    };
    stage.put_all((0..3_000).map(old).collect()).await;
    let relay = stage
        .relay(&[
            ("RELAY_SWEEP_INTERVAL", "100ms"),
            ("RELAY_SWEEP_AFTER", "200ms"),
        ])
        .await;
    stage.until_count("PUBLISHED", 3_000).await;
    assert_eq!(stage.receive("order-events", 3_000).await.len(), 3_000);
    let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
    assert!(!metrics.text().await.unwrap().contains(r#"path="sweep""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_the_future_is_swept_like_others() {
    let stage = Stage::new().await;
    stream(&stage, false).await;
    let mut event = event("a", 1);
    event.insert("occurred_at".to_owned(), text("2099-01-01T00:00:00.000Z"));
    stage.put(event).await;
    stream(&stage, true).await;
    let _relay = stage
        .relay(&[
            ("RELAY_LEASE_DURATION", "2s"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
            ("RELAY_SWEEP_AFTER", "1s"),
        ])
        .await;
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);
}

/// The index shows which events are pending and not which of them are deferred.
#[tokio::test(flavor = "multi_thread")]
async fn deferred_events_behind_the_backlog_of_a_stuck_shard_are_published() {
    let stage = Stage::new().await;
    put_stuck(&stage, 1_100).await;
    put_marked(&stage, in_first_bucket("deferred"), "deferred_at").await;
    let _relay = stage
        .relay(&[
            ("RELAY_SWEEP_INTERVAL", "100ms"),
            ("RELAY_SWEEP_AFTER", "1h"),
        ])
        .await;
    stage.until_status("deferred", 1, "PUBLISHED").await;
    assert_eq!(stage.count("PENDING").await, 1_100);
}

/// Writes an event that no reader of the stream sends: only the insertion is a record that they
/// read, and it was published then. Then adds the attribute `mark`.
async fn put_marked(stage: &Stage, mut item: Item, mark: &str) {
    let pending = item.insert("status".to_owned(), text("PUBLISHED")).unwrap();
    let bucket = item.remove("state_bucket").unwrap();
    stage.put(item.clone()).await;
    item.insert("status".to_owned(), pending);
    item.insert("state_bucket".to_owned(), bucket);
    let at = outbox::timestamp::Timestamp::now();
    item.insert(mark.to_owned(), text(at));
    stage.put(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_the_pause_after_an_outage_of_the_table() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    proxy.rule(move |call| {
        if reads_index(&call) {
            counter.fetch_add(1, Ordering::Relaxed);
            Fault::refuse("ProvisionedThroughputExceededException")
        } else {
            Fault::Pass
        }
    });
    let options = [
        ("RELAY_LEASE_DURATION", "1s"),
        ("RELAY_SWEEP_INTERVAL", "1h"),
    ];
    let relay = stage.relay_behind(&proxy, &options).await;
    until_answer(&relay, "/readyz", 503, "pending events").await;
    // The first walk of each of eight sweepers waits for the table.
    until_at_least(&refused, 8 * 6).await;
    proxy.heal();
    until_answer(&relay, "/readyz", 200, "").await;
    put_marked(&stage, event("a", 1), "retried_at").await;
    let asked_at = Instant::now();
    stage.ask_for_sweep().await;
    stage.until_status("a", 1, "PUBLISHED").await;
    let took = asked_at.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_not_lost_to_the_interval() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let options = [
        ("RELAY_LEASE_DURATION", "1s"),
        ("RELAY_SWEEP_INTERVAL", "100ms"),
        ("RELAY_SWEEP_AFTER", "1h"),
    ];
    let relay = stage.relay_behind(&proxy, &options).await;
    until_answer(&relay, "/readyz", 200, "").await;
    // As if the index were large: a walk lasts longer than the interval.
    let delayed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&delayed);
    proxy.rule(move |call| {
        if reads_index(&call) {
            counter.fetch_add(1, Ordering::Relaxed);
            Fault::Delay(Duration::from_millis(40))
        } else {
            Fault::Pass
        }
    });
    let until_next_walks = || until_at_least(&delayed, delayed.load(Ordering::Relaxed) + 64);
    until_next_walks().await;
    for n in 0..3 {
        let id = format!("a-{n}");
        put_marked(&stage, event(&id, 1), "deferred_at").await;
        let asked_at = Instant::now();
        stage.ask_for_sweep().await;
        stage.until_status(&id, 1, "PUBLISHED").await;
        let took = asked_at.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        // The next walk finds nothing.
        until_next_walks().await;
    }
}

/// A walk reads 5 pages of young events of each bucket, and looks for marked ones behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_retried_event_behind_a_young_backlog_is_published() {
    let stage = Stage::new().await;
    put_stuck(&stage, 3_100).await;
    let relay = stage
        .relay(&[
            ("RELAY_LEASE_DURATION", "1s"),
            ("RELAY_SWEEP_INTERVAL", "1h"),
            ("RELAY_SWEEP_AFTER", "1h"),
        ])
        .await;
    until_answer(&relay, "/readyz", 200, "").await;
    put_marked(&stage, in_first_bucket("retried"), "retried_at").await;
    stage.ask_for_sweep().await;
    stage.until_status("retried", 1, "PUBLISHED").await;
    assert_eq!(stage.count("PENDING").await, 3_100);
}
