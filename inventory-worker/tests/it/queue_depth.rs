//! The gauges of what waits in the queue and among the dead letters.

use test_support::{Service, eventually};

use crate::support::{DEADLINE, TestCloud, get, logged, message, metric, order};

const DEAD: &str = r#"worker_dead_letters{queue="order-events-dlq"}"#;

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
async fn dead_letters_are_counted_until_they_are_gone() {
    let rig = TestCloud::start(&[("A", 1)]).await;
    for _ in 0..2 {
        let body = message(&order(&[("A", 1)])).body;
        let send = rig.sqs.send_message().queue_url(&rig.dead_letters_url);
        send.message_body(body).send().await.unwrap();
    }
    let worker = rig.worker(&[]).await;
    reaches(&worker, DEAD, "2").await;
    let waiting = r#"worker_queue_messages{queue="order-events"}"#;
    assert_eq!(metric(&worker, waiting).await, 0.0);

    // An operator has dealt with them.
    let purge = rig.sqs.purge_queue().queue_url(&rig.dead_letters_url);
    purge.send().await.unwrap();
    reaches(&worker, DEAD, "0").await;
}

#[tokio::test]
async fn a_queue_without_dead_letters_is_said_and_not_counted_as_empty() {
    let rig = TestCloud::start(&[("A", 1)]).await;
    let create = rig.sqs.create_queue().queue_name("plain");
    create.send().await.unwrap();
    let worker = rig.worker(&[("WORKER_QUEUE", "plain")]).await;
    logged(&worker, "queue `plain` has no dead-letter queue").await;
    reaches(&worker, r#"worker_queue_messages{queue="plain"}"#, "0").await;
    let metrics = get(&worker, "/metrics").await.1;
    assert!(!metrics.contains("worker_dead_letters{"), "{metrics}");
}
