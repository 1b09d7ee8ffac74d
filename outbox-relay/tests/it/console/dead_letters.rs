//! The queues' dead letters.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Console, detail};
use crate::support::DEADLINE;

async fn send(console: &Console, queue: &str, body: &str) {
    let url = console.stage.sqs.get_queue_url().queue_name(queue);
    let url = url.send().await.unwrap().queue_url.unwrap();
    let send = console.stage.sqs.send_message().queue_url(url);
    send.message_body(body).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_redriven_and_discarded() {
    let console = Console::open(&[]).await;
    for id in ["e-1", "e-2"] {
        let body = format!(r#"{{"id":"{id}","type":"order.placed","subject":"o-1"}}"#);
        send(&console, "order-events-dlq", &body).await;
    }
    send(&console, "order-events-dlq", &"x".repeat(100_000)).await;

    let listed = console.json("/api/dead-letters").await;
    let messages = listed["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 3);
    let of = |id: &str| {
        let found = messages.iter().find(|m| m["event_id"] == id);
        json!({ "message_id": found.unwrap()["message_id"] })
    };
    assert!(listed.to_string().len() < 10_000, "long bodies are cut");

    let redriven = console.post("/api/dead-letters/redrive", &of("e-1")).await;
    assert_eq!(redriven.status(), StatusCode::OK);
    let redriven: Value = redriven.json().await.unwrap();
    assert_eq!(redriven["changed"][0]["event_id"], "e-1");
    let arrived = console.stage.receive("order-events", 1).await;
    assert!(arrived[0].body().unwrap().contains("e-1"));

    let discarded = console.post("/api/dead-letters/discard", &of("e-2")).await;
    assert_eq!(discarded.status(), StatusCode::OK);
    let left = console.json("/api/dead-letters").await;
    assert_eq!(left["messages"].as_array().unwrap().len(), 1);

    let again = console.post("/api/dead-letters/discard", &of("e-2")).await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    assert!(detail(again).await.contains("no dead letter"));
    let log = console.relay.log();
    for change in ["dead letter redriven", "dead letter discarded"] {
        let line = log.lines().find(|line| line.contains(change)).unwrap();
        assert!(line.contains("\"local\""), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_leaves_no_message_hidden() {
    let console = Console::open(&[]).await;
    for n in 0..25 {
        send(&console, "order-events-dlq", &format!("m-{n}")).await;
    }
    // A list takes at least a second: it ends with a request that waits.
    let impatient = console.http.get(console.relay.url("/api/dead-letters"));
    let answer = impatient.timeout(Duration::from_millis(300)).send().await;
    assert!(answer.unwrap_err().is_timeout());

    let listed = console.json("/api/dead-letters").await;
    assert_eq!(listed["messages"].as_array().unwrap().len(), 25);

    // Requests that wait for their turn end with their clients.
    let impatient = (0..100).map(|_| {
        let request = console.http.get(console.relay.url("/api/dead-letters"));
        request.timeout(Duration::from_millis(300)).send()
    });
    let answers = futures::future::join_all(impatient).await;
    assert!(answers.iter().all(Result::is_err));
    let listed = tokio::time::timeout(DEADLINE, console.json("/api/dead-letters")).await;
    assert_eq!(listed.unwrap()["messages"].as_array().unwrap().len(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_need_the_token() {
    let console = Console::with_token().await;
    let anonymous = console.http.get(console.relay.url("/api/dead-letters"));
    let answer = anonymous.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let wrong = console.post("/api/dead-letters/redrive", &json!({})).await;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
}
