//! Tables that are away.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use tokio::time::timeout;

use super::{Console, detail, failed, name};
use crate::support::DEADLINE;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_away_is_named_and_the_page_stays() {
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
        let answer = console.get(path).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{path}");
        let detail = detail(answer).await;
        assert!(detail.contains("`outbox`"), "{path}: {detail}");
    }
    let answer = console.post("/api/retry", &name("a", 1)).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(detail(answer).await.contains("`outbox`"));

    // Viewers are told, and go on to be told what the process itself knows.
    let mut untold = BTreeSet::from(["failed", "pending", "status"]);
    while !untold.is_empty() {
        let (name, told) = timeout(DEADLINE, live.next()).await.unwrap();
        if let Some(problem) = told["problem"].as_str() {
            assert!(problem.contains("`outbox`"), "{problem}");
            untold.remove(name.as_str());
        }
    }
    live.until("beat", |_| true).await;
    assert_eq!(console.get("/").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_leases_the_events_are_still_shown() {
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
