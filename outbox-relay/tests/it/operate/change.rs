//! `retry`, `discard` and `replay`.

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Buckets;
use outbox::timestamp::Timestamp;
use test_support::eventually;

use super::{QUICK, failed, published, with};
use crate::support::{DEADLINE, Item, Stage, event, ids, string, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_event_is_published_in_its_trace_and_others_stay_failed() {
    let stage = Stage::new().await;
    let _relay = stage.quick_relay("relay-1").await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    stage
        .put(with(
            failed("o-1", 1, "refused"),
            "traceparent",
            traceparent,
        ))
        .await;
    stage.put(failed("o-2", 1, "refused")).await;
    let ran = stage.operate(&["retry", "o-1:1"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("retried"), "{ran:?}");
    let item = stage.until_status("o-1", 1, "PUBLISHED").await;
    assert!(item.contains_key("retried_at"));
    assert_eq!(
        string(&item, "failure"),
        Some("refused"),
        "its history is kept"
    );
    assert!(!item.contains_key("state_bucket"));
    let messages = stage.receive("order-events", 1).await;
    assert_eq!(ids(&messages), ["o-1:1"]);
    let attributes = messages[0].message_attributes().unwrap();
    assert_eq!(attributes["traceparent"].string_value(), Some(traceparent));
    assert!(!attributes.contains_key("replay"));
    assert_eq!(
        string(&stage.event("o-2", 1).await, "status"),
        Some("FAILED")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_event_does_not_wait_for_younger_pending_events() {
    let stage = Stage::new().await;
    let _relay = stage
        .relay(&[
            ("RELAY_ROUTES", "order.*=order-events,late.*=missing"),
            ("RELAY_LEASE_DURATION", "1s"),
            ("RELAY_SWEEP_INTERVAL", "1h"),
            ("RELAY_SWEEP_AFTER", "1h"),
        ])
        .await;
    let mut bad = failed("o-1", 1, "refused");
    // In its partition of the index the event comes after all pending ones, which are more than
    // one page of a query.
    let now = Timestamp::now();
    let earlier = Timestamp::from_millis(now.as_millis() - 60_000).to_string();
    bad.insert("occurred_at".to_owned(), text(now));
    stage.put(bad).await;
    let waiting = (0..350).map(|n| {
        let item = with(event(&format!("l-{n}"), 1), "event_type", "late.placed");
        let item = with(item, "occurred_at", &earlier);
        with(
            item,
            "state_bucket",
            &Buckets::default().partition_of("o-1"),
        )
    });
    stage.put_all(waiting.collect()).await;
    let ran = stage.operate(&["retry", "o-1:1"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // The sweep that the relay does at its start may still run, and end without this event: the
    // request is repeated, as an operator would.
    eventually(DEADLINE, || async {
        stage.ask_for_sweep().await;
        let item = stage.event("o-1", 1).await;
        anyhow::ensure!(string(&item, "status") == Some("PUBLISHED"), "{item:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["o-1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_of_events_that_are_not_failed_reports_them_unchanged() {
    let stage = Stage::without_queue().await;
    stage.put(event("pending", 1)).await;
    stage.put(published("done", 1)).await;
    stage.put(failed("bad", 1, "x")).await;
    let before = (
        stage.event("pending", 1).await,
        stage.event("done", 1).await,
    );
    let again = stage
        .operate(&["retry", "pending:1", "done:1", "-o", "json"])
        .await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let events = again.json()["events"].clone();
    assert_eq!(
        (&events[0]["changed"], &events[0]["status"]),
        (&false.into(), &"PENDING".into())
    );
    assert_eq!(
        (&events[1]["changed"], &events[1]["status"]),
        (&false.into(), &"PUBLISHED".into())
    );
    let after = (
        stage.event("pending", 1).await,
        stage.event("done", 1).await,
    );
    assert_eq!(before, after);
    // An unknown id does not keep the other events from being retried.
    let mixed = stage.operate(&["retry", "unknown:1", "bad:1"]).await;
    assert_eq!(mixed.code, Some(1), "{mixed:?}");
    assert!(
        mixed.stdout.contains("no event or aggregate `unknown:1`"),
        "{mixed:?}"
    );
    assert_eq!(
        string(&stage.event("bad", 1).await, "status"),
        Some("PENDING")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_of_all_failed_events_can_be_limited_to_a_reason() {
    let stage = Stage::without_queue().await;
    for n in 0..5 {
        stage
            .put(failed(&format!("route-{n}"), 1, "no route matches"))
            .await;
    }
    stage.put(failed("json", 1, "`payload` is not JSON")).await;
    let ran = stage
        .operate(&["retry", "--all-failed", "--reason", "no route"])
        .await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "5 retried\n"),
        "{ran:?}"
    );
    assert_eq!(stage.count("PENDING").await, 5);
    assert_eq!(stage.count("FAILED").await, 1);
    let missing = [("OUTBOX_TABLE", "nowhere")];
    let ran = stage
        .operate_with(&missing, &["retry", "--all-failed"])
        .await;
    assert_eq!(ran.code, Some(69), "{ran:?}");
    for wrong in [
        &["retry"][..],
        &["retry", "a:1", "--all-failed"],
        &["retry", "a:1", "--reason", "x"],
    ] {
        assert_eq!(stage.operate(wrong).await.code, Some(64), "{wrong:?}");
    }
}

/// Returns `item` with a filler attribute, so that `free` bytes remain of DynamoDB's 400 KiB.
fn filled(mut item: Item, free: usize) -> Item {
    let others: usize = item
        .iter()
        .map(|(name, value)| name.len() + value.as_s().map_or(2, String::len))
        .sum();
    let filler = 400 * 1024 - others - "filler".len() - free;
    item.insert("filler".to_owned(), text("x".repeat(filler)));
    item
}

/// Returns a failed event that was quarantined without the attributes of its failure, because its
/// item was too large for them.
fn without_history(aggregate_id: &str) -> Item {
    let mut item = failed(aggregate_id, 1, "x");
    for name in ["failed_at", "failure", "attempts"] {
        item.remove(name);
    }
    item
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_too_large_for_its_failure_history_is_retried_without_it() {
    let stage = Stage::without_queue().await;
    // `retried_at` and its time are 34 bytes; the longer status and bucket are 4.
    stage.put(filled(failed("full", 1, "x"), 10)).await;
    stage.put(filled(without_history("bare"), 10)).await;
    let ran = stage.operate(&["retry", "full:1", "bare:1"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (aggregate_id, has_time) in [("full", true), ("bare", false)] {
        let item = stage.event(aggregate_id, 1).await;
        assert_eq!(string(&item, "status"), Some("PENDING"));
        assert!(
            string(&item, "state_bucket")
                .unwrap()
                .starts_with("PENDING#")
        );
        assert!(!item.contains_key("failure"), "the failure is removed");
        assert_eq!(item.contains_key("retried_at"), has_time);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_too_large_for_its_failure_history_is_discarded_without_it() {
    let stage = Stage::without_queue().await;
    stage.put(filled(failed("full", 1, "x"), 10)).await;
    stage.put(filled(without_history("bare"), 10)).await;
    let arguments = ["discard", "full:1", "bare:1", "--reason", "too large"];
    let ran = stage.operate(&arguments).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (aggregate_id, reason) in [("full", Some("too large")), ("bare", None)] {
        let item = stage.event(aggregate_id, 1).await;
        assert_eq!(string(&item, "status"), Some("DISCARDED"));
        assert_eq!(string(&item, "discard_reason"), reason);
        assert_eq!(item.contains_key("discarded_at"), reason.is_some());
        for removed in ["state_bucket", "failure", "failed_at", "attempts"] {
            assert!(!item.contains_key(removed), "{removed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_event_is_kept_with_its_reason_and_never_sent() {
    let stage = Stage::new().await;
    stage.put(failed("o-1", 1, "refused")).await;
    stage.put(event("pending", 1)).await;
    let ran = stage
        .operate(&["discard", "o-1:1", "--reason", "sent by hand"])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let item = stage.event("o-1", 1).await;
    assert_eq!(string(&item, "status"), Some("DISCARDED"));
    assert_eq!(string(&item, "discard_reason"), Some("sent by hand"));
    assert!(item.contains_key("payload") && item.contains_key("discarded_at"));
    assert!(!item.contains_key("state_bucket") && !item.contains_key("expires_at"));
    let again = stage
        .operate(&["discard", "o-1:1", "--reason", "again"])
        .await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(stage.event("o-1", 1).await, item, "the first reason stays");
    let pending = stage
        .operate(&["discard", "pending:1", "--reason", "x"])
        .await;
    assert_eq!(pending.code, Some(0), "{pending:?}");
    let item = stage.event("pending", 1).await;
    assert_eq!(string(&item, "status"), Some("DISCARDED"));
    assert!(!item.contains_key("state_bucket"));
    let retried = stage.operate(&["retry", "o-1:1"]).await;
    assert_eq!(retried.code, Some(1), "{retried:?}");
    assert!(
        retried.stdout.contains("the event is DISCARDED"),
        "{retried:?}"
    );
    for wrong in [
        &["discard", "o-1:1"][..],
        &["discard", "o-1:1", "--reason", " "],
    ] {
        assert_eq!(stage.operate(wrong).await.code, Some(64), "{wrong:?}");
    }
    // The successor in its aggregate does not wait for the discarded event.
    let _relay = stage.quick_relay("relay-1").await;
    stage.put(event("o-1", 2)).await;
    stage.until_status("o-1", 2, "PUBLISHED").await;
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["o-1:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_published_events_again_with_the_replay_attribute() {
    let stage = Stage::new().await;
    for sequence in [1, 2, 4] {
        stage.put(published("o-1", sequence)).await;
    }
    stage.put(failed("o-1", 3, "x")).await;
    let _relay = stage.quick_relay("relay-1").await;
    let unconfirmed = stage.operate(&["replay", "--aggregate", "o-1"]).await;
    assert_eq!(unconfirmed.code, Some(64), "{unconfirmed:?}");
    assert!(unconfirmed.stderr.contains("--yes"), "{unconfirmed:?}");
    let arguments = [
        "replay",
        "--aggregate",
        "o-1",
        "--from-sequence",
        "2",
        "--yes",
    ];
    let ran = stage.operate(&arguments).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "2 replayed, 1 not published\n"),
        "{ran:?}"
    );
    let messages = stage.receive("order-events", 2).await;
    assert_eq!(ids(&messages), ["o-1:2", "o-1:4"]);
    for message in &messages {
        let attributes = message.message_attributes().unwrap();
        assert_eq!(attributes["replay"].string_value(), Some("1"));
    }
    let item = stage.until_status("o-1", 4, "PUBLISHED").await;
    assert_eq!(item["replays"], AttributeValue::N("1".to_owned()));
    assert_ne!(
        item["expires_at"],
        AttributeValue::N("4102444800".to_owned())
    );
    assert!(!stage.event("o-1", 1).await.contains_key("replays"));
    let unknown = stage
        .operate(&["replay", "--aggregate", "unknown", "--yes"])
        .await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shortens_full_items_and_skips_one_that_cannot_be_shortened() {
    let stage = Stage::without_queue().await;
    let bare = |sequence, names: &[&str]| {
        let mut item = published("o-1", sequence);
        for name in names {
            item.remove(*name);
        }
        item
    };
    // The longer status and bucket and `replays` are 15 bytes more than the removed `expires_at`;
    // `replayed_at` and its time are 35.
    stage.put(filled(published("o-1", 1), 10)).await;
    stage.put(filled(bare(2, &["published_at"]), 10)).await;
    let stuck = filled(bare(3, &["published_at", "message_id"]), 10);
    stage.put(stuck.clone()).await;
    stage.put(published("o-1", 4)).await;
    let arguments = ["replay", "--aggregate", "o-1", "--yes"];
    let ran = stage.operate(&arguments).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(1), "3 replayed, 1 too large to be changed\n"),
        "{ran:?}"
    );
    assert_eq!(stage.event("o-1", 3).await, stuck);
    for (sequence, has_time, is_whole) in [(1, true, false), (2, false, false), (4, true, true)] {
        let item = stage.event("o-1", sequence).await;
        assert_eq!(string(&item, "status"), Some("PENDING"));
        assert_eq!(item["replays"], AttributeValue::N("1".to_owned()));
        assert_eq!(item.contains_key("replayed_at"), has_time, "{sequence}");
        assert_eq!(item.contains_key("message_id"), is_whole, "{sequence}");
        assert_eq!(item.contains_key("published_at"), is_whole, "{sequence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_passes_the_deduplication_of_a_fifo_queue() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    let mut environment = QUICK.to_vec();
    environment.push(("RELAY_ROUTES", "*=events.fifo"));
    let _relay = stage.relay(&environment).await;
    stage.put(event("o-1", 1)).await;
    assert_eq!(ids(&stage.receive("events.fifo", 1).await), ["o-1:1"]);
    stage.until_status("o-1", 1, "PUBLISHED").await;
    let ran = stage
        .operate(&["replay", "--aggregate", "o-1", "--yes"])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ids(&stage.receive("events.fifo", 1).await), ["o-1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_event_is_not_sent_by_a_relay_that_rereads_the_stream() {
    let stage = Stage::new().await;
    stage.create_queue("later").await;
    let mut first = stage.relay(&[("RELAY_ROUTES", "*=!quarantine")]).await;
    stage.put(event("o-1", 1)).await;
    stage.until_status("o-1", 1, "FAILED").await;
    first.terminate().await.unwrap();
    let ran = stage
        .operate(&["discard", "o-1:1", "--reason", "not wanted"])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let _second = stage
        .relay(&[
            ("RELAY_CONSUMER_GROUP", "other"),
            ("RELAY_ROUTES", "*=later"),
        ])
        .await;
    stage.put(event("o-2", 1)).await;
    assert_eq!(ids(&stage.receive("later", 1).await), ["o-2:1"]);
}
