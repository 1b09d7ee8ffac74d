//! Search, retry and discard.

use reqwest::StatusCode;
use serde_json::json;

use super::{Console, detail, failed, key};
use crate::support::{Stage, event, ids, string, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_event_is_listed_retried_and_published() {
    let stage = Stage::new().await;
    // No route matched its type when it failed.
    let mut item = failed("o-1", 1, "no route matches the event type");
    item.insert(
        "traceparent".to_owned(),
        text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    );
    stage.put(item).await;
    let jaeger = [("JAEGER_UI_URL", "http://jaeger.example:16686/")];
    let console = Console::on(stage, &jaeger, None).await;

    let listed = console.json("/api/events?state=failed").await;
    assert_eq!(listed["events"][0]["event_id"], "o-1:1");
    assert_eq!(
        listed["events"][0]["failure"],
        "no route matches the event type"
    );
    assert!(listed["events"][0]["payload"].is_null(), "{listed}");

    let shown = console.json("/api/event?aggregate_id=o-1&sequence=1").await;
    assert_eq!(shown["payload"], r#"{"n":1}"#);
    assert_eq!(
        shown["trace_url"],
        "http://jaeger.example:16686/trace/0af7651916cd43dd8448eb211c80319c"
    );

    let acted = console.post("/api/retry", &key("o-1", 1)).await;
    assert_eq!(acted.status(), StatusCode::OK);
    let acted: serde_json::Value = acted.json().await.unwrap();
    assert_eq!(
        (&acted["changed"], &acted["status"]),
        (&json!(true), &json!("PENDING"))
    );
    console.stage.until_status("o-1", 1, "PUBLISHED").await;
    assert_eq!(
        ids(&console.stage.receive("order-events", 1).await),
        ["o-1:1"]
    );

    let shown = console.json("/api/event?aggregate_id=o-1&sequence=1").await;
    let steps: Vec<_> = shown["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|moment| moment["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["committed", "failed", "retried", "published"]);

    // A second retry: the event is no longer failed, and is not sent again.
    let again = console.post("/api/retry", &key("o-1", 1)).await;
    let again: serde_json::Value = again.json().await.unwrap();
    assert_eq!(
        (&again["changed"], &again["status"]),
        (&json!(false), &json!("PUBLISHED"))
    );
    let listed = console.json("/api/events?state=failed").await;
    assert_eq!(listed["events"], json!([]));
    assert!(console.stage.receive("order-events", 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_event_is_kept_with_its_reason() {
    let console = Console::open(&[]).await;
    console.stage.put(failed("o-1", 1, "broken")).await;
    let discard = |reason: String| {
        let mut body = key("o-1", 1);
        body["reason"] = json!(reason);
        body
    };
    for reason in [String::new(), "  ".to_owned(), "x".repeat(2_000)] {
        let response = console.post("/api/discard", &discard(reason)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(detail(response).await.contains("reason"));
    }
    let response = console
        .post("/api/discard", &discard(" sent by hand ".to_owned()))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let stored = console.stage.event("o-1", 1).await;
    assert_eq!(string(&stored, "status"), Some("DISCARDED"));
    assert_eq!(string(&stored, "discard_reason"), Some("sent by hand"));
    assert_eq!(string(&stored, "payload"), Some(r#"{"n":1}"#));
    assert!(!stored.contains_key("state_bucket"), "{stored:?}");

    let found = console.json("/api/search?q=o-1").await;
    assert_eq!(found["events"][0]["status"], "DISCARDED");
    let response = console.post("/api/retry", &key("o-1", 1)).await;
    let acted: serde_json::Value = response.json().await.unwrap();
    assert_eq!(acted["changed"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn search_finds_an_aggregate_and_an_event_by_id() {
    let console = Console::open(&[]).await;
    console
        .stage
        .put_all(vec![event("o:1", 1), event("o:1", 2), event("o-2", 1)])
        .await;
    console.stage.until_count("PUBLISHED", 3).await;
    // The id of this event does not contain its key.
    let mut own = failed("o-3", 1, "for the test");
    own.insert("event_id".to_owned(), text("01J9ZX"));
    console.stage.put(own).await;
    for (query, expected) in [
        ("o:1", vec!["o:1:1", "o:1:2"]),
        ("%20o-2%20", vec!["o-2:1"]),
        ("o:1:2", vec!["o:1:2"]),
        ("01J9ZX", vec!["01J9ZX"]),
    ] {
        let found = console.json(&format!("/api/search?q={query}")).await;
        let events = found["events"].as_array().unwrap();
        let ids: Vec<_> = events
            .iter()
            .map(|event| event["event_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_aggregate_shows_its_cause_and_continues_after_a_retry() {
    let console = Console::open(&[("RELAY_ON_FAILURE", "hold")]).await;
    console.stage.put(failed("held", 1, "broken")).await;
    let mut live = console.live().await;
    console
        .stage
        .put_all(vec![event("held", 2), event("held", 3)])
        .await;
    let status = live
        .until("status", |status| {
            status["deferred"] == json!({ "order-events": 2 })
        })
        .await;
    assert_eq!(status["members"], json!(["relay-1"]));
    let later = console
        .json("/api/event?aggregate_id=held&sequence=3")
        .await;
    assert_eq!(later["blocked_by"]["event_id"], "held:1");
    assert_eq!(later["blocked_by"]["failure"], "broken");
    assert!(later["deferred_at"].is_string(), "{later}");
    let found = console.json("/api/search?q=held").await;
    assert_eq!(found["blocked_by"]["event_id"], "held:1");
    assert_eq!(found["events"].as_array().unwrap().len(), 3);

    let response = console.post("/api/retry", &key("held", 1)).await;
    assert_eq!(response.status(), StatusCode::OK);
    console.stage.until_count("PUBLISHED", 3).await;
    let sent = ids(&console.stage.receive("order-events", 3).await);
    assert_eq!(sent, ["held:1", "held:2", "held:3"]);
    let found = console.json("/api/search?q=held").await;
    assert_eq!(found["blocked_by"], json!(null));
    live.until("status", |status| status["deferred"] == json!({}))
        .await;
}
