//! Retry of 10,000 events by two operators at once.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use test_support::eventually;

use super::failed;
use super::terminal::on_terminal;
use crate::support::Stage;

const COUNT: usize = 10_000;

/// Time limit for publishing all of them on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Returns the number of messages in the queue.
async fn queued(stage: &Stage, url: &str) -> usize {
    let name = QueueAttributeName::ApproximateNumberOfMessages;
    let request = stage.sqs.get_queue_attributes().queue_url(url);
    let answer = request.attribute_names(name.clone()).send().await.unwrap();
    answer.attributes.unwrap()[&name].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_retries_of_ten_thousand_failed_events_send_each_once() {
    let stage = Stage::without_queue().await;
    let url = stage.create_queue("order-events").await;
    let items = (0..COUNT).map(|n| failed(&format!("o-{n}"), 1, "no route matches"));
    stage.put_all(items.collect()).await;
    let _relays = [
        stage.quick_relay("relay-1").await,
        stage.quick_relay("relay-2").await,
    ];
    // Two operators retry at the same time.
    let retry = ["retry", "--all-failed"];
    let ((code, shown), other) = tokio::join!(
        on_terminal(&stage, &[], &retry),
        stage.operate(&["retry", "--all-failed", "-o", "json"]),
    );
    assert_eq!((code, other.code), (Some(0), Some(0)), "{shown} {other:?}");
    assert!(
        shown.contains("retrying [") && shown.contains("/10,000"),
        "no progress: {shown}"
    );
    let last = shown.trim_end().lines().last().unwrap();
    let first_word = last.rsplit('\r').next().unwrap().split(' ').next().unwrap();
    let first_word = first_word.rsplit('K').next().unwrap();
    let mine: u64 = first_word.parse().unwrap_or_else(|_| panic!("{last:?}"));
    let theirs = other.json()["changed"].as_u64().unwrap();
    assert_eq!(
        mine + theirs,
        COUNT as u64,
        "each is retried by one of them"
    );
    eventually(PATIENCE, || async {
        let left = stage.operate(&["status", "-o", "json"]).await.json();
        match (&left["pending"]["count"], &left["failed"]["count"]) {
            (pending, failed) if pending == 0 && failed == 0 => Ok(()),
            (pending, failed) => Err(format!("{pending} pending, {failed} failed")),
        }
    })
    .await
    .unwrap();
    stage.until_count("PUBLISHED", COUNT).await;
    assert_eq!(queued(&stage, &url).await, COUNT);
    let again = stage.operate(&["retry", "--all-failed"]).await;
    assert_eq!(
        (again.code, again.stdout.as_str()),
        (Some(0), "0 retried\n")
    );
    assert_eq!(queued(&stage, &url).await, COUNT);
}
