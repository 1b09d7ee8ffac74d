//! Orders for which there is not enough stock.

use shared::order::OrderStatus;

use crate::support::{TestCloud, metric};

#[tokio::test]
async fn insufficient_stock_rejects_the_order_and_reserves_nothing() {
    let cloud = TestCloud::start(&[("A", 100), ("B", 4)]).await;
    let worker = cloud.worker(&[]).await;

    let placed = cloud.place_and_send(&[&[("A", 1), ("B", 5)]]).await;

    let order = cloud.decided(&placed[0]).await;
    assert_eq!((order.status, order.version), (OrderStatus::Rejected, 2));
    assert_eq!(
        order.rejection_reason.as_deref(),
        Some("Not enough stock: SKU B has 4 available, 5 wanted")
    );
    assert_eq!(cloud.stock("A").await, (100, 0));
    assert_eq!(cloud.stock("B").await, (4, 0));
    cloud.drained().await;
    let rejected = metric(&worker, r#"orders_processed_total{outcome="rejected"}"#).await;
    assert_eq!(rejected, 1.0);
}

#[tokio::test]
async fn an_unknown_sku_rejects_the_order_and_is_not_added_to_the_inventory() {
    let cloud = TestCloud::start(&[("A", 100)]).await;
    let _worker = cloud.worker(&[]).await;

    let placed = cloud.place_and_send(&[&[("A", 1), ("NO-SUCH", 2)]]).await;

    let order = cloud.decided(&placed[0]).await;
    assert_eq!(order.status, OrderStatus::Rejected);
    assert_eq!(
        order.rejection_reason.as_deref(),
        Some("Not enough stock: SKU NO-SUCH is unknown (2 wanted)")
    );
    assert_eq!(cloud.stock("A").await, (100, 0));
    let inventory = cloud.dynamodb.scan().table_name("inventory").send().await;
    assert_eq!(inventory.unwrap().count, 1);
    cloud.drained().await;
}

#[tokio::test]
async fn an_order_of_fifty_lines_is_processed_in_one_transaction() {
    let names: Vec<_> = (0..50).map(|n| format!("S-{n}")).collect();
    let stock: Vec<_> = names.iter().map(|sku| (sku.as_str(), 2)).collect();
    let cloud = TestCloud::start(&stock).await;
    let _worker = cloud.worker(&[]).await;

    let lines: Vec<_> = names.iter().map(|sku| (sku.as_str(), 2)).collect();
    let first = cloud.place_and_send(&[&lines]).await;
    cloud.all(&first, OrderStatus::Processed).await;
    let second = cloud.place_and_send(&[&lines]).await;

    cloud.all(&second, OrderStatus::Rejected).await;
    for sku in &names {
        assert_eq!(cloud.stock(sku).await, (0, 2));
    }
    let reason = cloud.order(&second[0]).await.rejection_reason.unwrap();
    assert_eq!(reason.matches("0 available, 2 wanted").count(), 50);
}
