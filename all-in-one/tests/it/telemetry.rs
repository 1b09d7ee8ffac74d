//! One order is one trace over three processes, as a collector receives it.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::collector::Span;
use crate::support::{Traced, item, repository_file};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Posts an order, waits until all its spans have arrived, and returns it with its spans and its
/// stored event.
async fn order(traced: &Traced, traceparent: Option<&str>) -> TracedOrder {
    let placed = traced.place(traceparent).await;
    let stored = item(&traced.stack.dynamodb, &placed.id).await;
    let traceparent = stored["traceparent"].as_s().unwrap();
    assert_eq!(traceparent[3..35], placed.trace);
    let (trace, created) = (placed.trace, traceparent[36..52].to_owned());
    let is_complete = |spans: &[Span]| {
        [
            "POST /orders",
            "create outbox",
            "send order-events",
            "process order-events",
        ]
        .iter()
        .all(|name| {
            spans
                .iter()
                .any(|span| span.name == *name && span.trace_id == trace)
        }) && spans
            .iter()
            .any(|span| span.links.contains(&(trace.clone(), created.clone())))
    };
    let spans = traced.spans(is_complete).await;
    TracedOrder {
        id: placed.id,
        trace,
        created,
        spans,
        stored,
    }
}

struct TracedOrder {
    id: String,
    /// Trace id and span id of the stored context.
    trace: String,
    created: String,
    spans: Vec<Span>,
    stored: HashMap<String, AttributeValue>,
}

impl TracedOrder {
    /// Returns the only span of this name in the order's trace.
    fn span(&self, name: &str) -> &Span {
        let mut found = self
            .spans
            .iter()
            .filter(|span| span.trace_id == self.trace && span.name == name);
        let span = found.next().unwrap();
        assert!(found.next().is_none(), "{name} is there twice");
        span
    }

    /// Returns the span of the request that carried the message. It may be in another trace,
    /// because a request may carry messages of several orders.
    fn batch(&self) -> &Span {
        let creation = (self.trace.clone(), self.created.clone());
        self.spans
            .iter()
            .find(|span| {
                span.links.contains(&creation) && span.name == "SendMessageBatch order-events"
            })
            .unwrap_or_else(|| panic!("no batch span: {:#?}", self.spans))
    }

    /// Checks the spans of one order.
    fn check(&self) {
        let server = self.span("POST /orders");
        assert_eq!(server.service, "order-api");
        assert_eq!(server.kind, SpanKind::Server);

        let create = self.span("create outbox");
        assert_eq!(create.service, "order-api");
        assert_eq!(create.kind, SpanKind::Producer);
        assert_eq!(create.parent, server.span_id);
        assert_eq!(
            create.span_id, self.created,
            "its context is what is stored"
        );
        attributes(
            create,
            &[
                ("messaging.system", "outbox"),
                ("messaging.operation.name", "create"),
                ("messaging.operation.type", "create"),
                ("messaging.destination.name", "outbox"),
                ("outbox.event_id", &format!("{}:1", self.id)),
                ("outbox.aggregate_id", &self.id),
            ],
        );

        let send = self.span("send order-events");
        assert_eq!(send.service, "outbox-relay");
        assert_eq!(send.kind, SpanKind::Client);
        assert_eq!(send.parent, create.span_id);
        attributes(
            send,
            &[
                ("messaging.system", "aws_sqs"),
                ("messaging.operation.name", "send"),
                ("messaging.operation.type", "send"),
                ("messaging.destination.name", "order-events"),
                ("outbox.event_id", &format!("{}:1", self.id)),
                ("outbox.aggregate_id", &self.id),
                ("outbox.path", "stream"),
            ],
        );
        assert_eq!(
            send.links,
            [(self.batch().trace_id.clone(), self.batch().span_id.clone())],
            "from a message to the request that carried it"
        );

        let process = self.span("process order-events");
        assert_eq!(process.service, "inventory-worker");
        assert_eq!(process.kind, SpanKind::Consumer);
        assert_eq!(process.parent, create.span_id);
        attributes(
            process,
            &[
                ("messaging.system", "aws_sqs"),
                ("messaging.operation.name", "process"),
                ("messaging.operation.type", "process"),
                ("messaging.destination.name", "order-events"),
                ("outbox.receive_count", "1"),
                ("outbox.outcome", "processed"),
            ],
        );
        let message_id = &send.attributes["messaging.message.id"];
        assert_eq!(&process.attributes["messaging.message.id"], message_id);
        if let Some(stored) = self.stored.get("message_id") {
            assert_eq!(stored.as_s().unwrap(), message_id);
        }

        let batch = self.batch();
        assert_eq!(batch.service, "outbox-relay");
        assert_eq!(batch.kind, SpanKind::Client);
        attributes(
            batch,
            &[
                ("messaging.system", "aws_sqs"),
                ("messaging.operation.type", "send"),
                ("messaging.destination.name", "order-events"),
                ("messaging.batch.message_count", "1"),
            ],
        );
        // Exactly the documented attributes.
        for span in [server, create, send, process, batch] {
            let found: BTreeSet<_> = span.attributes.keys().cloned().collect();
            assert_eq!(found, documented(&span.name), "{}", span.name);
        }
    }
}

/// Returns the attributes of a span according to docs/tracing.md.
fn documented(span: &str) -> BTreeSet<String> {
    let page = repository_file("docs/tracing.md");
    let heading = format!("`{span}`");
    let section = page
        .split("\n### ")
        .find(|section| section.starts_with(&heading))
        .and_then(|section| section.split("\n## ").next())
        .unwrap_or_else(|| panic!("docs/tracing.md has no {heading}"));
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    // The first cell: names between backticks.
    rows.filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Asserts that the span has these attributes.
fn attributes(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found = span.attributes.get(*name).map(String::as_str);
        assert_eq!(found, Some(*value), "{name} of {span:#?}");
    }
}

#[tokio::test]
async fn one_order_is_one_trace_over_three_processes() {
    let traced = Traced::start(&[]).await;

    let continued = order(&traced, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!(continued.trace, TRACE);
    assert_eq!(continued.span("POST /orders").parent, CALLER);
    continued.check();

    let new = order(&traced, None).await;
    assert_ne!(new.trace, TRACE);
    assert_eq!(new.span("POST /orders").parent, "");
    new.check();

    let malformed = order(&traced, Some("00-nonsense-01")).await;
    assert_eq!(malformed.span("POST /orders").parent, "");
    malformed.check();
}
