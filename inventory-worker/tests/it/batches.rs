//! Orders that need the same SKU are processed together, and delay no others.

use shared::order::OrderStatus;
use test_support::{Fault, PATIENCE, Proxy, eventually};

use crate::support::{TestCloud, conflict, get, metric, on_transactions};

const HOT: &[(&str, u64)] = &[("HOT", 1)];

#[tokio::test]
async fn orders_for_one_sku_are_processed_in_few_transactions() {
    let cloud = TestCloud::start(&[("HOT", 1_000)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let placed = cloud.place_and_send(&[HOT; 60]).await;
    let worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    cloud.all(&placed, OrderStatus::Processed).await;

    let transactions = dynamodb.counts()["TransactWriteItems"];
    // Those that are received while a transaction runs share the next one.
    assert!(transactions.requests <= 12, "{transactions:?}");
    assert_eq!(cloud.stock("HOT").await, (940, 60));
    assert_eq!(
        metric(&worker, r#"worker_retries_total{kind="conflict"}"#).await,
        0.0
    );
}

#[tokio::test]
async fn orders_that_wait_for_a_hot_sku_do_not_delay_others() {
    let cloud = TestCloud::start(&[("HOT", 1_000), ("A", 100), ("B", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&dynamodb, |call, _| {
        if call.body.contains("HOT") {
            Fault::Hold
        } else {
            Fault::Pass
        }
    });
    // More orders for the hot SKU than permits.
    let hot = cloud.place_and_send(&[HOT; 40]).await;
    let worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "12"),
        ])
        .await;
    dynamodb.holds().await.unwrap();

    for _ in 0..3 {
        let others = cloud.place_and_send(&[&[("A", 1)], &[("B", 1)]]).await;
        cloud.all(&others, OrderStatus::Processed).await;
    }
    assert_eq!(dynamodb.held(), 1, "one transaction for the hot SKU");
    dynamodb.heal();

    cloud.all(&hot, OrderStatus::Processed).await;
    cloud.drained().await;
    assert_eq!(cloud.stock("HOT").await, (960, 40));
    assert_eq!(get(&worker, "/readyz").await.0, 200);
}

#[tokio::test]
async fn conflicts_that_last_for_several_timeouts_spend_no_receive() {
    let cloud = TestCloud::start(&[("HOT", 1_000), ("A", 100)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&dynamodb, |call, _| {
        if call.body.contains("HOT") {
            conflict(call)
        } else {
            Fault::Pass
        }
    });
    let worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
            ("WORKER_CONCURRENCY", "4"),
        ])
        .await;
    let hot = cloud.place_and_send(&[HOT; 20]).await;
    let conflicts = eventually(PATIENCE, || async {
        let count = metric(&worker, r#"worker_retries_total{kind="conflict"}"#).await;
        if count >= 25.0 { Ok(()) } else { Err(count) }
    });
    conflicts.await.unwrap();
    let others = cloud.place_and_send(&[&[("A", 1)]]).await;
    cloud.all(&others, OrderStatus::Processed).await;
    assert_eq!(get(&worker, "/readyz").await.0, 200);
    dynamodb.heal();

    cloud.all(&hot, OrderStatus::Processed).await;
    cloud.drained().await;
    assert_eq!(cloud.stock("HOT").await, (980, 20));
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    for (outcome, count) in [("processed", 21.0), ("duplicate", 0.0), ("failed", 0.0)] {
        let sample = format!("orders_processed_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metric(&worker, &sample).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_shortage_rejects_the_orders_that_do_not_fit_in_the_order_of_arrival() {
    let cloud = TestCloud::start(&[("A", 10), ("B", 100)]).await;
    let wanted = [4, 4, 4, 1, 11, 1, 1];
    let lines: Vec<_> = wanted.iter().map(|n| [("A", *n), ("B", 1)]).collect();
    let lines: Vec<_> = lines.iter().map(|lines| &lines[..]).collect();
    let placed = cloud.place_and_send(&lines).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let _worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;

    let mut reasons = Vec::new();
    for order in &placed {
        reasons.push(cloud.decided(order).await.rejection_reason);
    }
    let short = |available: u64, wanted: u64| {
        Some(format!(
            "Not enough stock: SKU A has {available} available, {wanted} wanted"
        ))
    };
    // 11 pieces are never available, whatever the orders before take.
    assert_eq!(
        reasons,
        [
            None,
            None,
            short(2, 4),
            None,
            short(2, 11),
            None,
            short(0, 1)
        ]
    );
    assert_eq!(cloud.stock("A").await, (0, 10));
    assert_eq!(cloud.stock("B").await, (96, 4));
    let transactions = dynamodb.seen("TransactWriteItems");
    assert!(transactions <= 8, "{transactions}");
}

#[tokio::test]
async fn the_fiftieth_order_of_fifty_lines_shares_its_transaction() {
    let names: Vec<_> = (0..50).map(|n| format!("S-{n}")).collect();
    let stock: Vec<_> = names.iter().map(|sku| (sku.as_str(), 1_000)).collect();
    let cloud = TestCloud::start(&stock).await;
    let lines: Vec<_> = names.iter().map(|sku| (sku.as_str(), 1)).collect();
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&dynamodb, |_, count| match count {
        1 => Fault::Hold,
        _ => Fault::Pass,
    });
    let _worker = cloud
        .worker(&[("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())])
        .await;
    let mut placed = cloud.place_and_send(&[&lines]).await;
    dynamodb.holds().await.unwrap();
    placed.extend(cloud.place_and_send(&vec![&lines[..]; 50]).await);
    let received = eventually(PATIENCE, || async {
        match cloud.messages(&cloud.queue_url).await {
            (0, 51) => Ok(()),
            messages => Err(messages),
        }
    });
    received.await.unwrap();
    let before = dynamodb.counts()["TransactWriteItems"];
    dynamodb.heal();

    cloud.all(&placed, OrderStatus::Processed).await;
    let after = dynamodb.counts()["TransactWriteItems"];
    // DynamoDB's limit: 50 orders and 50 SKUs.
    assert_eq!(after.entries - before.entries, 100);
    assert_eq!(after.requests - before.requests, 1);
    assert_eq!(cloud.stock("S-49").await, (949, 51));
}
