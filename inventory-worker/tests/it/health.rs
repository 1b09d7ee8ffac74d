//! What the worker says about itself.

use local_cloud::LocalCloud;
use shared::order::OrderStatus;
use shared::provision::{self, Table};
use test_support::{Fault, Proxy, Service, eventually};

use crate::support::{DEADLINE, TestCloud, get, start_worker};

#[tokio::test]
async fn missing_tables_and_queue_are_named_and_heal_by_themselves() {
    let cloud = LocalCloud::start(local_cloud::Config::default())
        .await
        .unwrap();
    let worker = start_worker(cloud.env(), &[]).await;

    let body = ready(&worker, 503, "queue").await;
    for missing in [
        "queue `order-events` does not exist",
        "table `orders` does not exist",
        "table `inventory` does not exist",
    ] {
        assert!(body.contains(missing), "{body}");
    }
    assert_eq!(get(&worker, "/healthz").await.0, 200);

    let tables = [Table::orders("orders"), Table::inventory("inventory")];
    provision::tables(&cloud.dynamodb_client(), tables)
        .await
        .unwrap();
    provision::queue(&cloud.sqs_client(), "order-events")
        .await
        .unwrap();
    ready(&worker, 200, "ok").await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_and_created_again_is_found_again() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let worker = rig.worker(&[]).await;
    let first = rig.place_and_send(&[&[("A", 1)]]).await;
    rig.all(&first, OrderStatus::Processed).await;
    rig.drained().await;

    let delete = rig.sqs.delete_queue().queue_url(&rig.queue_url).send();
    delete.await.unwrap();
    ready(&worker, 503, "queue `order-events` does not exist").await;
    provision::queue(&rig.sqs, "order-events").await.unwrap();

    let second = rig.place_and_send(&[&[("A", 1)]]).await;
    rig.all(&second, OrderStatus::Processed).await;
}

#[tokio::test]
async fn a_queue_may_be_given_by_its_url() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let worker = rig.worker(&[("WORKER_QUEUE", &rig.queue_url)]).await;
    ready(&worker, 200, "ok").await;
    let placed = rig.place_and_send(&[&[("A", 1)]]).await;
    rig.all(&placed, OrderStatus::Processed).await;
}

#[tokio::test]
async fn every_outcome_is_counted_from_zero() {
    let rig = TestCloud::start(&[]).await;
    let worker = rig.worker(&[]).await;
    let metrics = eventually(DEADLINE, || async {
        let (_, text) = get(&worker, "/metrics").await;
        if text.contains("orders_processed_total") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    let metrics = metrics.await.unwrap();
    for outcome in ["processed", "rejected", "duplicate", "unreadable", "failed"] {
        let sample = format!("orders_processed_total{{outcome=\"{outcome}\"}} 0");
        assert!(metrics.contains(&sample), "{metrics}");
    }
}

#[tokio::test]
async fn writes_that_fail_on_a_readable_table_turn_readiness_red() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    let worker = rig
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;
    let denied = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no right to write"}"#;
    dynamodb.rule(move |call| match call.operation {
        "TransactWriteItems" => Fault::Answer(400, denied.to_owned()),
        _ => Fault::Pass,
    });

    let placed = rig.place_and_send(&[&[("A", 1)]]).await;

    ready(&worker, 503, "AccessDeniedException: no right to write").await;
    dynamodb.heal();
    rig.all(&placed, OrderStatus::Processed).await;
    ready(&worker, 200, "ok").await;
}

#[tokio::test]
async fn polls_that_fail_on_an_existing_queue_turn_readiness_red() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let sqs = Proxy::start(rig.cloud.sqs_url()).await.unwrap();
    let denied = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no right to receive"}"#;
    sqs.rule(move |call| match call.operation {
        "ReceiveMessage" => Fault::Answer(400, denied.to_owned()),
        _ => Fault::Pass,
    });
    let worker = rig.worker(&[("AWS_ENDPOINT_URL_SQS", sqs.url())]).await;

    ready(&worker, 503, "AccessDeniedException: no right to receive").await;
    sqs.heal();
    ready(&worker, 200, "ok").await;
}

/// Waits until `/readyz` answers `status` and says `text`; returns its body.
async fn ready(worker: &Service, status: u16, text: &str) -> String {
    let answered = eventually(DEADLINE, || async {
        match get(worker, "/readyz").await {
            (found, body) if found == status && body.contains(text) => Ok(body),
            other => Err(other),
        }
    });
    answered.await.expect("readiness should change")
}
