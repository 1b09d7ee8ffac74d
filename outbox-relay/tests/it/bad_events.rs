use aws_sdk_dynamodb::types::AttributeValue;
use test_support::{Call, Fault, eventually};

use crate::support::{DEADLINE, Item, Stage, event, ids, string, text, until_answer};

fn changed(aggregate_id: &str, name: &str, value: AttributeValue) -> Item {
    let mut item = event(aggregate_id, 1);
    item.insert(name.to_owned(), value);
    item
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_event_is_quarantined_with_its_reason_and_blocks_no_other() {
    let stage = Stage::new().await;
    let number = || AttributeValue::N("1".to_owned());
    let mut no_payload = event("no-payload", 1);
    no_payload.remove("payload");
    let mut retried_at_number = changed("retried-at-number", "retried_at", number());
    retried_at_number.remove("payload");
    let cases = [
        (no_payload, "`payload` is missing"),
        (
            changed("payload-number", "payload", number()),
            "`payload` must be a string (S), not a number (N)",
        ),
        (
            changed("not-json", "payload", text("{oops")),
            "`payload` is not JSON",
        ),
        (
            changed("nul", "event_type", text("order.\0")),
            "`event_type` contains U+0000, which SQS rejects",
        ),
        (
            changed("noncharacter", "payload", text("\"\u{FFFE}\"")),
            "`payload` contains U+FFFE, which SQS rejects",
        ),
        (
            changed("unwanted", "event_type", text("stock.moved")),
            "RELAY_ROUTES quarantines the event type `stock.moved`",
        ),
        (
            changed("long-type", "event_type", text("x".repeat(380_000))),
            "RELAY_ROUTES quarantines the event type `xxx",
        ),
        (
            changed("long-id", "event_id", text("x".repeat(500))),
            "`event_id` has 500 characters",
        ),
        (
            changed("replays-text", "replays", text("1")),
            "`replays` must be missing or a whole number (N) of at least 0",
        ),
        (
            changed(
                "replays-negative",
                "replays",
                AttributeValue::N("-1".to_owned()),
            ),
            "`replays` must be missing or a whole number (N) of at least 0",
        ),
        (retried_at_number, "`payload` is missing"),
    ];
    for (item, _) in &cases {
        stage.put(item.clone()).await;
        // A valid event of the same aggregate follows directly.
        stage
            .put(event(string(item, "aggregate_id").unwrap(), 2))
            .await;
    }
    let routes = "order.*=order-events,*=!quarantine";
    let relay = stage.relay(&[("RELAY_ROUTES", routes)]).await;
    for (item, reason) in &cases {
        let aggregate_id = string(item, "aggregate_id").unwrap();
        let failed = stage.until_status(aggregate_id, 1, "FAILED").await;
        let failure = string(&failed, "failure").unwrap();
        assert!(failure.contains(reason), "{aggregate_id}: {failure}");
        assert!(failure.len() < 512, "{aggregate_id}: {}", failure.len());
        assert_eq!(string(&failed, "state_bucket"), Some("FAILED"));
        assert!(failed.contains_key("failed_at"));
        assert!(failed.contains_key("attempts"));
        assert_eq!(failed.get("payload"), item.get("payload"));
        assert!(!failed.contains_key("expires_at"));
        stage.until_status(aggregate_id, 2, "PUBLISHED").await;
    }
    let received = ids(&stage.receive("order-events", cases.len()).await);
    assert_eq!(received.len(), cases.len());
    assert!(received.iter().all(|id| id.ends_with(":2")));
    let longest = relay.log().lines().map(str::len).max().unwrap();
    assert!(longest < 4_096, "{longest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_an_invalid_sequence_is_quarantined() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[]).await;
    stage
        .put(changed(
            "o-1",
            "sequence",
            AttributeValue::N("0".to_owned()),
        ))
        .await;
    let failed = stage.until_status("o-1", 0, "FAILED").await;
    assert!(string(&failed, "failure").unwrap().contains("`sequence`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_are_split_over_batches() {
    let stage = Stage::new().await;
    // The embedded queue accepts messages of up to 256 KiB.
    let payload = format!("\"{}\"", "x".repeat(250_000));
    for n in 0..6 {
        stage
            .put(changed(&format!("o-{n}"), "payload", text(&payload)))
            .await;
    }
    let _relay = stage.relay(&[]).await;
    stage.until_count("PUBLISHED", 6).await;
    assert_eq!(stage.receive("order-events", 6).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_its_queue_rejects_is_quarantined_alone() {
    let stage = Stage::new().await;
    let payload = format!("\"{}\"", "x".repeat(390_000));
    stage.put(changed("large", "payload", text(&payload))).await;
    stage
        .put_all((0..9).map(|n| event(&format!("o-{n}"), 1)).collect())
        .await;
    let _relay = stage.relay(&[]).await;
    stage.until_count("PUBLISHED", 9).await;
    let failed = stage.until_status("large", 1, "FAILED").await;
    assert!(string(&failed, "failure").unwrap().contains("262144 bytes"));
    assert_eq!(string(&failed, "payload"), Some(payload.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_not_an_event_is_left_unchanged() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[]).await;
    let mut foreign = event("foreign", 1);
    foreign.retain(|name, _| name == "aggregate_id" || name == "sequence");
    stage.put(foreign.clone()).await;
    stage.put(event("o-1", 1)).await;
    stage.until_status("o-1", 1, "PUBLISHED").await;
    assert_eq!(stage.event("foreign", 1).await, foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_too_large_for_its_mark_gets_its_status_only() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[]).await;
    // DynamoDB accepts items of up to 400 KiB; a mark adds about 80 bytes.
    let filler = text("x".repeat(409_400));
    stage.put(changed("full", "filler", filler.clone())).await;
    let mut bad = changed("bad", "filler", filler);
    bad.insert("payload".to_owned(), text("{"));
    stage.put(bad).await;
    stage.put(event("next", 1)).await;
    stage.until_status("next", 1, "PUBLISHED").await;
    let full = stage.until_status("full", 1, "PUBLISHED").await;
    assert!(!full.contains_key("state_bucket"));
    let bad = stage.until_status("bad", 1, "FAILED").await;
    assert_eq!(string(&bad, "state_bucket"), Some("FAILED"));
    let mut received = ids(&stage.receive("order-events", 2).await);
    received.sort();
    assert_eq!(received, ["full:1", "next:1"]);
    let ready = reqwest::get(relay.url("/readyz")).await.unwrap();
    assert_eq!(ready.status(), 200);
}

/// Returns `true` for the request that quarantines an event.
fn is_quarantine(call: Call<'_>) -> bool {
    call.operation == "UpdateItem" && call.body.contains("FAILED")
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_writes_are_bounded_and_delay_no_valid_event() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    proxy.rule(|call| {
        if is_quarantine(call) {
            Fault::Hold
        } else {
            Fault::Pass
        }
    });
    let bad = |n| changed(&format!("bad-{n}"), "payload", text("{"));
    stage.put_all((0..200).map(bad).collect()).await;
    stage.put(event("good", 1)).await;
    let _relay = stage.relay_behind(&proxy, &[]).await;
    stage.until_status("good", 1, "PUBLISHED").await;
    let held = proxy.held();
    assert!((1..=16).contains(&held), "{held} at once");
    proxy.heal();
    stage.until_count("FAILED", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_counted_once_when_it_is_written_or_read_repeatedly() {
    const COUNT: &str = r#"outbox_events_quarantined_total{reason="not_json"}"#;
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    // The SDK sends the request twice, and then the relay retries.
    let mut lost = 0;
    proxy.rule(move |call| {
        if is_quarantine(call) && lost < 3 {
            lost += 1;
            Fault::LoseAnswer
        } else {
            Fault::Pass
        }
    });
    stage.put(changed("a", "payload", text("{"))).await;
    let mut first = stage.relay_behind(&proxy, &[]).await;
    until_answer(&first, "/metrics", 200, &format!("{COUNT} 1\n")).await;

    // Another group reads it again, once this one has stopped.
    assert!(first.terminate().await.unwrap().success());
    let second = stage.relay(&[("RELAY_CONSUMER_GROUP", "other")]).await;
    let log = eventually(DEADLINE, || async {
        let log = second.log();
        if log.contains("quarantine skipped") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    let log = log.await.unwrap();
    assert!(!log.contains("event quarantined"), "{log}");
    until_answer(&second, "/metrics", 200, &format!("{COUNT} 0\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_its_time_is_quarantined_and_blocks_no_other() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[]).await;
    let mut timeless = event("o-1", 1);
    // The item is not in the index of pending events either.
    timeless.remove("occurred_at");
    stage.put(timeless).await;
    stage.put(event("o-1", 2)).await;
    stage.until_status("o-1", 2, "PUBLISHED").await;
    let failed = stage.until_status("o-1", 1, "FAILED").await;
    assert!(
        string(&failed, "failure")
            .unwrap()
            .contains("`occurred_at`"),
        "{failed:?}"
    );
    // An operator sees it.
    let listed = stage
        .operate(&["list", "--state", "failed", "-o", "json"])
        .await;
    assert!(listed.stdout.contains("o-1:1"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_hold_mode_no_event_follows_a_quarantined_one_after_a_takeover() {
    const HOLD: [(&str, &str); 2] = [
        ("RELAY_ON_FAILURE", "hold"),
        ("RELAY_SWEEP_INTERVAL", "300ms"),
    ];
    let stage = Stage::new().await;
    let mut relay = stage.relay(&HOLD).await;
    // The embedded queue accepts messages of up to 256 KiB.
    let mut refused = event("a", 2);
    let payload = format!("\"{}\"", "x".repeat(390_000));
    refused.insert("payload".to_owned(), text(payload));
    stage.put_all(vec![event("a", 1), refused]).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    stage.until_status("a", 2, "FAILED").await;
    relay.kill().await.unwrap();
    stage.delete_lease().await;

    stage.put(event("a", 3)).await;
    let _successor = stage.relay(&HOLD).await;
    eventually(DEADLINE, || async {
        let item = stage.event("a", 3).await;
        if item.contains_key("deferred_at") {
            Ok(())
        } else {
            Err(format!("{item:?}"))
        }
    })
    .await
    .unwrap();
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);

    let discard = ["discard", "a:2", "--reason", "for the test"];
    let discarded = stage.operate(&discard).await;
    assert_eq!(discarded.code, Some(0), "{discarded:?}");
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:3"]);
}
