//! The gauges of messages in the queue and in the dead-letter queue.

use test_support::{Service, eventually};

use crate::support::{DEADLINE, TestCloud, get, logged, message, metric, order};

const DEAD: &str = r#"worker_dead_letters{queue="order-events-dlq"}"#;

/// Waits until `sample` has `value`.
async fn reaches(worker: &Service, sample: &str, value: &str) {
    let line = format!("\n{sample} {value}\n");
    let reached = eventually(DEADLINE, || async {
        let metrics = get(worker, "/metrics").await.1;
        if metrics.contains(&line) {
            Ok(())
        } else {
            Err(metrics)
        }
    });
    if let Err(metrics) = reached.await {
        panic!("no {line} in\n{metrics}");
    }
}

#[tokio::test]
async fn dead_letters_are_counted_until_they_are_removed() {
    let cloud = TestCloud::start(&[("A", 1)]).await;
    for _ in 0..2 {
        let body = message(&order(&[("A", 1)])).body;
        let send = cloud.sqs.send_message().queue_url(&cloud.dead_letters_url);
        send.message_body(body).send().await.unwrap();
    }
    let worker = cloud.worker(&[]).await;
    reaches(&worker, DEAD, "2").await;
    let waiting = r#"worker_queue_messages{queue="order-events"}"#;
    assert_eq!(metric(&worker, waiting).await, 0.0);
    let age = r#"worker_dead_letter_age_seconds{queue="order-events-dlq"}"#;
    assert!(metric(&worker, age).await < 60.0);
    // Nothing is hidden from operators.
    cloud.dead_letters(2).await;

    // As an operator does after redriving them.
    let purge = cloud.sqs.purge_queue().queue_url(&cloud.dead_letters_url);
    purge.send().await.unwrap();
    reaches(&worker, DEAD, "0").await;
    assert_eq!(metric(&worker, age).await, 0.0);
}

#[tokio::test]
async fn a_missing_dead_letter_queue_is_logged_and_not_counted_as_empty() {
    let cloud = TestCloud::start(&[("A", 1)]).await;
    let create = cloud.sqs.create_queue().queue_name("plain");
    create.send().await.unwrap();
    let worker = cloud.worker(&[("WORKER_QUEUE", "plain")]).await;
    logged(&worker, "queue `plain` has no dead-letter queue").await;
    reaches(&worker, r#"worker_queue_messages{queue="plain"}"#, "0").await;
    let metrics = get(&worker, "/metrics").await.1;
    assert!(!metrics.contains("worker_dead_letters{"), "{metrics}");
}
