//! `/readyz` names missing tables, and recovers.

use std::time::Duration;

use futures::future::join_all;
use test_support::{Fault, eventually};

use crate::support::{World, an_order};

#[tokio::test]
async fn readiness_names_missing_tables_and_recovers_when_they_are_created() {
    let world = World::without_tables(&[]).await;
    assert_eq!(world.get("/healthz").await.status, 200);
    let red = world.get("/readyz").await;
    assert_eq!(red.status, 503);
    let red = red.json();
    assert_eq!(red["status"], "unhealthy");
    for (n, table) in ["orders", "outbox", "idempotency_keys"].iter().enumerate() {
        let check = &red["checks"][n];
        assert_eq!(check["name"], format!("table {table}"));
        assert_eq!(
            check["reason"],
            format!(
                "table `{table}` does not exist in this account and region; `all-in-one provision` \
                 creates it"
            )
        );
    }
    world
        .post(&an_order())
        .await
        .assert_problem(503, "unavailable");

    world.provision().await;
    let recovered = async || match world.get("/readyz").await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer),
    };
    eventually(Duration::from_secs(10), recovered)
        .await
        .unwrap();
    world.post(&an_order()).await.assert_created();
}

#[tokio::test]
async fn readiness_states_why_a_table_cannot_be_described_and_what_to_do() {
    let world = World::start().await;
    for (fault, expected) in [
        (
            Fault::refuse("AccessDeniedException"),
            "AccessDeniedException: injected by the test; grant the permission",
        ),
        (
            Fault::refuse("ExpiredTokenException"),
            "ExpiredTokenException: injected by the test; renew the credentials",
        ),
        (Fault::fail(), "InternalServerError"),
    ] {
        world.always([("DescribeTable", fault)]);
        let red = async || match world.get("/readyz").await {
            answer if answer.status == 503 && answer.body.contains(expected) => Ok(answer),
            answer => Err(answer),
        };
        let red = eventually(Duration::from_secs(10), red).await.unwrap();
        assert!(red.body.contains("DescribeTable failed"), "{red:?}");
        assert_eq!(world.get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn readiness_names_a_denied_request() {
    let world = World::start().await;
    world.always([("TransactWriteItems", Fault::refuse("AccessDeniedException"))]);
    let response = world.post(&an_order()).await;
    response.assert_problem(503, "unavailable");
    let red = async || match world.get("/readyz").await {
        answer if answer.status == 503 => Ok(answer.json()),
        answer => Err(answer),
    };
    let red = eventually(Duration::from_secs(10), red).await.unwrap();
    let checks = red["checks"].as_array().unwrap();
    let denied = checks
        .iter()
        .find(|check| check["name"] == "TransactWriteItems");
    let reason = denied.unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("grant the permission"), "{reason}");
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn concurrent_probes_share_one_check() {
    let world = World::start().await;
    let answers = join_all((0..50).map(|_| world.get("/readyz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let operations = world.proxy.take_operations();
    // Twice if the machine was so slow that the first report expired.
    assert!(
        operations.len() == 3 || operations.len() == 6,
        "{operations:?}"
    );
    assert!(
        operations
            .iter()
            .all(|operation| operation == "DescribeTable")
    );
}
