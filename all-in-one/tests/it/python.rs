//! The relay publishes events written by a program in another language.

use serde_json::{Value, json};
use test_support::{PATIENCE, eventually};
use tokio::process::Command;

use crate::support::{Stack, item};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/write_event.py");

#[tokio::test]
async fn an_event_written_by_a_python_program_is_published() {
    let stack = Stack::start(&[]).await;
    let relay = stack.service("outbox-relay").await;
    let written = Command::new("python3")
        .args([PROGRAM, "review-1"])
        .envs(stack.cloud.env())
        .output()
        .await
        .expect("this test runs a Python program: install python3");
    assert!(written.status.success(), "{written:?}");

    let published = eventually(PATIENCE, || async {
        let event = item(&stack.dynamodb, "review-1").await;
        match event["status"].as_s().unwrap().as_str() {
            "PUBLISHED" => Ok(event),
            other => Err(format!("{other}\n{}", relay.log())),
        }
    });
    let event = published.await.unwrap();
    assert!(event.contains_key("message_id"));
    assert!(event.contains_key("expires_at"));

    let sqs = stack.cloud.sqs_client();
    let queue = sqs
        .get_queue_url()
        .queue_name("order-events")
        .send()
        .await
        .unwrap();
    let message = sqs
        .receive_message()
        .set_queue_url(queue.queue_url)
        .message_attribute_names("All")
        .wait_time_seconds(5)
        .send()
        .await
        .unwrap()
        .messages
        .unwrap()
        .remove(0);
    assert_eq!(
        message.message_id(),
        Some(event["message_id"].as_s().unwrap().as_str())
    );
    let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
    assert_eq!(body["id"], "review-1:1");
    assert_eq!(body["source"], "/orders");
    assert_eq!(body["type"], "order.reviewed");
    assert_eq!(body["data"], json!({"stars": 5, "text": "naïve, but good"}));
}
