//! One order is one trace over three processes, as a collector receives it.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local_cloud::testing::{PATIENCE, Service, eventually};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::collector::{Collector, Span};
use crate::support::{Order, Stack, item, order_body};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

struct Traced {
    collector: Collector,
    stack: Stack,
    api: Service,
    // Held: a service ends when it is dropped.
    _relay: Service,
    _worker: Service,
}

impl Traced {
    async fn start() -> Self {
        let collector = Collector::start().await;
        let stack = Stack::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
            // Milliseconds; the defaults are 5 s and 60 s.
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
        ])
        .await;
        Self {
            api: stack.service("order-api").await,
            _relay: stack.service("outbox-relay").await,
            _worker: stack.service("inventory-worker").await,
            collector,
            stack,
        }
    }

    /// Posts an order, waits until all its spans have arrived, and takes it
    /// with its spans and its stored event.
    async fn order(&self, traceparent: Option<&str>) -> TracedOrder {
        let mut request = reqwest::Client::new()
            .post(self.api.url("/orders"))
            .json(&order_body(1));
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let order: serde_json::Value = answer.json().await.unwrap();
        let order = Order {
            id: order["order_id"].as_str().unwrap().to_owned(),
            sku: String::new(),
            quantity: 0,
        };
        let stored = item(&self.stack.dynamodb, &order.id).await;
        let traceparent = stored["traceparent"].as_s().unwrap().clone();
        let (trace, created) = (
            traceparent[3..35].to_owned(),
            traceparent[36..52].to_owned(),
        );

        let spans = eventually(PATIENCE, || async {
            let spans = self.collector.spans();
            let is_complete = [
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
                .any(|span| span.links.contains(&(trace.clone(), created.clone())));
            if is_complete { Ok(spans) } else { Err(spans) }
        });
        let spans = spans
            .await
            .unwrap_or_else(|spans| panic!("not all spans arrived: {spans:#?}"));
        TracedOrder {
            id: order.id,
            trace,
            created,
            spans,
            stored,
        }
    }
}

struct TracedOrder {
    id: String,
    /// Of the stored context: trace id and span id.
    trace: String,
    created: String,
    spans: Vec<Span>,
    stored: HashMap<String, AttributeValue>,
}

impl TracedOrder {
    /// The only span of this name in the order's trace.
    fn span(&self, name: &str) -> &Span {
        let mut found = self
            .spans
            .iter()
            .filter(|span| span.trace_id == self.trace && span.name == name);
        let span = found.next().unwrap();
        assert!(found.next().is_none(), "{name} is there twice");
        span
    }

    /// The request that carried the message; it has its own trace or not, as
    /// it may carry messages of many.
    fn batch(&self) -> &Span {
        let creation = (self.trace.clone(), self.created.clone());
        self.spans
            .iter()
            .find(|span| {
                span.links.contains(&creation) && span.name == "SendMessageBatch order-events"
            })
            .unwrap_or_else(|| panic!("no batch span: {:#?}", self.spans))
    }

    /// What holds for every order.
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
                ("messaging.system", "aws_sqs"),
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
        for name in [
            "outbox.shard_id",
            "outbox.stream_sequence_number",
            "outbox.lag_ms",
            "outbox.attempt",
        ] {
            assert!(
                send.attributes.contains_key(name),
                "{name} is not in {send:#?}"
            );
        }

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
        for span in [server, create, send, process] {
            assert!(
                !span
                    .attributes
                    .contains_key("messaging.batch.message_count"),
                "{span:#?}"
            );
            assert!(!span.attributes.contains_key("error.type"), "{span:#?}");
        }
    }
}

fn attributes(span: &Span, wanted: &[(&str, &str)]) {
    for (name, value) in wanted {
        let found = span.attributes.get(*name).map(String::as_str);
        assert_eq!(found, Some(*value), "{name} of {span:#?}");
    }
}

#[tokio::test]
async fn one_order_is_one_trace_over_three_processes() {
    let traced = Traced::start().await;

    let continued = traced.order(Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!(continued.trace, TRACE);
    assert_eq!(continued.span("POST /orders").parent, CALLER);
    continued.check();

    let new = traced.order(None).await;
    assert_ne!(new.trace, TRACE);
    assert_eq!(new.span("POST /orders").parent, "");
    new.check();

    let malformed = traced.order(Some("00-nonsense-01")).await;
    assert_eq!(malformed.span("POST /orders").parent, "");
    malformed.check();
}

#[tokio::test]
async fn metrics_arrive_over_otlp() {
    let traced = Traced::start().await;
    traced.order(None).await;
    for (service, metric) in [
        ("order-api", "orders_created_total"),
        ("order-api", "http_server_request_duration_seconds"),
        ("outbox-relay", "outbox_events_published_total"),
        ("outbox-relay", "outbox_publish_lag_seconds"),
        ("outbox-relay", "outbox_shards_held"),
        ("outbox-relay", "outbox_shard_progress_seconds"),
        ("inventory-worker", "orders_processed_total"),
        ("inventory-worker", "messaging_process_duration_seconds"),
    ] {
        let arrived = eventually(PATIENCE, || async {
            if traced.collector.has_metric(service, metric) {
                Ok(())
            } else {
                Err(format!("{metric} of {service} did not arrive"))
            }
        });
        arrived.await.unwrap();
    }
}
