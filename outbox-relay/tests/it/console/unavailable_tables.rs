//! Tables that were deleted.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use tokio::time::timeout;

use super::{Console, detail, failed, key};
use crate::support::DEADLINE;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_named_and_live_updates_continue() {
    let console = Console::open(&[]).await;
    console.stage.put(failed("a", 1, "for the test")).await;
    let mut live = console.live().await;
    live.until("failed", |list| list["events"][0]["event_id"] == "a:1")
        .await;

    let delete = console.stage.dynamodb.delete_table().table_name("outbox");
    delete.send().await.unwrap();
    for path in [
        "/api/events?state=failed",
        "/api/events?state=pending",
        "/api/search?q=a",
        "/api/event?aggregate_id=a&sequence=1",
    ] {
        let response = console.get(path).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{path}");
        let detail = detail(response).await;
        assert!(detail.contains("`outbox`"), "{path}: {detail}");
    }
    let response = console.post("/api/retry", &key("a", 1)).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(detail(response).await.contains("`outbox`"));

    // Each update from the tables reports the problem, and heartbeats continue.
    let mut missing = BTreeSet::from(["failed", "pending", "status"]);
    while !missing.is_empty() {
        let (name, update) = timeout(DEADLINE, live.next()).await.unwrap();
        if let Some(problem) = update["problem"].as_str() {
            assert!(problem.contains("`outbox`"), "{problem}");
            missing.remove(name.as_str());
        }
    }
    live.until("heartbeat", |_| true).await;
    assert_eq!(console.get("/").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_lease_table_events_are_still_shown() {
    let console = Console::open(&[]).await;
    console.stage.put(failed("a", 1, "for the test")).await;
    let delete = console
        .stage
        .dynamodb
        .delete_table()
        .table_name("relay_leases");
    delete.send().await.unwrap();
    let mut live = console.live().await;
    let status = live.until("status", |_| true).await;
    assert_eq!(status["failed"]["count"], 1, "{status}");
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap()
            .contains("relay_leases"),
        "{status}"
    );
    console.json("/api/event?aggregate_id=a&sequence=1").await;
}
