use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::StreamViewType;
use outbox::timestamp::Timestamp;
use test_support::{Fault, Proxy, Service, eventually};

use crate::support::{DEADLINE, Stage, event, ids, string, text, until_answer};

#[tokio::test(flavor = "multi_thread")]
async fn publishing_resumes_when_a_missing_queue_is_created() {
    let stage = Stage::without_queue().await;
    let relay = stage.relay(&[]).await;
    stage
        .put_all((0..30).map(|n| event(&format!("a-{n}"), 1)).collect())
        .await;
    let ready = eventually(DEADLINE, || async {
        let answer = reqwest::get(relay.url("/readyz")).await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        if status == 503 && body.contains("queue order-events") {
            Ok(body)
        } else {
            Err(body)
        }
    })
    .await
    .unwrap();
    assert!(ready.contains("does not exist"), "{ready}");
    let healthz = reqwest::get(relay.url("/healthz")).await.unwrap();
    assert_eq!(healthz.status(), 200, "a restart would not help");
    assert_eq!(stage.count("PENDING").await, 30);

    stage.create_queue("order-events").await;
    stage.until_count("PUBLISHED", 30).await;
    assert_eq!(stage.count("FAILED").await, 0);
    assert_eq!(stage.receive("order-events", 30).await.len(), 30);
    let ready = eventually(DEADLINE, || async {
        match reqwest::get(relay.url("/readyz")).await.unwrap() {
            answer if answer.status() == 200 => Ok(()),
            answer => Err(answer.text().await.unwrap()),
        }
    })
    .await;
    ready.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_queue_does_not_delay_another() {
    let stage = Stage::new().await;
    let _relay = stage
        .relay(&[(
            "RELAY_ROUTES",
            "order.lost=unavailable,order.*=order-events",
        )])
        .await;
    let mut lost = event("lost", 1);
    lost.insert("event_type".to_owned(), text("order.lost"));
    stage.put(lost).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    let lost = stage.event("lost", 1).await;
    assert_eq!(string(&lost, "status"), Some("PENDING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_created_later_is_found() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[("OUTBOX_TABLE", "later")]).await;
    eventually(DEADLINE, || async {
        let answer = reqwest::get(relay.url("/readyz")).await.unwrap();
        let body = answer.text().await.unwrap();
        if body.contains("table `later` does not exist") {
            Ok(())
        } else {
            Err(body)
        }
    })
    .await
    .unwrap();
    let later = shared::provision::Table::outbox("later");
    shared::provision::tables(&stage.dynamodb, [later])
        .await
        .unwrap();
    stage
        .dynamodb
        .put_item()
        .table_name("later")
        .set_item(Some(event("a", 1)))
        .send()
        .await
        .unwrap();
    assert_eq!(stage.receive("order-events", 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_table_request_fails_readiness_at_once_and_liveness_in_time() {
    let refused = Fault::refuse("AccessDeniedException");
    let each = r#"{"Responses":[{"Error":{"Code":"AccessDenied"}}]}"#;
    let each = Fault::Answer(200, each.to_owned());
    for (denied, part, fault, check) in [
        ("BatchGetItem", "", &refused, "look-ups"),
        ("Query", "by_state", &refused, "pending events"),
        ("BatchExecuteStatement", "", &refused, "marks"),
        ("BatchExecuteStatement", "", &each, "marks"),
    ] {
        let stage = Stage::new().await;
        let proxy = stage.proxy().await;
        let fault = fault.clone();
        proxy.rule(move |call| {
            if call.operation == denied && call.body.contains(part) {
                fault.clone()
            } else {
                Fault::Pass
            }
        });
        stage.put(event("a", 1)).await;
        let options = [
            ("RELAY_LEASE_DURATION", "2s"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
        ];
        let relay = stage.relay_behind(&proxy, &options).await;
        until_answer(&relay, "/readyz", 503, check).await;
        until_answer(&relay, "/healthz", 200, check).await;
        until_answer(&relay, "/healthz", 503, check).await;
        proxy.heal();
        stage.until_status("a", 1, "PUBLISHED").await;
        until_answer(&relay, "/healthz", 200, "").await;
        until_answer(&relay, "/readyz", 200, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_reads_of_the_stream_fail_readiness_and_not_liveness() {
    for denied in ["GetRecords", "GetShardIterator"] {
        let stage = Stage::new().await;
        let proxy = stage.proxy().await;
        proxy.rule(move |call| match call.operation {
            operation if operation == denied => Fault::refuse("AccessDeniedException"),
            _ => Fault::Pass,
        });
        let options = [("RELAY_LEASE_DURATION", "2s")];
        let relay = stage.relay_behind(&proxy, &options).await;
        let reason = format!("{denied} failed: AccessDeniedException");
        until_answer(&relay, "/readyz", 503, &reason).await;
        until_answer(&relay, "/readyz", 503, "grant the permission").await;
        // Longer than the three lease durations after which an unread shard fails liveness.
        until_unread_for(&relay, 7.0).await;
        until_answer(&relay, "/healthz", 200, "").await;

        stage.put(event("a", 1)).await;
        proxy.heal();
        stage.until_status("a", 1, "PUBLISHED").await;
        until_answer(&relay, "/readyz", 200, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_stream_fails_liveness_with_its_reason() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let relay = stage
        .relay_behind(&proxy, &[("RELAY_LEASE_DURATION", "2s")])
        .await;
    proxy.rule(|call| match call.operation {
        "GetRecords" => Fault::fail(),
        _ => Fault::Pass,
    });
    let reason = "GetRecords failed: InternalServerError";
    until_answer(&relay, "/healthz", 503, reason).await;
    proxy.heal();
    until_answer(&relay, "/healthz", 200, "").await;
}

/// Waits until a shard has not been read for this number of seconds.
async fn until_unread_for(relay: &Service, seconds: f64) {
    let unread = eventually(DEADLINE, || async {
        let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let mut lines = metrics.lines();
        let unread = lines.find_map(|line| line.strip_prefix("outbox_shard_progress_seconds "));
        match unread.and_then(|unread| unread.parse::<f64>().ok()) {
            Some(unread) if unread > seconds => Ok(()),
            other => Err(other),
        }
    });
    unread.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ignores_a_failed_queue_that_receives_no_more_events() {
    let stage = Stage::without_queue().await;
    let relay = stage.relay(&[("RELAY_LEASE_DURATION", "6s")]).await;
    stage.put(event("a", 1)).await;
    until_answer(&relay, "/metrics", 200, r#"kind="QueueDoesNotExist"#).await;
    stage.steal_lease().await;
    until_answer(&relay, "/metrics", 200, "outbox_leases_lost_total 1").await;
    stage.create_queue("order-events").await;
    let ready = eventually(DEADLINE, || async {
        stage.steal_lease().await;
        match reqwest::get(relay.url("/readyz")).await.unwrap() {
            answer if answer.status() == 200 => Ok(()),
            answer => Err(answer.text().await.unwrap()),
        }
    });
    ready.await.unwrap();
    assert_eq!(stage.count("PENDING").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_new_images_is_rejected() {
    let stage = Stage::new().await;
    for view in [StreamViewType::KeysOnly, StreamViewType::OldImage] {
        stage.set_stream(None).await;
        stage.set_stream(Some(view.clone())).await;
        let relay = stage.relay(&[]).await;
        until_answer(&relay, "/readyz", 503, view.as_str()).await;
    }
    stage.set_stream(None).await;
    stage
        .set_stream(Some(StreamViewType::NewAndOldImages))
        .await;
    let relay = stage.relay(&[]).await;
    stage.put(event("a", 1)).await;
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);
    until_answer(&relay, "/readyz", 200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_counted_once_and_reading_backs_off_while_it_lasts() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let relay = stage.relay_behind(&proxy, &[]).await;
    // A relay that has read nothing cannot detect that records are missing.
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    let reads = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::clone(&reads);
    proxy.rule(move |call| {
        let mut refused = refused.lock().unwrap();
        if call.operation == "GetRecords" && refused.len() < 6 {
            refused.push(Instant::now());
            return Fault::refuse("TrimmedDataAccessException");
        }
        Fault::Pass
    });
    stage.put(event("a", 2)).await;
    stage.until_status("a", 2, "PUBLISHED").await;
    until_answer(&relay, "/metrics", 200, "outbox_stream_gaps_total 1").await;
    let reads = reads.lock().unwrap();
    // Pauses of 50, 100, 200, 400 and 800 ms, with full jitter.
    let took = reads[5] - reads[0];
    assert!(took > Duration::from_millis(100), "{took:?}");
}

/// Makes an event pending in the table, as an operator's retry does.
async fn retried(stage: &Stage, id: &str, event_type: &str) {
    let mut item = event(id, 1);
    item.insert("event_type".to_owned(), text(event_type));
    item.insert("retried_at".to_owned(), text(Timestamp::now().to_string()));
    // The relay reads inserted items from the stream and ignores later changes.
    let mut failed = item.clone();
    for name in ["status", "state_bucket"] {
        failed.insert(name.to_owned(), text("FAILED"));
    }
    stage.put(failed).await;
    stage.put(item).await;
    stage.ask_for_sweep().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swept_event_with_an_unavailable_queue_does_not_delay_other_sweeps() {
    let stage = Stage::new().await;
    let options = [
        (
            "RELAY_ROUTES",
            "order.lost=unavailable,order.*=order-events",
        ),
        ("RELAY_SWEEP_INTERVAL", "1h"),
    ];
    let relay = stage.relay(&options).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    retried(&stage, "lost", "order.lost").await;
    until_answer(&relay, "/readyz", 503, "unavailable").await;
    for id in ["b", "c"] {
        retried(&stage, id, "order.placed").await;
        stage.until_status(id, 1, "PUBLISHED").await;
    }
    let lost = stage.event("lost", 1).await;
    assert_eq!(string(&lost, "status"), Some("PENDING"));
    let queue = stage.create_queue("unavailable").await;
    stage.until_status("lost", 1, "PUBLISHED").await;
    assert_eq!(
        ids(&stage.receive("unavailable", 1).await),
        ["lost:1"],
        "{queue}"
    );
    assert_eq!(
        ids(&stage.receive("order-events", 3).await),
        ["a:1", "b:1", "c:1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_rejects_every_message_of_a_batch_counts_as_unavailable() {
    const SEND: &str = "SendMessageBatch";
    let stage = Stage::new().await;
    let sqs = Proxy::start(stage.cloud.sqs_url()).await.unwrap();
    let failed = (0..10).map(|n| {
        format!(
            r#"{{"Id":"{n}","Code":"InternalError","Message":"unavailable","SenderFault":false}}"#
        )
    });
    let failed = failed.collect::<Vec<_>>().join(",");
    let answer = Fault::Answer(200, format!(r#"{{"Successful":[],"Failed":[{failed}]}}"#));
    sqs.rule(move |call| match call.operation {
        SEND => answer.clone(),
        _ => Fault::Pass,
    });
    let events = (0..500).map(|n| event(&format!("a-{n}"), 1));
    stage.put_all(events.collect()).await;
    let relay = stage.relay(&[("AWS_ENDPOINT_URL_SQS", sqs.url())]).await;
    until_answer(&relay, "/readyz", 503, "InternalError: unavailable").await;
    // The first batches were sent together; after that, one probe at a time is sent, with growing
    // pauses.
    sqs.saw(SEND, 20).await.unwrap();
    let started = Instant::now();
    sqs.saw(SEND, 26).await.unwrap();
    let took = started.elapsed();
    assert!(took > Duration::from_millis(200), "{took:?}");
    until_answer(&relay, "/healthz", 200, "").await;
    sqs.heal();
    stage.until_count("PUBLISHED", 500).await;
    until_answer(&relay, "/readyz", 200, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_a_malformed_time_are_counted_as_pending() {
    let stage = Stage::without_queue().await;
    let relay = stage.relay(&[("RELAY_SWEEP_INTERVAL", "200ms")]).await;
    let mut timeless = event("a", 1);
    timeless.insert("occurred_at".to_owned(), text("1700000000"));
    stage.put(timeless).await;
    until_answer(&relay, "/metrics", 200, "outbox_pending_events 1").await;
}
