//! Commands that end before they are through: what was done is told, and goes
//! out at once.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::{Fault, eventually};

use super::failed;
use crate::support::{DEADLINE, Item, RELAY, Stage, string};

impl Stage {
    /// The row of the sweeper's lease, once a relay has made it.
    async fn sweeper(&self) -> Option<Item> {
        let rows = self.dynamodb.scan().table_name("relay_leases");
        let answer = rows.consistent_read(true).send().await.unwrap();
        let mut rows = answer.items.unwrap().into_iter();
        rows.find(|row| string(row, "lease") == Some("sweeper"))
    }

    /// As a relay that is away leaves it: whatever asks for a sweep stays.
    async fn after_a_relay() -> Self {
        let stage = Self::new().await;
        let mut relay = stage.relay(&[]).await;
        eventually(DEADLINE, || async {
            stage.sweeper().await.map(drop).ok_or("no sweeper")
        })
        .await
        .unwrap();
        relay.terminate().await.unwrap();
        assert!(!stage.is_sweep_wanted().await);
        stage
    }

    async fn is_sweep_wanted(&self) -> bool {
        let row = self.sweeper().await.unwrap();
        row.contains_key("sweep_requested")
    }

    async fn status_of(&self, aggregate_id: &str, sequence: u64) -> String {
        let item = self.event(aggregate_id, sequence).await;
        string(&item, "status").unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_one_event_does_not_hide_what_was_done_to_others() {
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
    assert!(stage.is_sweep_wanted().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_where_one_name_is_empty() {
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
async fn an_interrupted_retry_of_all_says_how_far_it_came() {
    const DONE: usize = 2;
    let stage = Stage::after_a_relay().await;
    let items = (1..=5).map(|sequence| failed("o-1", sequence, "x"));
    stage.put_all(items.collect()).await;
    let proxy = stage.proxy().await;
    // From then on DynamoDB is away for the events, which is waited out.
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
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(remarks.contains("error: interrupted"), "{remarks}");
    assert_eq!(stage.count("PENDING").await, DONE);
    assert!(stage.is_sweep_wanted().await);
}
