//! Orders that cannot be fulfilled.

use shared::order::OrderStatus;

use crate::support::{TestCloud, metric};

#[tokio::test]
async fn too_little_stock_rejects_the_order_and_moves_none() {
    let rig = TestCloud::start(&[("A", 100), ("B", 4)]).await;
    let worker = rig.worker(&[]).await;

    let placed = rig.place_and_send(&[&[("A", 1), ("B", 5)]]).await;

    let order = rig.settled(&placed[0]).await;
    assert_eq!((order.status, order.version), (OrderStatus::Rejected, 2));
    assert_eq!(
        order.rejection_reason.as_deref(),
        Some("Not enough stock: SKU B has 4 available, 5 wanted")
    );
    assert_eq!(rig.stock("A").await, (100, 0));
    assert_eq!(rig.stock("B").await, (4, 0));
    rig.drained().await;
    let rejected = metric(&worker, r#"orders_processed_total{outcome="rejected"}"#).await;
    assert_eq!(rejected, 1.0);
}

#[tokio::test]
async fn an_unknown_sku_rejects_the_order_and_does_not_appear_in_the_inventory() {
    let rig = TestCloud::start(&[("A", 100)]).await;
    let _worker = rig.worker(&[]).await;

    let placed = rig.place_and_send(&[&[("A", 1), ("NO-SUCH", 2)]]).await;

    let order = rig.settled(&placed[0]).await;
    assert_eq!(order.status, OrderStatus::Rejected);
    assert_eq!(
        order.rejection_reason.as_deref(),
        Some("Not enough stock: SKU NO-SUCH is unknown (2 wanted)")
    );
    assert_eq!(rig.stock("A").await, (100, 0));
    let inventory = rig.dynamodb.scan().table_name("inventory").send().await;
    assert_eq!(inventory.unwrap().count, 1);
    rig.drained().await;
}

#[tokio::test]
async fn an_order_of_fifty_lines_is_settled_in_one_transaction() {
    let names: Vec<_> = (0..50).map(|n| format!("S-{n}")).collect();
    let stock: Vec<_> = names.iter().map(|sku| (sku.as_str(), 2)).collect();
    let rig = TestCloud::start(&stock).await;
    let _worker = rig.worker(&[]).await;

    let lines: Vec<_> = names.iter().map(|sku| (sku.as_str(), 2)).collect();
    let first = rig.place_and_send(&[&lines]).await;
    rig.all(&first, OrderStatus::Processed).await;
    let second = rig.place_and_send(&[&lines]).await;

    rig.all(&second, OrderStatus::Rejected).await;
    for sku in &names {
        assert_eq!(rig.stock(sku).await, (0, 2));
    }
    let reason = rig.order(&second[0]).await.rejection_reason.unwrap();
    assert_eq!(reason.matches("0 available, 2 wanted").count(), 50);
}
