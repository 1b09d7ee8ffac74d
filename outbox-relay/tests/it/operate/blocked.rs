//! Aggregates that a failed event blocks, and deferred events.

use serde_json::json;
use test_support::eventually;

use super::{QUICK, failed, published, with};
use crate::support::{DEADLINE, Stage, event};

const HOLD: [(&str, &str); 1] = [("RELAY_ON_FAILURE", "hold")];

#[tokio::test(flavor = "multi_thread")]
async fn show_names_the_failed_event_that_blocks_an_aggregate() {
    let stage = Stage::without_queue().await;
    stage.put(failed("held", 1, "passed before")).await;
    stage.put(published("held", 2)).await;
    stage.put(failed("held", 3, "its payload is refused")).await;
    let deferred = with(event("held", 4), "deferred_at", "2026-01-31T08:15:32.000Z");
    stage.put(deferred).await;
    stage.put(failed("held", 5, "another")).await;
    stage.put(event("held", 6)).await;
    let shown = |name: &'static str| {
        let stage = &stage;
        async move {
            let show = ["show", name, "-o", "json"];
            stage.operate_with(&HOLD, &show).await.json()
        }
    };
    for name in ["held:4", "held:6", "held"] {
        let blocking = &shown(name).await["blocked_by"];
        assert_eq!(blocking["event_id"], "held:3", "{name}");
        assert_eq!(blocking["failure"], "its payload is refused");
    }
    for name in ["held:1", "held:2", "held:3", "held:5"] {
        assert_eq!(shown(name).await["blocked_by"], json!(null), "{name}");
    }
    let text = stage.operate_with(&HOLD, &["show", "held:4"]).await.stdout;
    let blocked = "blocked        by event held:3, which is FAILED since \
                   2026-01-31T08:15:31.000Z: its payload is refused; use `retry held:3`";
    assert!(text.contains(blocked), "{text}");
    assert!(
        text.contains("2026-01-31T08:15:32.000Z  deferred"),
        "{text}"
    );
    let text = stage.operate_with(&HOLD, &["show", "held"]).await.stdout;
    assert!(text.contains("blocked    by event held:3"), "{text}");

    // By default, later events pass a failed one.
    let passed = stage.operate(&["show", "held:4", "-o", "json"]).await;
    assert_eq!(passed.json()["blocked_by"], json!(null));

    for (change, next) in [("held:3", json!("held:5")), ("held:5", json!(null))] {
        let discard = ["discard", change, "--reason", "for the test"];
        let discarded = stage.operate(&discard).await;
        assert_eq!(discarded.code, Some(0), "{discarded:?}");
        let blocking = shown("held:6").await["blocked_by"]["event_id"].clone();
        assert_eq!(blocking, next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn successors_follow_soon_after_the_event_that_blocks_them_is_discarded() {
    let stage = Stage::new().await;
    let options = [HOLD[0], ("RELAY_SWEEP_INTERVAL", "1h")];
    let _relay = stage.relay(&options).await;
    stage.put(with(event("a", 1), "payload", "{")).await;
    stage.put(event("a", 2)).await;
    stage.until_status("a", 1, "FAILED").await;
    eventually(DEADLINE, || async {
        let item = stage.event("a", 2).await;
        let is_deferred = item.contains_key("deferred_at");
        is_deferred.then_some(()).ok_or(format!("{item:?}"))
    })
    .await
    .unwrap();
    let discard = ["discard", "a:1", "--reason", "for the test"];
    assert_eq!(stage.operate(&discard).await.code, Some(0));
    stage.until_status("a", 2, "PUBLISHED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_counts_deferred_events_by_queue_and_names_the_relays() {
    let stage = Stage::new().await;
    let _relay = stage.quick_relay("relay-1").await;
    for n in 1..=3 {
        let unrouted = with(event(&format!("o-{n}"), 1), "event_type", "stock.moved");
        stage.put(unrouted).await;
    }
    let status = eventually(DEADLINE, || async {
        let ran = stage.operate_with(&QUICK, &["status", "-o", "json"]).await;
        let status = ran.json();
        if status["deferred"] == json!({ "(no route)": 3 }) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
    .await
    .unwrap();
    assert_eq!(status["pending"]["count"], 3);
    assert_eq!(status["members"], json!(["relay-1"]));
    let sweepers = status["sweepers"].as_array().unwrap();
    assert_eq!(sweepers.len(), 8, "{status}");
    let text = stage.operate(&["status"]).await.stdout;
    assert!(text.contains("deferred     3 for (no route)"), "{text}");
    assert!(text.contains("relays       relay-1"), "{text}");
    assert!(text.contains("sweepers     8 of 8 alive"), "{text}");
    let watch = stage.operate(&["watch", "--count", "1"]).await.stdout;
    assert!(watch.contains(" deferred=3 "), "{watch}");
}
