//! Messages that can never be settled end among the dead letters, and hold
//! nothing back.

use outbox::Message;
use shared::order::OrderStatus;

use crate::support::{TestCloud, get, message, metric, order};

#[tokio::test]
async fn poison_goes_to_the_dead_letters_after_five_receipts_while_good_messages_flow() {
    let rig = TestCloud::start(&[("A", 1_000)]).await;
    // Fewer slots than poison: one that kept its slot would stop the worker.
    let worker = rig
        .worker(&[
            ("WORKER_VISIBILITY_TIMEOUT", "1s"),
            ("WORKER_CONCURRENCY", "2"),
        ])
        .await;
    let bare = |body: &str| Message::new(body, Vec::new());
    let good = message(&order(&[("A", 1)])).body;
    let poison = [
        bare("no JSON, but a secret"),
        bare("{}"),
        bare(&good.replace("order.placed", "order.paid")),
        bare(&good.replace(r#""specversion":"1.0""#, r#""specversion":"0.3""#)),
        bare(&good.replace(r#""quantity":1"#, r#""quantity":"1""#)),
        // Well-formed, but its order was never stored.
        message(&order(&[("A", 1)])),
    ];
    rig.send(&poison).await;

    let lines: &[(&str, u64)] = &[("A", 1)];
    let placed = rig.place_and_send(&[lines; 20]).await;
    rig.all(&placed, OrderStatus::Processed).await;
    let dead_by_then = rig.messages(&rig.dead_letters_url).await.0;
    assert_eq!(dead_by_then, 0, "good messages wait for no poison");

    rig.dead_letters(6).await;
    rig.drained().await;
    let bodies = rig.take_visible(&rig.dead_letters_url).await;
    for message in &poison {
        assert!(bodies.iter().any(|(body, _)| *body == message.body));
    }
    assert_eq!(rig.stock("A").await, (980, 20));
    // Five receipts each.
    let unreadable = metric(&worker, r#"orders_processed_total{outcome="unreadable"}"#).await;
    let failed = metric(&worker, r#"orders_processed_total{outcome="failed"}"#).await;
    assert_eq!((unreadable, failed), (25.0, 5.0));
    let log = worker.log();
    assert!(log.contains("the order does not exist"));
    assert!(log.contains("message cannot be read"));
    assert!(!log.contains("secret"), "payloads stay out of the log");
    assert_eq!(get(&worker, "/healthz").await.0, 200);
}
