//! The worker continues the trace of a message, or starts a new one.

use outbox::Message;
use shared::order::{Order, OrderStatus};
use test_support::{Service, eventually};

use crate::support::{DEADLINE, TestCloud, outbox_item};

/// Returns the trace id of the log line that reports the order as processed.
async fn trace_of(worker: &Service, order: &Order) -> String {
    let id = order.order_id.to_string();
    let line = eventually(DEADLINE, || async {
        let log = worker.log();
        let line = log
            .lines()
            .find(|line| line.contains("order processed") && line.contains(&id));
        line.map(str::to_owned).ok_or(log)
    });
    let line: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    line["trace_id"].as_str().unwrap().to_owned()
}

/// Places an order and sends its message with `traceparent`.
async fn send_with(cloud: &TestCloud, traceparent: &str) -> Order {
    let order = cloud.place(&[("A", 1)]).await;
    let mut item = outbox_item(&order);
    item.traceparent = Some(traceparent.to_owned());
    item.tracestate = Some("vendor=1".to_owned());
    cloud.send(&[Message::from_item(&item).unwrap()]).await;
    order
}

#[tokio::test]
async fn the_trace_of_a_message_is_continued() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let worker = cloud.worker(&[]).await;
    let order = send_with(
        &cloud,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    .await;
    assert_eq!(
        trace_of(&worker, &order).await,
        "0af7651916cd43dd8448eb211c80319c"
    );
}

#[tokio::test]
async fn a_malformed_trace_context_starts_a_new_trace() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let worker = cloud.worker(&[]).await;
    let mut orders = Vec::new();
    for wrong in [
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        orders.push(send_with(&cloud, wrong).await);
    }
    cloud.all(&orders, OrderStatus::Processed).await;
    for order in &orders {
        let trace = trace_of(&worker, order).await;
        assert_eq!(trace.len(), 32);
        assert!(trace.bytes().any(|digit| digit != b'0'));
        assert_ne!(trace, "0af7651916cd43dd8448eb211c80319c");
    }
}
