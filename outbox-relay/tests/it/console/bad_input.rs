//! Unknown ids, malformed filters, large payloads and markup.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Console, detail, failed, key};
use crate::support::text;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_or_path_is_named_in_the_error() {
    let console = Console::open(&[]).await;
    for (path, named) in [
        ("/api/event?aggregate_id=unknown&sequence=7", "unknown"),
        ("/api/search?q=unknown", "unknown"),
        ("/api/search?q=unknown:7", "unknown:7"),
        ("/api/nowhere", "path does not exist"),
    ] {
        let response = console.get(path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        let detail = detail(response).await;
        assert!(detail.contains(named), "{path}: {detail}");
    }
    let retry = key("unknown", 1);
    let mut discard = retry.clone();
    discard["reason"] = json!("for the test");
    for (path, body) in [("/api/retry", retry), ("/api/discard", discard)] {
        let response = console.post(path, &body).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(detail(response).await.contains("unknown"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_method_is_named_in_the_error() {
    let console = Console::open(&[]).await;
    let response = console.get("/api/retry").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(detail(response).await.contains("GET"));
    let response = console.post("/api/events", &json!({})).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(detail(response).await.contains("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_parameter_is_named_in_the_error() {
    let console = Console::open(&[]).await;
    for (path, named) in [
        ("/api/events", "state"),
        ("/api/events?state=lost", "state"),
        ("/api/events?state=published", "/api/search"),
        ("/api/events?state=failed&limit=many", "limit"),
        ("/api/events?state=failed&limit=0", "limit"),
        ("/api/events?state=failed&limit=501", "limit"),
        ("/api/events?state=failed&since=yesterday", "since"),
        ("/api/events?state=failed&type=*.placed", "type"),
        ("/api/events?state=failed&after=x", "after"),
        ("/api/events?state=failed&colour=red", "colour"),
        ("/api/search", "q"),
        ("/api/search?q=", "1 to 2048 bytes"),
        ("/api/event?aggregate_id=a", "sequence"),
        ("/api/event?aggregate_id=&sequence=1", "1 to 2048 bytes"),
        ("/api/event?aggregate_id=a&sequence=first", "sequence"),
        ("/api/event?aggregate_id=a&sequence=NaN", "sequence"),
        ("/api/event?aggregate_id=a&sequence=1e200", "sequence"),
        ("/api/event?aggregate_id=a&sequence=1e-200", "sequence"),
        (
            "/api/event?aggregate_id=a&sequence=123456789012345678901234567890123456789",
            "sequence",
        ),
    ] {
        let response = console.get(path).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        let detail = detail(response).await;
        assert!(detail.contains(named), "{path}: {detail}");
    }
    for (body, status) in [
        (
            json!({ "aggregate_id": "a" }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            json!({ "aggregate_id": "a", "sequence": 1 }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            json!({ "aggregate_id": "x".repeat(20_000), "sequence": "1" }),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        (json!("a"), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let response = console.post("/api/retry", &body).await;
        assert_eq!(response.status(), status, "{body}");
        detail(response).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_limit_a_list() {
    let console = Console::open(&[]).await;
    let mut other = failed("b", 1, "too large");
    other.insert("event_type".to_owned(), text("invoice.sent"));
    other.insert("occurred_at".to_owned(), text("2020-01-01T00:00:00.000Z"));
    console
        .stage
        .put_all(vec![failed("a", 1, "not JSON"), other])
        .await;
    for (filter, expected) in [
        ("", vec!["a:1", "b:1"]),
        ("&type=order.*", vec!["a:1"]),
        ("&type=invoice.sent", vec!["b:1"]),
        ("&reason=large", vec!["b:1"]),
        ("&since=2024-01-01T00:00:00Z", vec!["a:1"]),
        ("&type=none", vec![]),
    ] {
        let listed = console
            .json(&format!("/api/events?state=failed{filter}"))
            .await;
        let events = listed["events"].as_array().unwrap();
        let ids: Vec<_> = events
            .iter()
            .map(|event| event["event_id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_and_a_payload_of_390_kib_are_returned_unchanged_as_json() {
    let console = Console::open(&[]).await;
    let markup = r#"{"x":"</script><script>alert(1)</script>"}"#;
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(390 * 1024));
    for (id, payload) in [("<img src=x>", markup), ("large", &large)] {
        let mut item = failed(id, 1, "<b>broken</b>");
        item.insert("payload".to_owned(), text(payload));
        console.stage.put(item).await;
        let request = console
            .http
            .get(console.relay.url("/api/event"))
            .query(&[("aggregate_id", id), ("sequence", "1")]);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let shown: Value = response.json().await.unwrap();
        assert_eq!(shown["payload"], payload);
        assert_eq!(shown["aggregate_id"], id);
        assert_eq!(shown["failure"], "<b>broken</b>");
    }
    // Lists do not contain payloads.
    let listed = console.get("/api/events?state=failed").await;
    assert!(listed.text().await.unwrap().len() < 10_000);
}
