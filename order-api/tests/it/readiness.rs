//! `/readyz` says what is missing, and heals.

use std::time::Duration;

use futures::future::join_all;
use test_support::eventually;

use crate::support::{World, an_order};

#[tokio::test]
async fn a_missing_table_is_named_and_its_appearance_heals() {
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
            format!("table `{table}` does not exist in this account and region")
        );
    }
    world
        .post(&an_order())
        .await
        .assert_problem(503, "unavailable");

    world.provision().await;
    let healed = async || match world.get("/readyz").await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer),
    };
    eventually(Duration::from_secs(10), healed).await.unwrap();
    world.post(&an_order()).await.assert_created();
}

#[tokio::test]
async fn many_probes_ask_the_database_once() {
    let world = World::start().await;
    let answers = join_all((0..50).map(|_| world.get("/readyz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let asked = world.proxy.take_operations();
    // Once more where the machine was so slow that the first report went stale.
    assert!(asked.len() == 3 || asked.len() == 6, "{asked:?}");
    assert!(asked.iter().all(|operation| operation == "DescribeTable"));
}
