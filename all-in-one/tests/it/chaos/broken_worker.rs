//! Verifies the checks: a worker that applies every delivery is detected.
//!
//! The worker is this test binary, run by a script in place of the real worker: a separate program
//! would be built and shipped with the others.

use std::os::unix::fs::PermissionsExt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use shared::aws::Clients;
use tokio_util::sync::CancellationToken;

use super::run;

/// Environment variable of the process that acts as the worker.
const AS_WORKER: &str = "CHAOS_BROKEN_WORKER";

const THIS_TEST: &str = "chaos::broken_worker::a_worker_that_applies_every_delivery_is_detected";

#[tokio::test]
async fn a_worker_that_applies_every_delivery_is_detected() {
    if std::env::var_os(AS_WORKER).is_some() {
        return work().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("worker");
    let this_program = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\n{AS_WORKER}=1 exec '{}' --exact {THIS_TEST} --nocapture >/dev/null\n",
        this_program.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();

    let ended = run(&[
        "--duration",
        "10s",
        "--seed",
        "3",
        "--faults",
        "duplicate-delivery",
        "--worker-program",
        script.to_str().unwrap(),
    ])
    .await;
    assert_eq!(ended.code(), Some(1), "{}", ended.text());
    // Stock is reserved twice, and settled orders change again.
    let violated = ended.violated();
    for invariant in ["stock", "settled"] {
        assert!(
            violated.iter().any(|name| name == invariant),
            "{violated:?}"
        );
    }
    assert!(ended.text().contains("violations"), "{}", ended.text());
}

/// Runs a worker without the condition that makes duplicate deliveries harmless.
async fn work() {
    let clients = Clients::from_env().await.unwrap();
    let stop = CancellationToken::new();
    shared::runtime::service::cancel_on_signal(&stop).unwrap();
    let queue = std::env::var("WORKER_QUEUE").unwrap();
    eprintln!(
        "{}",
        serde_json::json!({"level": "INFO", "message": "listening"})
    );
    let ended = stop.run_until_cancelled(async {
        let url = loop {
            match shared::aws::queue_url(&clients.sqs, &queue).await {
                Ok(url) => break url,
                Err(error) => eprintln!("{error}"),
            }
        };
        loop {
            take(&clients, &url).await;
        }
    });
    ended.await;
}

async fn take(clients: &Clients, url: &str) {
    let received = clients
        .sqs
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(10)
        .wait_time_seconds(1)
        .send()
        .await;
    let messages = received.expect("SQS answers").messages;
    for message in messages.unwrap_or_default() {
        let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
        apply(clients, &body["data"]).await;
        let handle = message.receipt_handle().unwrap();
        let deleted = clients
            .sqs
            .delete_message()
            .queue_url(url)
            .receipt_handle(handle);
        if let Err(error) = deleted.send().await {
            eprintln!("{error}");
        }
    }
}

async fn apply(clients: &Clients, order: &Value) {
    let table = |name| std::env::var(name).unwrap();
    for line in order["items"].as_array().unwrap() {
        let moved = clients
            .dynamodb
            .update_item()
            .table_name(table("INVENTORY_TABLE"))
            .key(
                "sku",
                AttributeValue::S(line["sku"].as_str().unwrap().to_owned()),
            )
            .update_expression("ADD available :less, reserved :more")
            .expression_attribute_values(
                ":less",
                AttributeValue::N(format!("-{}", line["quantity"])),
            )
            .expression_attribute_values(":more", AttributeValue::N(line["quantity"].to_string()));
        moved.send().await.unwrap();
    }
    let settled = clients
        .dynamodb
        .update_item()
        .table_name(table("ORDERS_TABLE"))
        .key(
            "order_id",
            AttributeValue::S(order["order_id"].as_str().unwrap().to_owned()),
        )
        .update_expression("SET #status = :processed, version = version + :one")
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":processed", AttributeValue::S("PROCESSED".to_owned()))
        .expression_attribute_values(":one", AttributeValue::N("1".to_owned()));
    settled.send().await.unwrap();
}
