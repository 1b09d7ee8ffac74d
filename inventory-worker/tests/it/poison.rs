//! Messages that can never be processed move to the dead-letter queue, and delay no other message.

use outbox::Message;
use shared::order::OrderStatus;

use crate::support::{TestCloud, get, message, metric, order};

#[tokio::test]
async fn poison_messages_are_dead_lettered_after_five_receives_without_delaying_others() {
    let cloud = TestCloud::start(&[("A", 1_000)]).await;
    // Fewer permits than poison messages: if these kept their permits, the worker would stop.
    let worker = cloud
        .worker(&[
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
            ("WORKER_CONCURRENCY", "2"),
        ])
        .await;
    let bare = |body: &str| Message::new(body, Vec::new());
    let good = message(&order(&[("A", 1)])).body;
    let stored = cloud.place(&[("A", 2)]).await;
    let more_pieces = message(&stored)
        .body
        .replace(r#""quantity":2"#, r#""quantity":3"#);
    let poison = [
        bare("not JSON, but a secret"),
        bare("{}"),
        bare(&good.replace(r#""specversion":"1.0""#, r#""specversion":"2.0""#)),
        bare(&more_pieces),
        bare(&good.replace(r#""quantity":1"#, r#""quantity":"1""#)),
        // Well-formed, but its order was never stored.
        message(&order(&[("A", 1)])),
    ];
    cloud.send(&poison).await;

    let lines: &[(&str, u64)] = &[("A", 1)];
    let placed = cloud.place_and_send(&[lines; 20]).await;
    cloud.all(&placed, OrderStatus::Processed).await;
    let dead_by_then = cloud.messages(&cloud.dead_letters_url).await.0;
    assert_eq!(
        dead_by_then, 0,
        "good messages do not wait for poison messages"
    );

    cloud.dead_letters(6).await;
    cloud.drained().await;
    let bodies = cloud.receive_all(&cloud.dead_letters_url).await;
    for message in &poison {
        assert!(bodies.iter().any(|(body, _)| *body == message.body));
    }
    assert_eq!(cloud.stock("A").await, (980, 20));
    // Five receives each.
    let unreadable = metric(&worker, r#"orders_processed_total{outcome="unreadable"}"#).await;
    let failed = metric(&worker, r#"orders_processed_total{outcome="failed"}"#).await;
    assert_eq!((unreadable, failed), (20.0, 10.0));
    assert_eq!(cloud.order(&stored).await, stored);
    let log = worker.log();
    assert!(log.contains("the order does not exist"));
    assert!(log.contains("the lines of the message are not those of the stored order"));
    assert!(log.contains("message cannot be read"));
    assert!(!log.contains("secret"), "payloads stay out of the log");
    assert_eq!(get(&worker, "/healthz").await.0, 200);
}

#[tokio::test]
async fn events_that_the_worker_does_not_handle_are_deleted_and_counted() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let worker = cloud.worker(&[]).await;
    let placed = cloud.place(&[("A", 1)]).await;
    let good = message(&placed).body;
    for other in ["order.cancelled", "order.placed.v2", "invoice.sent"] {
        let body = good.replace("order.placed", other);
        cloud.send(&[Message::new(body, Vec::new())]).await;
    }
    cloud
        .send(&[Message::new(good.replace("1.0", "1.1"), Vec::new())])
        .await;

    cloud.all(&[placed], OrderStatus::Processed).await;
    cloud.drained().await;
    let ignored = metric(&worker, r#"orders_processed_total{outcome="ignored"}"#).await;
    assert_eq!(ignored, 3.0);
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
    assert_eq!(cloud.stock("A").await, (9, 1));
}
