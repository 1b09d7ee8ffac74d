//! The trace that travels with a message goes on here, or a new one starts.

use outbox::Message;
use shared::order::{Order, OrderStatus};
use test_support::{Service, eventually};

use crate::support::{DEADLINE, TestCloud, outbox_item};

/// The trace id of the line that reports the order's end.
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

async fn send_with(rig: &TestCloud, traceparent: &str) -> Order {
    let order = rig.place(&[("A", 1)]).await;
    let mut item = outbox_item(&order);
    item.traceparent = Some(traceparent.to_owned());
    item.tracestate = Some("vendor=1".to_owned());
    rig.send(&[Message::from_item(&item).unwrap()]).await;
    order
}

#[tokio::test]
async fn the_message_s_trace_is_continued() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let worker = rig.worker(&[]).await;
    let order = send_with(
        &rig,
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    .await;
    assert_eq!(
        trace_of(&worker, &order).await,
        "0af7651916cd43dd8448eb211c80319c"
    );
}

#[tokio::test]
async fn a_malformed_trace_costs_nothing_but_itself() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let worker = rig.worker(&[]).await;
    let mut orders = Vec::new();
    for wrong in [
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        orders.push(send_with(&rig, wrong).await);
    }
    rig.all(&orders, OrderStatus::Processed).await;
    for order in &orders {
        let trace = trace_of(&worker, order).await;
        assert_eq!(trace.len(), 32);
        assert!(trace.bytes().any(|digit| digit != b'0'));
        assert_ne!(trace, "0af7651916cd43dd8448eb211c80319c");
    }
}
