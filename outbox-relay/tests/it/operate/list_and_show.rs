//! `list`, `show` and `completions`.

use std::process::{Command, Stdio};

use super::{failed, published, with};
use crate::support::{RELAY, Stage, event, text};

#[tokio::test(flavor = "multi_thread")]
async fn pending_and_failed_events_are_listed_oldest_first() {
    let stage = Stage::without_queue().await;
    stage.put(event("young", 1)).await;
    stage
        .put(failed("broken", 1, "`payload` is not JSON"))
        .await;
    stage
        .put(with(
            event("old", 1),
            "occurred_at",
            "2026-01-01T00:00:00.000Z",
        ))
        .await;
    stage.put(published("done", 1)).await;
    let all = stage.operate(&["list"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    assert_eq!(all.first_column(), ["old:1", "broken:1", "young:1"]);
    assert!(all.stdout.contains("`payload` is not JSON"), "{all:?}");
    assert!(!all.stdout.contains('\u{1b}'), "a pipe has no colours");
    for (arguments, expected) in [
        (&["--state", "failed"][..], &["broken:1"][..]),
        (&["--state", "pending", "--newest"], &["young:1", "old:1"]),
        (&["--since", "1h"], &["young:1"]),
        (
            &["--since", "2026-01-31T00:00:00Z"],
            &["broken:1", "young:1"],
        ),
        (&["--reason", "not JSON"], &["broken:1"]),
        (
            &["--type", "order.*", "--limit", "2"],
            &["old:1", "broken:1"],
        ),
        (&["--type", "stock.*"], &[]),
        (
            &["--state", "published", "--aggregate", "done"],
            &["done:1"],
        ),
        (&["--state", "published", "--scan"], &["done:1"]),
        (&["--aggregate", "unknown"], &[]),
    ] {
        let ran = stage.operate(&[&["list"], arguments].concat()).await;
        assert_eq!(ran.code, Some(0), "{arguments:?} {ran:?}");
        assert_eq!(ran.first_column(), expected, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_list_every_event_once_and_in_order() {
    let stage = Stage::without_queue().await;
    // Two events of each time, spread over all partitions of the index.
    let items = (0..60).map(|n| {
        let at = format!("2026-01-01T00:00:{:02}.000Z", n / 2);
        with(event(&format!("a-{n}"), 1), "occurred_at", &at)
    });
    stage.put_all(items.collect()).await;
    let mut seen = Vec::new();
    let mut next = None::<String>;
    loop {
        let mut arguments = vec!["list", "--output", "json", "--limit", "7"];
        if let Some(next) = &next {
            arguments.extend(["--after", next]);
        }
        let page = stage.operate(&arguments).await.json();
        for event in page["events"].as_array().unwrap() {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            seen.push((text("occurred_at"), text("event_id")));
        }
        match page["next"].as_str() {
            Some(more) => next = Some(more.to_owned()),
            None => break,
        }
    }
    assert!(seen.is_sorted_by_key(|(at, _)| at.clone()), "{seen:?}");
    seen.sort_by(|(_, a), (_, b)| a.cmp(b));
    seen.dedup();
    assert_eq!(seen.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_an_event_in_full() {
    let stage = Stage::without_queue().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut item = with(
        failed("o-1", 1, "no route matches"),
        "traceparent",
        traceparent,
    );
    item.insert("payload".to_owned(), text(r#"{"a":{"b":1.50}}"#));
    item.insert("tenant".to_owned(), text("blue"));
    stage.put(item).await;
    stage
        .put(with(failed("o-2", 9, "x"), "event_id", "an-id-of-its-own"))
        .await;
    let jaeger = [("JAEGER_UI_URL", "http://jaeger.example/")];
    let shown = stage.operate_with(&jaeger, &["show", "o-1:1"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in [
        "no route matches",
        "http://jaeger.example/trace/0af7651916cd43dd8448eb211c80319c\n",
        "{\n  \"a\": {\n    \"b\": 1.50\n  }\n}",
        "2026-01-31T08:15:30.000Z  committed",
        "2026-01-31T08:15:31.000Z  failed",
        "blue",
    ] {
        assert!(
            shown.stdout.contains(part),
            "{part} is not in\n{}",
            shown.stdout
        );
    }
    let by_aggregate = stage.operate_with(&jaeger, &["show", "o-1"]).await;
    assert_eq!(
        by_aggregate.stdout, shown.stdout,
        "an aggregate of one event"
    );
    let json = stage
        .operate(&["show", "o-1:1", "--output", "json"])
        .await
        .json();
    assert_eq!(json["kind"], "event");
    assert_eq!(json["payload"], r#"{"a":{"b":1.50}}"#);
    assert_eq!(json["other"]["tenant"], "blue");
    let own = stage
        .operate(&["show", "an-id-of-its-own", "--output", "json"])
        .await;
    assert_eq!(own.json()["aggregate_id"], "o-2", "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn show_includes_the_state_of_the_aggregate() {
    let stage = Stage::without_queue().await;
    let orders = shared::provision::Table::orders("orders");
    shared::provision::tables(&stage.dynamodb, [orders])
        .await
        .unwrap();
    stage
        .dynamodb
        .put_item()
        .table_name("orders")
        .item("order_id", text("o-1"))
        .item("status", text("PROCESSED"))
        .item("updated_at", text("2026-01-31T08:15:32.000Z"))
        .send()
        .await
        .unwrap();
    stage.put(published("o-1", 1)).await;
    let tables = [("RELAY_AGGREGATE_TABLES", "order=orders")];
    let shown = stage.operate_with(&tables, &["show", "o-1"]).await;
    assert!(
        shown
            .stdout
            .contains("2026-01-31T08:15:32.000Z  processed  PROCESSED"),
        "{shown:?}"
    );
    stage.put(published("o-1", 2)).await;
    let history = stage
        .operate_with(&tables, &["show", "o-1", "-o", "json"])
        .await
        .json();
    assert_eq!(history["kind"], "aggregate");
    assert_eq!(history["events"].as_array().unwrap().len(), 2);
    assert_eq!(history["state"]["status"], "PROCESSED");
    let missing = [("RELAY_AGGREGATE_TABLES", "order=nowhere")];
    let shown = stage.operate_with(&missing, &["show", "o-1:1"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(
        shown.stdout.contains("`nowhere` does not exist"),
        "{shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_their_cause_and_have_their_exit_codes() {
    let stage = Stage::without_queue().await;
    const NOT_A_NUMBER: &str = r#"{"FAILED":{"After":{"occurred_at":"2026-01-31T08:15:30.000Z","aggregate_id":"a","sequence":"one"}}}"#;
    for (environment, arguments, code, text) in [
        (
            &[][..],
            &["show", "unknown:1"][..],
            1,
            "no event or aggregate `unknown:1`",
        ),
        (&[], &["show", "a:1e-200"], 1, "no event or aggregate"),
        (
            &[],
            &["list", "--state", "deleted"],
            64,
            "pending, failed, published or discarded",
        ),
        (&[], &["list", "--state", "published"], 64, "--scan"),
        (&[], &["list", "--since", "yesterday"], 64, "15m"),
        (&[], &["list", "--type", "a*b"], 64, "order.*"),
        (&[], &["list", "--limit", "0"], 64, "--limit"),
        (&[], &["list", "--after", "nonsense"], 64, "page token"),
        (
            &[],
            &["list", "--after", r#"{"FAILED":"Nowhere"}"#],
            64,
            "page token",
        ),
        (&[], &["list", "--after", NOT_A_NUMBER], 64, "page token"),
        (&[], &["frobnicate"], 64, "frobnicate"),
        (
            &[("OUTBOX_TABLE", "nowhere")],
            &["list"],
            69,
            "table `nowhere` does not exist",
        ),
        (&[("LEASES_TABLE", "nowhere")], &["shards"], 69, "nowhere"),
        (
            &[("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")],
            &["list"],
            69,
            "the request on table `outbox` failed",
        ),
        (
            &[("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")],
            &["shards"],
            69,
            "the stream of table `outbox`",
        ),
        (&[], &["shards"], 0, "no relay of this consumer group"),
    ] {
        let ran = stage.operate_with(environment, arguments).await;
        assert_eq!(ran.code, Some(code), "{arguments:?} {ran:?}");
        let last = ran.stderr.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains(text), "{arguments:?} {ran:?}");
        assert!(last.len() < 500, "{last}");
    }
    // DynamoDB limits a partition key to 2048 bytes.
    let ran = stage.operate(&["show", &"x".repeat(2_049)]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_not_an_error() {
    let stage = Stage::without_queue().await;
    // More than the buffer of a pipe holds.
    let payload = format!("\"{}\"", "x".repeat(390_000));
    stage
        .put(with(failed("large", 1, "x"), "payload", &payload))
        .await;
    let mut child = Command::new(RELAY)
        .args(["show", "large:1"])
        .envs(stage.cloud.env())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
    let whole = stage.operate(&["show", "large:1"]).await;
    assert!(whole.stdout.ends_with(&format!("{payload}\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_exist_for_each_shell() {
    let stage = Stage::without_queue().await;
    for shell in ["bash", "zsh", "fish"] {
        let ran = stage.operate(&["completions", shell]).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("all-failed"), "{shell}");
    }
}
