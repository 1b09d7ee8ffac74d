//! Outages and throttling of DynamoDB.

use shared::order::OrderStatus;
use test_support::{Fault, PATIENCE, Proxy, eventually};

use crate::support::{TestCloud, get, logged, message, metric, on_transactions};

#[tokio::test]
async fn an_outage_of_five_visibility_timeouts_moves_no_message_to_the_dead_letter_queue() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let sqs = Proxy::start(cloud.local.sqs_url()).await.unwrap();
    let worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
            ("WORKER_CONCURRENCY", "12"),
        ])
        .await;
    logged(&worker, "DynamoDB is available").await;
    dynamodb.rule(|_| Fault::Cut);

    let lines: &[(&str, u64)] = &[("A", 1)];
    let placed = cloud.place_and_send(&[lines; 30]).await;
    logged(&worker, "DynamoDB is unavailable").await;
    let held = cloud.messages(&cloud.queue_url).await.1;
    let polls = sqs.seen("ReceiveMessage");
    assert!((1..=30).contains(&held), "{held} in flight");
    // One every third of a second for each message in flight: six timeouts.
    let enough = usize::try_from(held).unwrap() * 18;
    let extended = eventually(PATIENCE, || async {
        let counts = sqs.counts();
        match counts.get("ChangeMessageVisibilityBatch") {
            Some(count) if count.entries >= enough => Ok(*count),
            count => Err(count.copied()),
        }
    });
    let extended = extended.await.unwrap();
    assert!(extended.requests < extended.entries, "{extended:?}");

    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    // Only the poll that was running when the outage began.
    assert!(sqs.seen("ReceiveMessage") <= polls + 1);
    assert_eq!(get(&worker, "/healthz").await.0, 200);
    let (status, reason) = get(&worker, "/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("DynamoDB is unavailable"), "{reason}");
    dynamodb.heal();

    cloud.all(&placed, OrderStatus::Processed).await;
    cloud.drained().await;
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    assert_eq!(cloud.stock("A").await, (70, 30));
}

#[tokio::test]
async fn a_worker_that_starts_during_an_outage_receives_no_message() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    dynamodb.rule(|_| Fault::Cut);
    let placed = cloud.place_and_send(&[&[("A", 1)]]).await;
    let worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    logged(&worker, "not receiving messages").await;
    assert_eq!(cloud.messages(&cloud.queue_url).await, (1, 0));
    dynamodb.heal();

    cloud.all(&placed, OrderStatus::Processed).await;
}

#[tokio::test]
async fn throttled_attempts_are_retried() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    dynamodb.rule(|call| match call.operation {
        "TransactWriteItems" if call.count <= 8 => Fault::Answer(
            400,
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException"}"#.to_owned(),
        ),
        _ => Fault::Pass,
    });
    let _worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    let placed = cloud.place_and_send(&[&[("A", 1)], &[("A", 2)]]).await;

    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (97, 3));
}

#[tokio::test]
async fn an_order_that_fails_stops_neither_receiving_nor_the_orders_of_its_sku() {
    let cloud = TestCloud::start(&[("A", 100), ("B", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let failing = cloud.place(&[("A", 1)]).await;
    let id = failing.order_id.to_string();
    on_transactions(&dynamodb, move |call, _| {
        if call.body.contains(&id) {
            Fault::fail()
        } else {
            Fault::Pass
        }
    });
    cloud.send(&[message(&failing)]).await;
    let mut placed = cloud.place_and_send(&[&[("A", 1)], &[("A", 2)]]).await;
    let worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;
    // In one batch with the failing order, and after it.
    cloud.all(&placed, OrderStatus::Processed).await;
    placed = cloud.place_and_send(&[&[("A", 3)], &[("B", 4)]]).await;
    cloud.all(&placed, OrderStatus::Processed).await;

    let others_deleted = eventually(PATIENCE, || async {
        match cloud.messages(&cloud.queue_url).await {
            (0, 1) => Ok(()),
            messages => Err(messages),
        }
    });
    others_deleted.await.unwrap();
    assert_eq!(get(&worker, "/readyz").await.0, 200);
    assert_eq!(metric(&worker, "worker_circuit_open").await, 0.0);
    assert!(!worker.log().contains("not receiving messages until"));
    dynamodb.heal();

    cloud.all(&[failing], OrderStatus::Processed).await;
    cloud.drained().await;
    assert_eq!(cloud.stock("A").await, (93, 7));
    assert_eq!(
        metric(&worker, r#"orders_processed_total{outcome="failed"}"#).await,
        0.0
    );
}

#[tokio::test]
async fn a_request_that_dynamodb_rejects_concerns_the_order_at_fault_only() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let wrong = cloud.place(&[("A", 1)]).await;
    let id = wrong.order_id.to_string();
    on_transactions(&dynamodb, move |call, _| {
        if call.body.contains(&id) {
            Fault::refuse("ValidationException")
        } else {
            Fault::Pass
        }
    });
    cloud.send(&[message(&wrong)]).await;
    let placed = cloud.place_and_send(&[&[("A", 1)], &[("A", 2)]]).await;
    let worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
        ])
        .await;

    cloud.all(&placed, OrderStatus::Processed).await;
    cloud.dead_letters(1).await;
    assert_eq!(cloud.stock("A").await, (97, 3));
    assert!(worker.log().contains("DynamoDB rejected the change"));
}
