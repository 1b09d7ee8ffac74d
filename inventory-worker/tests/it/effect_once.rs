//! Effect once: an order's stock moves, and moves once, however often its message is delivered.

use shared::order::OrderStatus;
use test_support::{Fault, Proxy};

use crate::support::{TestCloud, message, metric, on_transactions};

const PROCESSED: &str = r#"orders_processed_total{outcome="processed"}"#;
const TOOK: &str = r#"messaging_process_duration_seconds_count{messaging_destination_name="order-events",messaging_operation_name="process",messaging_system="aws_sqs",outcome="processed"}"#;
const DUPLICATE: &str = r#"orders_processed_total{outcome="duplicate"}"#;

#[tokio::test]
async fn an_order_is_processed_and_exactly_its_stock_is_reserved() {
    let cloud = TestCloud::start(&[("A", 10), ("B", 5), ("C", 7)]).await;
    let worker = cloud.worker(&[]).await;

    let placed = cloud.place_and_send(&[&[("A", 3), ("B", 5)]]).await;

    cloud.all(&placed, OrderStatus::Processed).await;
    let order = cloud.order(&placed[0]).await;
    assert!(order.updated_at >= order.created_at);
    assert_eq!(order.rejection_reason, None);
    assert_eq!(cloud.stock("A").await, (7, 3));
    assert_eq!(cloud.stock("B").await, (0, 5));
    assert_eq!(cloud.stock("C").await, (7, 0));
    cloud.drained().await;
    assert_eq!(metric(&worker, PROCESSED).await, 1.0);
    let took = metric(&worker, TOOK).await;
    assert_eq!(took, 1.0);
}

#[tokio::test]
async fn a_message_delivered_to_three_workers_at_once_takes_effect_once() {
    let cloud = TestCloud::start(&[("A", 1_000)]).await;
    let order = cloud.place(&[("A", 3)]).await;
    cloud.send(&vec![message(&order); 50]).await;

    let workers = [
        cloud.worker(&[]).await,
        cloud.worker(&[]).await,
        cloud.worker(&[]).await,
    ];

    cloud.drained().await;
    cloud.all(&[order], OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (997, 3));
    let mut ended = (0.0, 0.0);
    for worker in &workers {
        ended.0 += metric(worker, PROCESSED).await;
        ended.1 += metric(worker, DUPLICATE).await;
    }
    assert_eq!(ended, (1.0, 49.0));
}

#[tokio::test]
async fn concurrent_orders_for_one_sku_never_reserve_more_than_is_available() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let lines: &[(&str, u64)] = &[("A", 1)];
    let placed = cloud.place_and_send(&[lines; 25]).await;

    let _workers = [cloud.worker(&[]).await, cloud.worker(&[]).await];

    let mut processed = 0;
    for order in &placed {
        match cloud.decided(order).await.status {
            OrderStatus::Processed => processed += 1,
            status => assert_eq!(status, OrderStatus::Rejected),
        }
    }
    assert_eq!(processed, 10);
    assert_eq!(cloud.stock("A").await, (0, 10));
}

#[tokio::test]
async fn a_response_lost_after_the_effect_does_not_repeat_it() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let proxy = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    // More attempts than the SDK makes by itself.
    on_transactions(&proxy, |_, count| match count {
        1..=3 => Fault::LoseAnswer,
        _ => Fault::Pass,
    });
    let environment = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let worker = cloud.worker(&environment).await;

    let placed = cloud.place_and_send(&[&[("A", 4)]]).await;

    cloud.drained().await;
    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (6, 4));
    assert!(proxy.seen("TransactWriteItems") > 3);
    // The repetition has the same token, so it is known to be this worker's own effect.
    assert_eq!(metric(&worker, PROCESSED).await, 1.0);
    assert_eq!(metric(&worker, DUPLICATE).await, 0.0);
}

#[tokio::test]
async fn a_response_lost_after_the_effect_of_a_batch_does_not_repeat_it() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let proxy = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&proxy, |_, count| match count {
        1..=3 => Fault::LoseAnswer,
        _ => Fault::Pass,
    });
    let lines: &[(&str, u64)] = &[("A", 2)];
    let placed = cloud.place_and_send(&[lines; 12]).await;

    let environment = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let worker = cloud.worker(&environment).await;

    cloud.drained().await;
    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (76, 24));
    assert_eq!(metric(&worker, PROCESSED).await, 12.0);
}

#[tokio::test]
async fn a_token_that_another_attempt_used_does_not_stop_the_order() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let proxy = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&proxy, |_, count| match count {
        1 => Fault::refuse("IdempotentParameterMismatchException"),
        _ => Fault::Pass,
    });
    let environment = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let _worker = cloud.worker(&environment).await;

    let placed = cloud.place_and_send(&[&[("A", 4)]]).await;

    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (6, 4));
}

#[tokio::test]
async fn a_lost_response_to_a_rejection_does_not_repeat_it() {
    let cloud = TestCloud::start(&[("A", 1)]).await;
    let proxy = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    proxy.rule(|call| match call.operation {
        "UpdateItem" if call.count <= 3 => Fault::LoseAnswer,
        _ => Fault::Pass,
    });
    let environment = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let _worker = cloud.worker(&environment).await;

    let placed = cloud.place_and_send(&[&[("A", 4)]]).await;

    cloud.drained().await;
    cloud.all(&placed, OrderStatus::Rejected).await;
    assert_eq!(cloud.stock("A").await, (1, 0));
}

#[tokio::test]
async fn a_conflict_beside_a_shortage_is_retried_rather_than_rejected() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let proxy = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let cancelled = r#"{
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "Transaction cancelled",
        "CancellationReasons": [
            {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"},
            {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed",
             "Item": {"sku": {"S": "A"}, "available": {"N": "0"}, "reserved": {"N": "10"}}}
        ]
    }"#;
    on_transactions(&proxy, move |_, count| match count {
        1..=4 => Fault::Answer(400, cancelled.to_owned()),
        _ => Fault::Pass,
    });
    let environment = [("AWS_ENDPOINT_URL_DYNAMODB", proxy.url())];
    let _worker = cloud.worker(&environment).await;

    let placed = cloud.place_and_send(&[&[("A", 4)]]).await;

    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (6, 4));
    assert_eq!(proxy.seen("UpdateItem"), 0);
}
