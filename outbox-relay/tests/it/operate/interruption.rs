//! Commands that end early, by an error or Ctrl-C: they report what was changed, and a sweep is
//! requested for it.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::{Fault, eventually};

use super::failed;
use crate::support::{DEADLINE, Item, RELAY, Stage, string};

impl Stage {
    /// Returns the lease item of one sweeper, once a relay has created it.
    async fn sweeper(&self) -> Option<Item> {
        let scan = self.dynamodb.scan().table_name("relay_leases");
        let response = scan.consistent_read(true).send().await.unwrap();
        let mut items = response.items.unwrap().into_iter();
        items.find(|item| string(item, "lease") == Some("sweeper#0"))
    }

    /// Returns a stage whose relay has stopped, so that a request for a sweep stays in the lease.
    async fn after_a_relay() -> Self {
        let stage = Self::new().await;
        let mut relay = stage.relay(&[]).await;
        eventually(DEADLINE, || async {
            stage.sweeper().await.map(drop).ok_or("no sweeper")
        })
        .await
        .unwrap();
        relay.terminate().await.unwrap();
        assert!(!stage.is_sweep_requested().await);
        stage
    }

    async fn is_sweep_requested(&self) -> bool {
        let lease = self.sweeper().await.unwrap();
        lease.contains_key("sweep_requested")
    }

    async fn status_of(&self, aggregate_id: &str, sequence: u64) -> String {
        let item = self.event(aggregate_id, sequence).await;
        string(&item, "status").unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_error_the_events_changed_before_it_are_reported() {
    let stage = Stage::after_a_relay().await;
    for id in ["first", "refused", "later"] {
        stage.put(failed(id, 1, "x")).await;
    }
    let proxy = stage.proxy().await;
    proxy.rule(|call| {
        if call.operation == "UpdateItem" && call.body.contains(r#""refused""#) {
            Fault::refuse("AccessDeniedException")
        } else {
            Fault::Pass
        }
    });
    let behind = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let names = ["retry", "first:1", "refused:1", "later:1", "-o", "json"];
    let ran = stage.operate_with(&behind, &names).await;
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("AccessDeniedException"), "{ran:?}");
    let events = ran.json()["events"].as_array().unwrap().clone();
    assert_eq!(events.len(), 2, "{ran:?}");
    assert_eq!(events[0]["changed"], true);
    assert_eq!(events[1]["event"], "refused:1");
    let problem = events[1]["problem"].as_str().unwrap();
    assert!(problem.contains("AccessDeniedException"), "{ran:?}");
    assert_eq!(stage.status_of("first", 1).await, "PENDING");
    assert_eq!(stage.status_of("later", 1).await, "FAILED");
    assert!(stage.is_sweep_requested().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_event_id_is_rejected_before_any_change() {
    let stage = Stage::without_queue().await;
    stage.put(failed("o-1", 1, "x")).await;
    for wrong in [
        &["retry", "o-1:1", ""][..],
        &["discard", "o-1:1", " ", "--reason", "x"],
    ] {
        assert_eq!(stage.operate(wrong).await.code, Some(64), "{wrong:?}");
    }
    assert_eq!(stage.status_of("o-1", 1).await, "FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_retry_of_all_events_reports_its_progress() {
    const DONE: usize = 2;
    let stage = Stage::after_a_relay().await;
    let items = (1..=5).map(|sequence| failed("o-1", sequence, "x"));
    stage.put_all(items.collect()).await;
    let proxy = stage.proxy().await;
    // After that, DynamoDB is unavailable for events, and the command retries.
    proxy.rule(|call| {
        let is_event = call.operation == "UpdateItem" && call.body.contains("aggregate_id");
        if is_event && call.count > DONE {
            Fault::fail()
        } else {
            Fault::Pass
        }
    });
    let child = tokio::process::Command::new(RELAY)
        .args(["retry", "--all-failed"])
        .envs(stage.cloud.env())
        .env("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.saw("UpdateItem", DONE + 1).await.unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let ended = tokio::time::timeout(DEADLINE, child.wait_with_output());
    let output = ended.await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, format!("{DONE} retried\n").as_bytes());
    let notices = String::from_utf8(output.stderr).unwrap();
    assert!(notices.contains("error: interrupted"), "{notices}");
    assert_eq!(stage.count("PENDING").await, DONE);
    assert!(stage.is_sweep_requested().await);
}
