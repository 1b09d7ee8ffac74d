//! Events that cannot be sent to their queue at present: those of an event type without a route,
//! and those of a slow queue.

use std::time::{Duration, Instant};

use test_support::{Fault, Proxy, Service, eventually};

use crate::support::{DEADLINE, Item, Stage, event, ids, metric, string, text, until_answer};

fn typed(aggregate_id: &str, sequence: u64, event_type: &str) -> Item {
    let mut item = event(aggregate_id, sequence);
    item.insert("event_type".to_owned(), text(event_type));
    item
}

/// Waits until `count` more sends of events failed.
async fn until_retried(relay: &Service, count: u64) {
    let before = metric(relay, "outbox_publish_retries_total").await;
    eventually(DEADLINE, || async {
        let now = metric(relay, "outbox_publish_retries_total").await;
        (now >= before + count).then_some(()).ok_or(now)
    })
    .await
    .unwrap();
}

async fn until_deferred(stage: &Stage, aggregate_id: &str, sequence: u64) -> Item {
    eventually(DEADLINE, || async {
        let item = stage.event(aggregate_id, sequence).await;
        if item.contains_key("deferred_at") {
            Ok(item)
        } else {
            Err(format!("{item:?}"))
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_route_stays_pending_and_is_published_once_it_has_one() {
    let stage = Stage::new().await;
    let mut relay = stage.relay(&[]).await;
    stage.put(typed("a", 1, "stock.moved")).await;
    stage.put(event("a", 2)).await;
    stage.put(event("b", 1)).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    for sequence in [1, 2] {
        let held = until_deferred(&stage, "a", sequence).await;
        assert_eq!(string(&held, "status"), Some("PENDING"));
        assert!(held.contains_key("state_bucket"));
    }
    until_answer(&relay, "/readyz", 503, "event type stock.moved").await;
    until_answer(&relay, "/healthz", 200, "").await;
    let deferred = r#"outbox_events_deferred_total{queue="(no route)"} 1"#;
    until_answer(&relay, "/metrics", 200, deferred).await;
    let unavailable = r#"outbox_queue_available{queue="(no route)"} 0"#;
    until_answer(&relay, "/metrics", 200, unavailable).await;
    assert_eq!(relay.log().matches("no route matches").count(), 1);

    // The stream does not deliver them again, but they are still pending without a route.
    relay.kill().await.unwrap();
    let sweeps = [
        ("RELAY_SWEEP_INTERVAL", "500ms"),
        ("RELAY_SWEEP_AFTER", "500ms"),
    ];
    relay = stage.relay(&sweeps).await;
    until_answer(&relay, "/readyz", 503, "event type stock.moved").await;

    relay.kill().await.unwrap();
    let routes = [&[("RELAY_ROUTES", "*=order-events")], &sweeps[..]].concat();
    let relay = stage.relay(&routes).await;
    stage.until_count("PUBLISHED", 3).await;
    let received = ids(&stage.receive("order-events", 3).await);
    let place = |id| received.iter().position(|received| received == id);
    assert!(place("a:1") < place("a:2"), "{received:?}");
    until_answer(&relay, "/readyz", 200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_outside_the_index_waits_in_the_buffer() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[]).await;
    let mut unindexed = typed("a", 1, "stock.moved");
    unindexed.remove("state_bucket");
    stage.put(unindexed).await;
    until_answer(&relay, "/readyz", 503, "event type stock.moved").await;
    stage.put(event("b", 1)).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    let waiting = stage.event("a", 1).await;
    assert_eq!(string(&waiting, "status"), Some("PENDING"));
    assert!(!waiting.contains_key("deferred_at"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_quarantines_names_itself_as_the_reason() {
    let stage = Stage::new().await;
    let routes = "stock.*=!quarantine,*=order-events";
    let relay = stage.relay(&[("RELAY_ROUTES", routes)]).await;
    stage.put(typed("a", 1, "stock.moved")).await;
    stage.put(event("a", 2)).await;
    let failed = stage.until_status("a", 1, "FAILED").await;
    let failure = string(&failed, "failure").unwrap();
    assert!(failure.contains("`stock.moved`"), "{failure}");
    stage.until_status("a", 2, "PUBLISHED").await;
    let counted = r#"outbox_events_quarantined_total{reason="quarantine_route"} 1"#;
    until_answer(&relay, "/metrics", 200, counted).await;
    until_answer(&relay, "/readyz", 200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_does_not_answer_does_not_slow_another() {
    const EVENTS: usize = 600;
    let stage = Stage::without_queue().await;
    stage.create_queue("slow").await;
    stage.create_queue("fast").await;
    let sqs = Proxy::start(stage.cloud.sqs_url()).await.unwrap();
    let routes = [
        ("RELAY_ROUTES", "slow.*=slow,*=fast"),
        ("AWS_ENDPOINT_URL_SQS", sqs.url()),
    ];
    let _relay = stage.relay(&routes).await;
    let fast = |round: usize| {
        let name = move |n| format!("fast-{round}-{n}");
        (0..EVENTS).map(move |n| event(&name(n), 1)).collect()
    };
    let stage = &stage;
    let publish = |round| async move {
        let began = Instant::now();
        stage.put_all(fast(round)).await;
        stage.until_count("PUBLISHED", EVENTS * (round + 1)).await;
        began.elapsed()
    };
    let alone = publish(0).await;
    sqs.rule(|call| {
        if call.operation == "SendMessageBatch" && call.body.contains("slow.happened") {
            Fault::HoldAnswer
        } else {
            Fault::Pass
        }
    });
    let slow = |n| typed(&format!("slow-{n}"), 1, "slow.happened");
    stage.put_all((0..400).map(slow).collect()).await;
    let beside = publish(1).await;
    // At least 80 % of its rate; the margin is for the machine.
    assert!(
        beside < alone.mul_f64(1.25) + Duration::from_secs(1),
        "{beside:?} beside a slow queue, {alone:?} alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_discarded_while_its_queue_is_missing_never_arrives() {
    let stage = Stage::without_queue().await;
    let settings = [
        ("RELAY_ROUTES", "*=late"),
        ("RELAY_SWEEP_INTERVAL", "500ms"),
        ("RELAY_SWEEP_AFTER", "500ms"),
    ];
    let relay = stage.relay(&settings).await;
    for sequence in 1..=4 {
        stage.put(event("a", sequence)).await;
    }
    stage.put(event("b", 1)).await;
    for (aggregate_id, sequence) in [("a", 1), ("a", 4), ("b", 1)] {
        until_deferred(&stage, aggregate_id, sequence).await;
    }
    // The sweeper dispatches the first of each aggregate, to probe the queue.
    until_retried(&relay, 4).await;
    let discard = ["discard", "a:1", "a:3", "b:1", "--reason", "for the test"];
    let discarded = stage.operate(&discard).await;
    assert_eq!(discarded.code, Some(0), "{discarded:?}");
    // Every event is looked up again before one of these probes, two seconds after the last time.
    until_retried(&relay, 20).await;
    stage.create_queue("late").await;
    stage.until_count("PUBLISHED", 2).await;
    stage.put(event("c", 1)).await;
    stage.until_status("c", 1, "PUBLISHED").await;
    let received = ids(&stage.receive("late", 3).await);
    assert_eq!(received, ["a:2", "a:4", "c:1"]);
    assert_eq!(stage.count("DISCARDED").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_a_queue_is_logged_once_and_so_is_its_end() {
    let stage = Stage::new().await;
    let settings = [("RELAY_ROUTES", "order.placed=missing")];
    let relay = stage.relay(&settings).await;
    for n in 0..20 {
        stage.put(event(&format!("a{n}"), 1)).await;
    }
    // Several batches.
    until_retried(&relay, 40).await;
    assert_eq!(relay.log().matches("send failed").count(), 1);
    stage.create_queue("missing").await;
    stage.until_count("PUBLISHED", 20).await;
    assert_eq!(relay.log().matches("accepts messages again").count(), 1);
}
