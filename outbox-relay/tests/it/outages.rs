use local_cloud::testing::eventually;

use crate::support::{DEADLINE, Stage, event, string};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_is_an_outage_that_heals() {
    let stage = Stage::without_queue().await;
    let relay = stage.relay(&[]).await;
    stage
        .put_all((0..30).map(|n| event(&format!("a-{n}"), 1)).collect())
        .await;
    let ready = eventually(DEADLINE, || async {
        let answer = reqwest::get(relay.url("/readyz")).await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        if status == 503 && body.contains("queue order-events") {
            Ok(body)
        } else {
            Err(body)
        }
    })
    .await
    .unwrap();
    assert!(ready.contains("does not exist"), "{ready}");
    let healthz = reqwest::get(relay.url("/healthz")).await.unwrap();
    assert_eq!(healthz.status(), 200, "a restart would not help");
    assert_eq!(stage.count("PENDING").await, 30);

    stage.create_queue("order-events").await;
    stage.until_count("PUBLISHED", 30).await;
    assert_eq!(stage.count("FAILED").await, 0);
    assert_eq!(stage.receive("order-events", 30).await.len(), 30);
    let ready = eventually(DEADLINE, || async {
        match reqwest::get(relay.url("/readyz")).await.unwrap() {
            answer if answer.status() == 200 => Ok(()),
            answer => Err(answer.text().await.unwrap()),
        }
    })
    .await;
    ready.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_queue_that_is_away_does_not_hold_up_another() {
    let stage = Stage::new().await;
    let _relay = stage
        .relay(&[("RELAY_ROUTES", "order.lost=away,order.*=order-events")])
        .await;
    let mut lost = event("lost", 1);
    lost.insert("event_type".to_owned(), crate::support::text("order.lost"));
    stage.put(lost).await;
    stage.put(event("a", 1)).await;
    stage.until_status("a", 1, "PUBLISHED").await;
    let lost = stage.event("lost", 1).await;
    assert_eq!(string(&lost, "status"), Some("PENDING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_appears_later_is_found() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[("OUTBOX_TABLE", "later")]).await;
    eventually(DEADLINE, || async {
        let answer = reqwest::get(relay.url("/readyz")).await.unwrap();
        let body = answer.text().await.unwrap();
        if body.contains("table `later` does not exist") {
            Ok(())
        } else {
            Err(body)
        }
    })
    .await
    .unwrap();
    let later = shared::provision::Table::outbox("later");
    shared::provision::tables(&stage.dynamodb, [later])
        .await
        .unwrap();
    stage
        .dynamodb
        .put_item()
        .table_name("later")
        .set_item(Some(event("a", 1)))
        .send()
        .await
        .unwrap();
    assert_eq!(stage.receive("order-events", 1).await.len(), 1);
}
