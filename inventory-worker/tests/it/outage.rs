//! DynamoDB goes away and comes back.

use shared::order::OrderStatus;
use test_support::{Fault, Proxy};

use crate::support::{TestCloud, get, logged};

#[tokio::test]
async fn an_outage_longer_than_five_visibility_timeouts_costs_no_message() {
    let rig = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    let sqs = Proxy::start(rig.cloud.sqs_url()).await.unwrap();
    let worker = rig
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
            ("WORKER_CONCURRENCY", "12"),
        ])
        .await;
    logged(&worker, "DynamoDB answers").await;
    dynamodb.rule(|_| Fault::Cut);

    let lines: &[(&str, u64)] = &[("A", 1)];
    let placed = rig.place_and_send(&[lines; 30]).await;
    logged(&worker, "DynamoDB does not answer").await;
    let held = rig.messages(&rig.queue_url).await.1;
    let polls = sqs.seen("ReceiveMessage");
    // One every third of a second for each message in hand: six timeouts.
    let extended = usize::try_from(held).unwrap() * 18;
    sqs.saw("ChangeMessageVisibility", extended).await.unwrap();

    assert_eq!(rig.messages(&rig.dead_letters_url).await, (0, 0));
    assert!((1..=12).contains(&held), "{held} in hand");
    // The poll that ran when the outage was noticed, and no other.
    assert!(sqs.seen("ReceiveMessage") <= polls + 1);
    assert_eq!(get(&worker, "/healthz").await.0, 200);
    let (status, reason) = get(&worker, "/readyz").await;
    assert_eq!(status, 503);
    assert!(reason.contains("DynamoDB does not answer"), "{reason}");
    dynamodb.heal();

    rig.all(&placed, OrderStatus::Processed).await;
    rig.drained().await;
    assert_eq!(rig.messages(&rig.dead_letters_url).await, (0, 0));
    assert_eq!(rig.stock("A").await, (70, 30));
}

#[tokio::test]
async fn a_worker_that_starts_during_an_outage_takes_no_message() {
    let rig = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    dynamodb.rule(|_| Fault::Cut);
    let placed = rig.place_and_send(&[&[("A", 1)]]).await;
    let worker = rig
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    logged(&worker, "no messages are received").await;
    assert_eq!(rig.messages(&rig.queue_url).await, (1, 0));
    dynamodb.heal();

    rig.all(&placed, OrderStatus::Processed).await;
}

#[tokio::test]
async fn throttled_messages_are_tried_again() {
    let rig = TestCloud::start(&[("A", 100)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    dynamodb.rule(|call| match call.operation {
        "TransactWriteItems" if call.count <= 8 => Fault::Answer(
            400,
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException"}"#.to_owned(),
        ),
        _ => Fault::Pass,
    });
    let _worker = rig
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    let placed = rig.place_and_send(&[&[("A", 1)], &[("A", 2)]]).await;

    rig.all(&placed, OrderStatus::Processed).await;
    assert_eq!(rig.stock("A").await, (97, 3));
}
