//! Outages and throttling of DynamoDB.

use shared::order::OrderStatus;
use test_support::{Fault, Proxy};

use crate::support::{TestCloud, get, logged};

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
    // One every third of a second for each message in flight: six timeouts.
    let extended = usize::try_from(held).unwrap() * 18;
    sqs.saw("ChangeMessageVisibility", extended).await.unwrap();

    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    assert!((1..=12).contains(&held), "{held} in flight");
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
