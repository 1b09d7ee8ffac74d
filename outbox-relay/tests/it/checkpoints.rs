use std::time::Duration;

use test_support::{Fault, eventually};

use crate::support::{DEADLINE, Stage, event, ids, metric, string};

const FAILURES: &str = "outbox_checkpoint_failures_total";

async fn until_checkpointed(stage: &Stage, other_than: Option<&str>) -> String {
    eventually(DEADLINE, || async {
        let lease = stage.lease().await.ok_or("no lease")?;
        match string(&lease, "checkpoint") {
            Some(checkpoint) if Some(checkpoint) != other_than => Ok(checkpoint.to_owned()),
            _ => Err("no new checkpoint"),
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_continues_at_the_checkpoint() {
    let stage = Stage::new().await;
    let mut relay = stage.relay(&[]).await;
    stage
        .put_all((0..50).map(|n| event(&format!("a-{n}"), 1)).collect())
        .await;
    stage.until_count("PUBLISHED", 50).await;
    until_checkpointed(&stage, None).await;
    relay.kill().await.unwrap();
    stage
        .put_all((0..50).map(|n| event(&format!("b-{n}"), 1)).collect())
        .await;
    let _successor = stage.relay(&[]).await;
    stage.until_count("PUBLISHED", 100).await;
    assert_eq!(stage.receive("order-events", 100).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_event_is_not_sent_again_without_a_checkpoint() {
    let stage = Stage::new().await;
    let mut relay = stage.relay(&[]).await;
    stage
        .put_all((0..150).map(|n| event(&format!("a-{n}"), 1)).collect())
        .await;
    stage.until_count("PUBLISHED", 150).await;
    relay.kill().await.unwrap();
    stage.delete_lease().await;
    let _successor = stage.relay(&[]).await;
    stage.put(event("b", 1)).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    assert_eq!(stage.receive("order-events", 151).await.len(), 151);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relay_releases_its_lease_so_that_another_starts_at_once() {
    let stage = Stage::new().await;
    let mut first = stage.relay(&[("RELAY_LEASE_DURATION", "5m")]).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    assert!(first.terminate().await.unwrap().success());
    let lease = stage.lease().await.unwrap();
    assert_eq!(string(&lease, "owner"), None);
    assert!(string(&lease, "checkpoint").is_some());

    let other = [
        ("RELAY_LEASE_DURATION", "5m"),
        ("RELAY_INSTANCE_ID", "relay-2"),
    ];
    let _second = stage.relay(&other).await;
    stage.put(event("b", 1)).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    let lease = stage.lease().await.unwrap();
    assert_eq!(string(&lease, "owner"), Some("relay-2"));
    assert_eq!(lease["epoch"].as_n().unwrap(), "2");
    assert_eq!(stage.receive("order-events", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_heartbeat_is_taken_over_after_the_lease_duration() {
    let stage = Stage::new().await;
    let short = [("RELAY_LEASE_DURATION", "1s")];
    let mut first = stage.relay(&short).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    first.kill().await.unwrap();
    let other = [
        ("RELAY_LEASE_DURATION", "1s"),
        ("RELAY_INSTANCE_ID", "relay-2"),
    ];
    let _second = stage.relay(&other).await;
    stage.put(event("b", 1)).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    assert_eq!(ids(&stage.receive("order-events", 2).await), ["a:1", "b:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_cannot_move_the_checkpoint() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[]).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    until_checkpointed(&stage, None).await;
    stage.steal_lease().await;
    let before = stage.lease().await.unwrap();
    stage.put(event("b", 1)).await;
    eventually(DEADLINE, || async {
        let metrics = reqwest::get(relay.url("/metrics")).await;
        let metrics = metrics.map_err(|e| e.to_string())?.text().await;
        let metrics = metrics.map_err(|e| e.to_string())?;
        if metrics.contains("outbox_leases_lost_total 1")
            && metrics.contains("outbox_shards_held 0")
        {
            Ok(())
        } else {
            Err(metrics)
        }
    })
    .await
    .unwrap();
    assert_eq!(stage.lease().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_without_response_is_retried_before_the_lease_expires() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let lease = Duration::from_secs(4);
    let _relay = stage
        .relay_behind(&proxy, &[("RELAY_LEASE_DURATION", "4s")])
        .await;
    stage.put(event("a", 1)).await;
    until_checkpointed(&stage, None).await;
    let mut held = false;
    proxy.rule(move |call| {
        let hold = !held && call.operation == "UpdateItem" && call.body.contains("shardId-");
        held |= hold;
        if hold { Fault::Hold } else { Fault::Pass }
    });
    let is_held = || async {
        (proxy.held() == 1)
            .then_some(())
            .ok_or("no heartbeat was sent")
    };
    eventually(DEADLINE, is_held).await.unwrap();
    let before = stage.lease().await.unwrap();
    // A third of the lease has passed since the last one.
    let heartbeat = eventually(lease * 2 / 3, || async {
        match stage.lease().await.unwrap() {
            lease if lease["beat"] != before["beat"] => Ok(()),
            lease => Err(lease),
        }
    });
    heartbeat.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_writes_of_a_lease_are_logged_once_until_it_is_written_again() {
    let stage = Stage::new().await;
    let proxy = stage.proxy().await;
    let relay = stage
        .relay_behind(&proxy, &[("RELAY_LEASE_DURATION", "1s")])
        .await;
    stage.put(event("a", 1)).await;
    until_checkpointed(&stage, None).await;
    for _ in 0..2 {
        proxy.rule(|call| {
            let is_of_shard = call.operation == "UpdateItem" && call.body.contains("shardId-");
            if is_of_shard {
                Fault::refuse("AccessDeniedException")
            } else {
                Fault::Pass
            }
        });
        let before = metric(&relay, FAILURES).await;
        let failed = eventually(DEADLINE, || async {
            let failed = metric(&relay, FAILURES).await - before;
            (failed >= 10).then_some(()).ok_or(failed)
        });
        failed.await.unwrap();
        proxy.heal();
        let stopped = stage.lease().await.unwrap();
        let written = eventually(DEADLINE, || async {
            let lease = stage.lease().await.unwrap();
            (lease["beat"] != stopped["beat"])
                .then_some(())
                .ok_or(lease)
        });
        written.await.unwrap();
    }
    let warnings = relay.log().matches("lease could not be written").count();
    assert_eq!(warnings, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_kept_per_consumer_group_and_stream() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[("RELAY_CONSUMER_GROUP", "blue")]).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    let lease = stage.lease().await.unwrap();
    assert!(string(&lease, "stream").unwrap().starts_with("blue|arn:"));
}
