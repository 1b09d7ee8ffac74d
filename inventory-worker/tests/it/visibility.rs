//! A message that takes long stays hidden.

use shared::order::OrderStatus;
use test_support::{Fault, Proxy};

use crate::support::{TestCloud, metric};

#[tokio::test]
async fn a_slow_message_keeps_its_visibility_and_is_delivered_once() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    let sqs = Proxy::start(rig.cloud.sqs_url()).await.unwrap();
    dynamodb.rule(|call| match call.operation {
        "TransactWriteItems" => Fault::Hold,
        _ => Fault::Pass,
    });
    let environment = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
        ("AWS_ENDPOINT_URL_SQS", sqs.url()),
        ("WORKER_VISIBILITY_TIMEOUT", "2s"),
    ];
    // Two, so that somebody is there to take it a second time.
    let workers = [
        rig.worker(&environment).await,
        rig.worker(&environment).await,
    ];

    let placed = rig.place_and_send(&[&[("A", 4)]]).await;
    // One every 2/3 s: now it was hidden for longer than its timeout.
    sqs.saw("ChangeMessageVisibility", 4).await.unwrap();
    assert_eq!(rig.messages(&rig.queue_url).await, (0, 1));
    assert_eq!(dynamodb.seen("TransactWriteItems"), 1);
    dynamodb.heal();

    rig.all(&placed, OrderStatus::Processed).await;
    rig.drained().await;
    assert_eq!(dynamodb.seen("TransactWriteItems"), 1);
    let mut ended = (0.0, 0.0);
    for worker in &workers {
        ended.0 += metric(worker, r#"orders_processed_total{outcome="processed"}"#).await;
        ended.1 += metric(worker, r#"orders_processed_total{outcome="duplicate"}"#).await;
    }
    assert_eq!(ended, (1.0, 0.0));
}
