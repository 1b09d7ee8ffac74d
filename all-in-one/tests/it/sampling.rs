//! Unsampled requests leave no span in any process; their ids are still propagated.

use test_support::{PATIENCE, eventually};

use crate::collector::Span;
use crate::support::{Placed, Traced, item};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Returns the flags of the context that is stored with an order's event.
async fn stored_flags(traced: &Traced, order: &Placed) -> String {
    let event = item(&traced.stack.dynamodb, &order.id).await;
    let traceparent = event["traceparent"].as_s().unwrap();
    assert_eq!(traceparent[3..35], order.trace);
    traceparent[53..].to_owned()
}

/// Waits until the worker's log line about an order names its trace.
async fn worker_logs_the_trace(traced: &Traced, order: &Placed) {
    let logged = eventually(PATIENCE, || async {
        let log = traced.worker.log();
        let mut lines = log.lines();
        if lines.any(|line| line.contains(&order.id) && line.contains(&order.trace)) {
            Ok(())
        } else {
            Err(log)
        }
    });
    logged.await.unwrap();
}

#[tokio::test]
async fn unsampled_requests_leave_no_span_in_any_process() {
    let traced = Traced::start(&[]).await;
    let unsampled = traced.place(Some(&format!("00-{TRACE}-{CALLER}-00"))).await;
    traced.settled().await;
    assert_eq!(stored_flags(&traced, &unsampled).await, "00");

    // Spans are exported in the order in which they end: those of the earlier order would have
    // arrived before those of the later one.
    let sampled = traced.place(None).await;
    let ended = |spans: &[Span]| {
        let has = |name: &str| {
            let mut of_order = spans.iter().filter(|span| span.trace_id == sampled.trace);
            of_order.any(|span| span.name == name)
        };
        let batches = spans
            .iter()
            .filter(|s| s.name.starts_with("SendMessageBatch"));
        has("POST /orders")
            && has("send order-events")
            && has("process order-events")
            && batches.count() > 0
    };
    let spans = traced.spans(ended).await;
    assert_eq!(stored_flags(&traced, &sampled).await, "01");
    for span in &spans {
        assert_ne!(span.trace_id, unsampled.trace, "{span:#?}");
        let links = span.links.iter();
        assert!(!links.clone().any(|(trace, _)| *trace == unsampled.trace));
    }
    let requests = spans
        .iter()
        .filter(|s| s.name.starts_with("SendMessageBatch"));
    assert_eq!(requests.count(), 1, "{spans:#?}");
}

#[tokio::test]
async fn without_sampling_nothing_is_exported_and_orders_keep_their_trace_id() {
    let environment = [
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("RUST_LOG", "info,inventory_worker=debug"),
    ];
    let mut traced = Traced::start(&environment).await;
    let orders = [
        traced.place(Some(&format!("00-{TRACE}-{CALLER}-01"))).await,
        traced.place(None).await,
    ];
    traced.settled().await;
    assert_eq!(orders[0].trace, TRACE);
    assert_ne!(orders[1].trace, TRACE);
    for order in &orders {
        assert_eq!(stored_flags(&traced, order).await, "00");
        worker_logs_the_trace(&traced, order).await;
    }
    // Stopping exports the buffered spans.
    for service in [&mut traced.api, &mut traced.relay, &mut traced.worker] {
        assert!(service.terminate().await.unwrap().success());
    }
    let spans = traced.collector.spans();
    assert!(spans.is_empty(), "{spans:#?}");
    // The exporter works: metrics arrived from all three.
    let services = traced.collector.metrics().into_iter().map(|m| m.0);
    let services: std::collections::BTreeSet<_> = services.collect();
    assert_eq!(services.len(), 3, "{services:?}");
}
