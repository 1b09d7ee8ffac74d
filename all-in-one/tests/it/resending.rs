//! An event that an operator sends again stays in the trace of its order: each send has a span of
//! its own there.

use test_support::{PATIENCE, eventually};

use crate::collector::Span;
use crate::support::{Placed, Traced, item};

/// Short sweep interval: the sweeper publishes events that become pending again.
const SWEEPING: [(&str, &str); 2] = [
    ("RELAY_SWEEP_INTERVAL", "100ms"),
    ("RELAY_SWEEP_AFTER", "100ms"),
];

/// Returns the spans of this name in the order's trace, in the order of arrival.
fn in_trace<'a>(spans: &'a [Span], order: &Placed, name: &str) -> Vec<&'a Span> {
    let of_order = spans.iter().filter(|span| span.trace_id == order.trace);
    of_order.filter(|span| span.name == name).collect()
}

/// Asserts that a send span is a child of the span whose context is stored, and that it and the
/// request that carried it are linked in both directions.
fn check_send_span(spans: &[Span], order: &Placed, send: &Span) {
    let create = in_trace(spans, order, "create outbox")[0];
    assert_eq!(send.parent, create.span_id);
    assert_eq!(
        send.attributes["outbox.event_id"],
        format!("{}:1", order.id)
    );
    let [(trace, span)] = &send.links[..] else {
        panic!("{send:#?}")
    };
    let request = spans
        .iter()
        .find(|request| request.trace_id == *trace && request.span_id == *span)
        .unwrap();
    assert_eq!(request.name, "SendMessageBatch order-events");
    let creation = (create.trace_id.clone(), create.span_id.clone());
    assert!(request.links.contains(&creation), "{request:#?}");
}

async fn status(traced: &Traced, order: &Placed) -> String {
    let event = item(&traced.stack.dynamodb, &order.id).await;
    event["status"].as_s().unwrap().clone()
}

#[tokio::test]
async fn a_retried_event_is_sent_within_its_original_trace() {
    let quarantine = ("RELAY_ROUTES", "order.*=!quarantine");
    let mut traced = Traced::start(&[&SWEEPING[..], &[quarantine]].concat()).await;
    let order = traced.place(None).await;
    let failed = eventually(PATIENCE, || async {
        match status(&traced, &order).await.as_str() {
            "FAILED" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    failed.await.unwrap();

    // An operator corrects the routes and sends the failed event again.
    assert!(traced.relay.terminate().await.unwrap().success());
    let routes = ("RELAY_ROUTES", "order.*=order-events");
    traced.relay = traced.stack.service_with("outbox-relay", &[routes]).await;
    let event = format!("{}:1", order.id);
    let retried = traced.stack.run(&["outbox-relay", "retry", &event]).await;
    assert!(retried.status.success(), "{retried:?}");
    traced.settled().await;

    let spans = traced
        .spans(|spans| {
            let arrived = |name| in_trace(spans, &order, name).len() == 1;
            arrived("send order-events")
                && arrived("process order-events")
                && arrived("create outbox")
                && spans.iter().any(|s| s.name.starts_with("SendMessageBatch"))
        })
        .await;
    let send = in_trace(&spans, &order, "send order-events")[0];
    assert_eq!(send.attributes["outbox.path"], "sweep");
    check_send_span(&spans, &order, send);
}

#[tokio::test]
async fn a_replayed_event_has_two_send_spans_and_one_effect() {
    let traced = Traced::start(&SWEEPING).await;
    let order = traced.place(None).await;
    traced.settled().await;
    let replay = ["outbox-relay", "replay", "--aggregate", &order.id, "--yes"];
    let replayed = traced.stack.run(&replay).await;
    assert!(replayed.status.success(), "{replayed:?}");

    let spans = traced
        .spans(|spans| {
            let requests = spans
                .iter()
                .filter(|s| s.name.starts_with("SendMessageBatch"));
            in_trace(spans, &order, "send order-events").len() == 2
                && in_trace(spans, &order, "process order-events").len() == 2
                && in_trace(spans, &order, "create outbox").len() == 1
                && requests.count() == 2
        })
        .await;
    let sendings = in_trace(&spans, &order, "send order-events");
    for send in &sendings {
        check_send_span(&spans, &order, send);
    }
    let paths: Vec<_> = sendings
        .iter()
        .map(|send| &send.attributes["outbox.path"])
        .collect();
    assert_eq!(paths, ["stream", "sweep"]);
    assert!(!sendings[0].attributes.contains_key("outbox.replay"));
    assert_eq!(sendings[1].attributes["outbox.replay"], "1");
    assert_ne!(
        sendings[0].attributes["messaging.message.id"],
        sendings[1].attributes["messaging.message.id"]
    );
    let deliveries = in_trace(&spans, &order, "process order-events");
    let outcomes: Vec<_> = deliveries
        .iter()
        .map(|d| &d.attributes["outbox.outcome"])
        .collect();
    assert_eq!(outcomes, ["processed", "duplicate"]);
}
