//! Relays that must not run at the same time, and work that only one relay of a group does.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use test_support::{Service, eventually};
use tokio::process::Command;

use crate::support::{DEADLINE, RELAY, Stage, event, string, text, until_answer};

/// Runs a relay that is expected to exit by itself. Returns its exit code and its last line.
async fn refused(stage: &Stage, extra: &[(&str, &str)]) -> (Option<i32>, String) {
    let environment = stage.cloud.env().into_iter();
    let mut relay = Command::new(RELAY);
    relay
        .envs(environment.map(|(name, value)| (name.to_string(), value)))
        .env("RELAY_ADMIN_LISTEN", "127.0.0.1:0")
        .envs(extra.iter().copied())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, relay.output())
        .await
        .expect("the relay exits")
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let last = log.trim_end().lines().last().unwrap_or_default();
    (output.status.code(), last.to_owned())
}

async fn until_published(stage: &Stage, aggregate_id: &str) {
    stage.put(event(aggregate_id, 1)).await;
    stage.until_status(aggregate_id, 1, "PUBLISHED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_instance_id_of_a_running_one_exits() {
    let stage = Stage::new().await;
    let mut first = stage.relay(&[("RELAY_LEASE_DURATION", "2s")]).await;
    until_published(&stage, "a").await;
    let options = [
        ("RELAY_INSTANCE_ID", "relay-1"),
        ("RELAY_LEASE_DURATION", "2s"),
    ];
    let (code, message) = refused(&stage, &options).await;
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("`relay-1`"), "{message}");
    assert!(message.contains("RELAY_INSTANCE_ID"), "{message}");
    // The first one has lost nothing.
    until_published(&stage, "b").await;
    assert!(!first.log().contains("lease lost"), "{}", first.log());

    // After a kill, the next process with its id works without waiting for its leases to expire.
    first.kill().await.unwrap();
    let began = Instant::now();
    let _second = stage.relay(&[("RELAY_LEASE_DURATION", "20s")]).await;
    until_published(&stage, "c").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_consumer_group_exits_while_the_first_is_alive() {
    let stage = Stage::new().await;
    let quick = ("RELAY_LEASE_DURATION", "2s");
    let mut first = stage.relay(&[quick]).await;
    until_published(&stage, "a").await;
    let other = [
        ("RELAY_INSTANCE_ID", "other"),
        ("RELAY_CONSUMER_GROUP", "other"),
        quick,
    ];
    let (code, message) = refused(&stage, &other).await;
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("`default`"), "{message}");
    assert!(message.contains("RELAY_CONSUMER_GROUP"), "{message}");

    // Once it is dead, the second takes its place, and then the first is refused.
    first.kill().await.unwrap();
    let _second = stage.relay(&other).await;
    until_published(&stage, "b").await;
    let (code, message) = refused(&stage, &[quick]).await;
    assert_eq!(code, Some(64), "{message}");
    assert!(message.contains("`other`"), "{message}");
}

async fn page(relay: &Service, path: &str) -> String {
    let answer = reqwest::get(relay.url(path)).await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_of_a_group_counts_the_events() {
    const GAUGES: [&str; 3] = [
        "outbox_pending_events",
        "outbox_failed_events",
        "outbox_oldest_pending_seconds",
    ];
    let stage = Stage::new().await;
    let quick = [
        ("RELAY_LEASE_DURATION", "1s"),
        ("RELAY_SWEEP_INTERVAL", "200ms"),
    ];
    let mut relays = Vec::new();
    for name in ["a", "b"] {
        let mut options = quick.to_vec();
        options.push(("RELAY_INSTANCE_ID", name));
        relays.push(stage.relay(&options).await);
    }
    let counting = async |relays: &[Service]| {
        let mut counting = Vec::new();
        for (n, relay) in relays.iter().enumerate() {
            let metrics = page(relay, "/metrics").await;
            let exported = GAUGES.iter().filter(|name| {
                let value = format!("\n{name} ");
                metrics.contains(&value)
            });
            match exported.count() {
                0 => {}
                3 => counting.push(n),
                some => panic!("{some} of {GAUGES:?} are exported"),
            }
        }
        counting
    };
    let one = eventually(DEADLINE, || async {
        match counting(&relays).await[..] {
            [one] => Ok(one),
            ref other => Err(format!("{other:?} count")),
        }
    });
    let one = one.await.unwrap();
    // Another one counts when it stops.
    relays.remove(one).terminate().await.unwrap();
    let other = eventually(DEADLINE, || async {
        match counting(&relays).await[..] {
            [0] => Ok(()),
            ref other => Err(format!("{other:?} count")),
        }
    });
    other.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_item_that_cannot_be_parsed_is_named_and_waits_for_an_operator() {
    let stage = Stage::new().await;
    let mut first = stage.relay(&[]).await;
    until_published(&stage, "a").await;
    first.terminate().await.unwrap();
    let lease = stage.lease().await.unwrap();
    let id = string(&lease, "lease").unwrap().to_owned();
    let set_epoch = async |value: AttributeValue| {
        stage
            .dynamodb
            .update_item()
            .table_name("relay_leases")
            .key("stream", lease["stream"].clone())
            .key("lease", lease["lease"].clone())
            .update_expression("SET epoch = :value")
            .expression_attribute_values(":value", value)
            .send()
            .await
            .unwrap();
    };
    set_epoch(text("three")).await;
    let second = stage.relay(&[]).await;
    stage.put(event("b", 1)).await;
    let named = eventually(DEADLINE, || async {
        let report = page(&second, "/readyz").await;
        let is_named = report.contains(&format!("lease {id}")) && report.contains("parsed");
        if is_named { Ok(()) } else { Err(report) }
    });
    named.await.unwrap();
    let log = second.log();
    assert_eq!(
        log.matches("lease item cannot be parsed").count(),
        1,
        "{log}"
    );
    set_epoch(lease["epoch"].clone()).await;
    stage.until_status("b", 1, "PUBLISHED").await;
    let ready = eventually(DEADLINE, || async {
        let report = page(&second, "/readyz").await;
        if report.contains("parsed") {
            Err(report)
        } else {
            Ok(())
        }
    });
    ready.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_cannot_be_read_is_named_until_it_is_deleted() {
    let stage = Stage::new().await;
    let mut relay = stage.relay(&[]).await;
    until_published(&stage, "a").await;
    relay.kill().await.unwrap();
    let items = stage
        .dynamodb
        .scan()
        .table_name("relay_leases")
        .send()
        .await;
    let mut items = items.unwrap().items.unwrap().into_iter();
    let registration = items.find(|item| string(item, "lease") == Some("registration"));
    let mut registration = registration.unwrap();
    let key = ["stream", "lease"].map(|name| (name.to_owned(), registration[name].clone()));
    registration.insert("owner".to_owned(), AttributeValue::N("7".to_owned()));
    let put = stage.dynamodb.put_item().table_name("relay_leases");
    put.set_item(Some(registration)).send().await.unwrap();

    let relay = stage.relay(&[]).await;
    until_answer(&relay, "/readyz", 503, "`registration` of `arn:").await;
    let delete = stage.dynamodb.delete_item().table_name("relay_leases");
    delete.set_key(Some(key.into())).send().await.unwrap();
    until_published(&stage, "b").await;
    until_answer(&relay, "/readyz", 200, "").await;
}
