//! Health checks and metrics of the worker.

use local_cloud::LocalCloud;
use shared::order::OrderStatus;
use shared::provision::{self, Table};
use test_support::{Fault, Proxy, Service, eventually};

use crate::support::{DEADLINE, TestCloud, get, metric, on_transactions, start_worker};

#[tokio::test]
async fn readiness_names_missing_resources_and_recovers_when_they_are_created() {
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
async fn a_queue_that_is_deleted_and_created_again_is_polled_again() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let worker = cloud.worker(&[]).await;
    let first = cloud.place_and_send(&[&[("A", 1)]]).await;
    cloud.all(&first, OrderStatus::Processed).await;
    cloud.drained().await;

    let delete = cloud.sqs.delete_queue().queue_url(&cloud.queue_url).send();
    delete.await.unwrap();
    ready(&worker, 503, "queue `order-events` does not exist").await;
    provision::queue(&cloud.sqs, "order-events").await.unwrap();

    let second = cloud.place_and_send(&[&[("A", 1)]]).await;
    cloud.all(&second, OrderStatus::Processed).await;
}

#[tokio::test]
async fn the_queue_can_be_configured_by_its_url() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let worker = cloud.worker(&[("WORKER_QUEUE", &cloud.queue_url)]).await;
    ready(&worker, 200, "ok").await;
    let placed = cloud.place_and_send(&[&[("A", 1)]]).await;
    cloud.all(&placed, OrderStatus::Processed).await;
}

#[tokio::test]
async fn every_outcome_has_a_counter_that_starts_at_zero() {
    let cloud = TestCloud::start(&[]).await;
    let worker = cloud.worker(&[]).await;
    let metrics = eventually(DEADLINE, || async {
        let (_, text) = get(&worker, "/metrics").await;
        if text.contains("orders_processed_total") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    let metrics = metrics.await.unwrap();
    for outcome in [
        "processed",
        "rejected",
        "duplicate",
        "ignored",
        "unreadable",
        "failed",
    ] {
        let sample = format!("orders_processed_total{{outcome=\"{outcome}\"}} 0");
        assert!(metrics.contains(&sample), "{metrics}");
    }
    for kind in ["conflict", "throttled", "unavailable"] {
        let sample = format!("worker_retries_total{{kind=\"{kind}\"}} 0");
        assert!(metrics.contains(&sample), "{metrics}");
    }
}

#[tokio::test]
async fn failing_writes_to_a_readable_table_fail_readiness() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;
    let denied = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no right to write"}"#;
    dynamodb.rule(move |call| match call.operation {
        "TransactWriteItems" => Fault::Answer(400, denied.to_owned()),
        _ => Fault::Pass,
    });

    let placed = cloud.place_and_send(&[&[("A", 1)]]).await;

    ready(&worker, 503, "AccessDeniedException: no right to write").await;
    assert_eq!(metric(&worker, "worker_circuit_open").await, 1.0);
    dynamodb.heal();
    cloud.all(&placed, OrderStatus::Processed).await;
    ready(&worker, 200, "ok").await;
    assert_eq!(metric(&worker, "worker_circuit_open").await, 0.0);
}

#[tokio::test]
async fn failing_polls_of_an_existing_queue_fail_readiness() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let sqs = Proxy::start(cloud.local.sqs_url()).await.unwrap();
    let denied = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no right to receive"}"#;
    sqs.rule(move |call| match call.operation {
        "ReceiveMessage" => Fault::Answer(400, denied.to_owned()),
        _ => Fault::Pass,
    });
    let worker = cloud.worker(&[("AWS_ENDPOINT_URL_SQS", sqs.url())]).await;

    ready(&worker, 503, "AccessDeniedException: no right to receive").await;
    sqs.heal();
    ready(&worker, 200, "ok").await;
}

#[tokio::test]
async fn readiness_names_a_denied_request_for_messages() {
    for denied in [
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "GetQueueAttributes",
    ] {
        let cloud = TestCloud::start(&[("A", 10)]).await;
        let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
        let sqs = Proxy::start(cloud.local.sqs_url()).await.unwrap();
        sqs.rule(move |call| match call.operation {
            operation if operation == denied => Fault::refuse("AccessDeniedException"),
            _ => Fault::Pass,
        });
        if denied == "ChangeMessageVisibilityBatch" {
            // Processing takes longer than a third of the visibility timeout.
            on_transactions(&dynamodb, |_, _| Fault::Hold);
        }
        let environment = [
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "2s"),
        ];
        let worker = cloud.worker(&environment).await;
        cloud.place_and_send(&[&[("A", 1)]]).await;

        let body = ready(&worker, 503, denied).await;
        assert!(body.contains("grant the permission"), "{body}");
        assert_eq!(get(&worker, "/healthz").await.0, 200);
    }
}

/// Waits until `/readyz` responds with `status` and a body that contains `text`. Returns the body.
async fn ready(worker: &Service, status: u16, text: &str) -> String {
    let answered = eventually(DEADLINE, || async {
        match get(worker, "/readyz").await {
            (found, body) if found == status && body.contains(text) => Ok(body),
            other => Err(other),
        }
    });
    answered.await.expect("readiness should change")
}
