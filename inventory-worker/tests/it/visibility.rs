//! Extension of the visibility timeout of messages in flight.

use shared::order::OrderStatus;
use test_support::{Fault, Proxy};

use crate::support::{TestCloud, metric, on_transactions};

#[tokio::test]
async fn the_visibility_timeout_of_a_slow_message_is_extended_and_it_is_delivered_once() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let sqs = Proxy::start(cloud.local.sqs_url()).await.unwrap();
    on_transactions(&dynamodb, |_, _| Fault::Hold);
    let environment = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
        ("AWS_ENDPOINT_URL_SQS", sqs.url()),
        ("WORKER_VISIBILITY_TIMEOUT", "2s"),
    ];
    // Two, so that another worker is there to receive it a second time.
    let workers = [
        cloud.worker(&environment).await,
        cloud.worker(&environment).await,
    ];

    let placed = cloud.place_and_send(&[&[("A", 4)]]).await;
    // One every 2/3 s: by now the message was hidden for longer than its timeout.
    sqs.saw("ChangeMessageVisibilityBatch", 4).await.unwrap();
    assert_eq!(cloud.messages(&cloud.queue_url).await, (0, 1));
    assert_eq!(dynamodb.held(), 1);
    let sent = dynamodb.seen("TransactWriteItems");
    dynamodb.heal();

    cloud.all(&placed, OrderStatus::Processed).await;
    cloud.drained().await;
    assert_eq!(dynamodb.seen("TransactWriteItems"), sent);
    let mut ended = (0.0, 0.0);
    for worker in &workers {
        ended.0 += metric(worker, r#"orders_processed_total{outcome="processed"}"#).await;
        ended.1 += metric(worker, r#"orders_processed_total{outcome="duplicate"}"#).await;
    }
    assert_eq!(ended, (1.0, 0.0));
}
