//! `status`, `shards` and `watch`.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use test_support::eventually;

use super::{Ran, failed, with};
use crate::support::{DEADLINE, Stage, event, is_shard_lease, string, text};

async fn status(stage: &Stage, extra: &[&str]) -> (Option<i32>, Value) {
    let ran = stage
        .operate(&[&["status", "--output", "json"], extra].concat())
        .await;
    (ran.code, ran.json())
}

/// Waits until the relay has acquired its leases, and returns the healthy report.
async fn until_healthy(stage: &Stage) -> Value {
    eventually(DEADLINE, || async {
        match status(stage, &[]).await {
            (Some(0), report) => Ok(report),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_healthy_while_a_relay_runs() {
    let stage = Stage::new().await;
    let (code, report) = status(&stage, &[]).await;
    assert_eq!(code, Some(1));
    let problems = report["problems"].to_string();
    assert!(
        problems.contains("no relay of the group `default`"),
        "{problems}"
    );
    let mut relay = stage.quick_relay("relay-1").await;
    let report = until_healthy(&stage).await;
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert_eq!(report["shards"][0]["owner"], "relay-1");
    assert_eq!(report["shards"][0]["life"], "alive");
    assert_eq!(report["sweeper"]["life"], "alive");
    assert_eq!(report["members"], serde_json::json!(["relay-1"]));
    let lag = report["lag_seconds"].as_f64();
    assert!(lag.is_none_or(|lag| lag < 60.0), "{report}");
    let shards = stage.operate(&["shards"]).await;
    assert_eq!(shards.code, Some(0), "{shards:?}");
    // The shard, the maintenance lease and the leases of eight sweepers.
    assert_eq!(shards.stdout.matches("relay-1").count(), 10, "{shards:?}");
    relay.kill().await.unwrap();
    let (code, report) = status(&stage, &[]).await;
    assert_eq!(code, Some(1));
    let problems = report["problems"].to_string();
    assert!(problems.contains("wrote no heartbeat"), "{problems}");
    assert_eq!(report["shards"][0]["life"], "silent");
    assert_eq!(report["members"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_and_old_pending_events_are_unhealthy() {
    let stage = Stage::without_queue().await;
    let _relay = stage.quick_relay("relay-1").await;
    until_healthy(&stage).await;
    stage.put(failed("o-1", 1, "refused")).await;
    let (code, report) = status(&stage, &[]).await;
    assert_eq!(code, Some(1));
    assert_eq!(report["failed"]["count"], 1);
    assert!(
        report["problems"][0]
            .as_str()
            .unwrap()
            .starts_with("1 event has failed")
    );
    assert_eq!(status(&stage, &["--max-failed", "1"]).await.0, Some(0));
    // Its queue does not exist, so it stays pending.
    let old = with(event("o-2", 1), "occurred_at", "2026-01-01T00:00:00.000Z");
    stage.put(old).await;
    let (code, report) = status(&stage, &["--max-failed", "1"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(
        report["pending"],
        serde_json::json!({"count": 1, "exact": true})
    );
    assert_eq!(report["oldest_pending"], "2026-01-01T00:00:00.000Z");
    assert!(
        report["problems"]
            .to_string()
            .contains("the oldest pending event"),
        "{report}"
    );
    // A value that is not a time, and sorts before all times, does not hide the oldest event.
    let odd = with(event("o-2", 2), "occurred_at", "0 o'clock");
    stage.put(odd).await;
    let (_, report) = status(&stage, &[]).await;
    assert_eq!(report["pending"]["count"], 2);
    assert_eq!(report["oldest_pending"], "2026-01-01T00:00:00.000Z");
    assert!(report["oldest_pending_seconds"].is_number(), "{report}");
    let text = stage.operate(&["status"]).await;
    assert_eq!(text.code, Some(1));
    assert!(text.stdout.starts_with("UNHEALTHY\n"), "{text:?}");
    assert!(text.stdout.contains("relay-1"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_deleted_shard_is_not_a_problem() {
    let stage = Stage::new().await;
    let mut relay = stage.quick_relay("relay-1").await;
    until_healthy(&stage).await;
    relay.terminate().await.unwrap();
    // The lease that remains if no relay ran while its shard was closed and trimmed.
    let mut lease = stage.lease().await.unwrap();
    lease.insert(
        "lease".to_owned(),
        AttributeValue::S("shardId-deleted".to_owned()),
    );
    lease.insert(
        "owner".to_owned(),
        AttributeValue::S("a dead relay".to_owned()),
    );
    let put = stage.dynamodb.put_item().table_name("relay_leases");
    put.set_item(Some(lease)).send().await.unwrap();
    let all = stage
        .operate(&["shards", "--all", "-o", "json"])
        .await
        .json();
    let leases = all.as_array().unwrap();
    let orphan = leases
        .iter()
        .find(|lease| lease["lease"] == "shardId-deleted");
    assert_eq!(orphan.unwrap()["life"], "gone");
    let (_, report) = status(&stage, &[]).await;
    let problems = report["problems"].to_string();
    assert!(!problems.contains("shardId-deleted"), "{problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_writes_one_line_per_read_into_a_pipe() {
    let stage = Stage::new().await;
    let _relay = stage.quick_relay("relay-1").await;
    until_healthy(&stage).await;
    let watch = ["watch", "--interval", "500ms", "--count", "3"];
    let ran = stage.operate(&watch).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(
        lines[2].contains("healthy pending=0") && lines[2].contains("alive=1"),
        "{ran:?}"
    );
    let ran = stage.operate(&[&watch[..], &["-o", "json"]].concat()).await;
    for line in ran.stdout.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let Ran {
        code,
        stdout,
        stderr,
    } = stage
        .operate_with(&[("OUTBOX_TABLE", "nowhere")], &watch)
        .await;
    assert_eq!((code, stdout.as_str()), (Some(69), ""));
    assert_eq!(
        stderr.matches("table `nowhere` does not exist").count(),
        3,
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_exits_with_success_on_an_interrupt() {
    let stage = Stage::new().await;
    let mut child = tokio::process::Command::new(crate::support::RELAY)
        .args(["watch", "--interval", "200ms"])
        .envs(stage.cloud.env())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = {
        use tokio::io::{AsyncBufReadExt, BufReader};
        BufReader::new(child.stdout.take().unwrap()).lines()
    };
    lines.next_line().await.unwrap().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait());
    assert_eq!(ended.await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_lease_items_that_cannot_be_read() {
    let stage = Stage::new().await;
    let _relay = stage.quick_relay("relay-1").await;
    until_healthy(&stage).await;
    let mut items = stage.leases().await;
    items.retain(|item| is_shard_lease(item) || string(item, "lease") == Some("sweeper#2"));
    assert_eq!(items.len(), 2);
    for mut item in items.clone() {
        item.insert("epoch".to_owned(), text("garbage"));
        let put = stage.dynamodb.put_item().table_name("relay_leases");
        put.set_item(Some(item)).send().await.unwrap();
    }
    let (code, report) = status(&stage, &[]).await;
    assert_eq!(code, Some(1));
    let problems = report["problems"].to_string();
    for item in &items {
        let lease = string(item, "lease").unwrap();
        assert!(problems.contains(lease), "{problems}");
    }
    assert!(problems.contains("cannot be read"), "{problems}");
    assert_eq!(report["shards"][0]["life"], "unreadable");
    assert_eq!(report["sweepers"].as_array().unwrap().len(), 8);
    let shards = stage.operate(&["shards"]).await.stdout;
    assert_eq!(shards.matches("unreadable").count(), 2, "{shards}");
}
