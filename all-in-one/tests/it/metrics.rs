//! The documented metrics are those that the programs export, over Prometheus and over OTLP, with
//! values that agree with the traffic.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use test_support::{PATIENCE, Service, eventually};

use crate::collector::Collector;
use crate::support::{Scrape, Stack, catalogue, post_order};

const GOOD: usize = 5;

struct Traffic {
    collector: Collector,
    services: Vec<(&'static str, Service)>,
    /// Values that must not occur in a label.
    ids: Vec<String>,
}

impl Traffic {
    /// Produces five processed orders, a rejected one, a duplicate delivery, a quarantined event,
    /// an item that is not an event, and a dead letter.
    async fn generate() -> Self {
        let collector = Collector::start().await;
        let stack = Stack::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
            // Milliseconds; the default is a minute.
            ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
            ("RELAY_SWEEP_INTERVAL", "100ms"),
        ])
        .await;
        dead_letter(&stack).await;
        let mut services = Vec::new();
        for name in ["order-api", "outbox-relay", "inventory-worker"] {
            services.push((name, stack.service(name).await));
        }
        let api = services[0].1.url("");
        let http = reqwest::Client::new();
        let mut ids = Vec::new();
        for n in 0..GOOD {
            ids.push(post_order(&http, &api, n).await.id);
        }
        ids.push(rejected(&http, &api).await);
        put_event(&stack, "poisoned", "PENDING", "{no JSON").await;
        put_event(&stack, "foreign", "PUBLISHED", "{}").await;
        ids.extend(["poisoned", "foreign"].map(str::to_owned));

        settled(&stack).await;
        for event in stack.scan("outbox").await {
            let texts = event.values().filter_map(|value| value.as_s().ok());
            ids.extend(texts.filter(|text| text.len() > 12).cloned());
        }
        deliver_again(&stack, &ids[0]).await;
        let traffic = Self {
            collector,
            services,
            ids,
        };
        traffic.counted().await;
        traffic
    }

    async fn scrape(&self, service: &str) -> Scrape {
        let (_, service) = self.services.iter().find(|(n, _)| *n == service).unwrap();
        Scrape::of(&service.admin_url("/metrics")).await
    }

    /// Waits for the counts that change last: the second delivery, and the events that the sweeper
    /// finds in the table.
    async fn counted(&self) {
        let counted = eventually(PATIENCE, || async {
            let worker = self.scrape("inventory-worker").await;
            let duplicates = worker.value("orders_processed_total", &[("outcome", "duplicate")]);
            let dead = worker.value("worker_dead_letters", &[]);
            let relay = self.scrape("outbox-relay").await;
            let pending = relay.value("outbox_pending_events", &[]);
            let oldest = relay.value("outbox_oldest_pending_seconds", &[]);
            let failed = relay.value("outbox_failed_events", &[]);
            match (duplicates, dead, pending, oldest, failed) {
                (Some(1.0), Some(1.0), Some(0.0), Some(0.0), Some(1.0)) => Ok(()),
                _ => Err(format!("{}\n{}", worker.text, relay.text)),
            }
        });
        if let Err(metrics) = counted.await {
            panic!("{metrics}");
        }
    }
}

async fn queue_url(stack: &Stack, name: &str) -> String {
    let sqs = stack.cloud.sqs_client();
    let found = sqs.get_queue_url().queue_name(name).send().await.unwrap();
    found.queue_url.unwrap()
}

async fn dead_letter(stack: &Stack) {
    let send = stack.cloud.sqs_client().send_message();
    let url = queue_url(stack, "order-events-dlq").await;
    send.queue_url(url)
        .message_body("given up")
        .send()
        .await
        .unwrap();
}

/// Places an order for a SKU without stock.
async fn rejected(http: &reqwest::Client, api: &str) -> String {
    let order = json!({
        "customer_id": "c-1",
        "currency": "EUR",
        "items": [{"sku": "UNHEARD-OF", "quantity": 1, "unit_price_minor": 1}],
    });
    let answer = http.post(format!("{api}/orders")).json(&order);
    let order: serde_json::Value = answer.send().await.unwrap().json().await.unwrap();
    order["order_id"].as_str().unwrap().to_owned()
}

async fn put_event(stack: &Stack, aggregate_id: &str, status: &str, payload: &str) {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    stack
        .dynamodb
        .put_item()
        .table_name("outbox")
        .item("aggregate_id", text(aggregate_id))
        .item("sequence", AttributeValue::N("1".to_owned()))
        .item("aggregate_type", text("order"))
        .item("event_type", text("order.placed"))
        .item("payload", text(payload))
        .item("occurred_at", text("2026-01-31T08:15:30.123Z"))
        .item("status", text(status))
        .send()
        .await
        .unwrap();
}

/// Waits until all orders and events have their final status.
async fn settled(stack: &Stack) {
    let settled = eventually(PATIENCE, || async {
        let left = (
            stack.without_status("orders", "PROCESSED").await,
            stack.without_status("outbox", "PUBLISHED").await,
        );
        // One order is REJECTED, one event FAILED.
        let orders = stack.scan("orders").await;
        let created = orders
            .iter()
            .any(|o| o["status"].as_s().unwrap() == "CREATED");
        if left == (1, 1) && !created {
            Ok(())
        } else {
            Err(left)
        }
    });
    settled.await.unwrap();
}

/// Sends the message of an order again, as a redelivery after a lost delete.
async fn deliver_again(stack: &Stack, order_id: &str) {
    let event = crate::support::item(&stack.dynamodb, order_id).await;
    let body = json!({
        "specversion": "1.0",
        "id": event["event_id"].as_s().unwrap(),
        "source": "/orders",
        "type": "order.placed",
        "subject": order_id,
        "data": serde_json::from_str::<serde_json::Value>(event["payload"].as_s().unwrap()).unwrap(),
    });
    let url = queue_url(stack, "order-events").await;
    let send = stack.cloud.sqs_client().send_message().queue_url(url);
    send.message_body(body.to_string()).send().await.unwrap();
}

#[tokio::test]
async fn documented_metrics_are_exported_with_plausible_values() {
    let traffic = Traffic::generate().await;
    let documented = catalogue();
    for (service, _) in &traffic.services {
        let scrape = traffic.scrape(service).await;
        let of_service = documented.iter().filter(|(_, m)| m.service == *service);
        let mut names: BTreeSet<_> = of_service.clone().map(|(name, _)| name.as_str()).collect();
        // The label of OpenTelemetry about the process.
        names.insert("target_info");
        let exported: BTreeSet<_> = scrape.types.keys().map(String::as_str).collect();
        assert_eq!(exported, names, "{service}");
        for (name, metric) in of_service {
            assert_eq!(scrape.types[name], metric.kind, "{name}");
            assert_eq!(
                without_errors(scrape.labels(name)),
                without_errors(metric.labels.clone()),
                "{name}"
            );
        }
        for id in &traffic.ids {
            assert!(!scrape.text.contains(id.as_str()), "{id}\n{}", scrape.text);
        }
    }
    values_of_the_api(&traffic.scrape("order-api").await);
    values_of_the_relay(&traffic.scrape("outbox-relay").await);
    values_of_the_worker(&traffic.scrape("inventory-worker").await);
}

/// Removes the label that only errors have: the traffic may have none.
fn without_errors(mut labels: BTreeSet<String>) -> BTreeSet<String> {
    labels.remove("error_type");
    labels
}

fn values_of_the_api(api: &Scrape) {
    let orders = (GOOD + 1) as f64;
    assert_eq!(api.value("orders_created_total", &[]), Some(orders));
    let posted = [
        ("http_route", "/orders"),
        ("http_response_status_code", "201"),
    ];
    let requests = api.value("http_server_request_duration_seconds_count", &posted);
    assert_eq!(requests, Some(orders));
    let took = api.value("http_server_request_duration_seconds_sum", &posted);
    assert!((0.0..60.0).contains(&took.unwrap()), "{took:?}");
}

fn values_of_the_relay(relay: &Scrape) {
    let published = relay.value(
        "outbox_events_published_total",
        &[("queue", "order-events"), ("path", "stream")],
    );
    assert_eq!(published, Some((GOOD + 1) as f64));
    let lags = relay.value("outbox_publish_lag_seconds_count", &[]);
    assert_eq!(lags, published);
    assert_eq!(relay.types["outbox_publish_lag_seconds"], "histogram");
    let lag = relay.value("outbox_publish_lag_seconds_sum", &[]).unwrap();
    assert!(lag > 0.0 && lag < 60.0 * 6.0, "{lag}");
    let quarantined =
        |reason| relay.value("outbox_events_quarantined_total", &[("reason", reason)]);
    assert_eq!(quarantined("not_json"), Some(1.0));
    assert_eq!(quarantined("too_large"), Some(0.0));
    let skipped = |reason| relay.value("outbox_events_skipped_total", &[("reason", reason)]);
    assert_eq!(skipped("not_pending"), Some(1.0));
    // Marks of published and of quarantined events.
    assert!(skipped("not_insert").unwrap() >= 1.0);
    for never in [
        "outbox_stream_gaps_total",
        "outbox_leases_lost_total",
        "outbox_checkpoint_failures_total",
        "outbox_pending_events",
        "outbox_oldest_pending_seconds",
    ] {
        assert_eq!(relay.value(never, &[]), Some(0.0), "{never}");
    }
    for retries in relay.of_metric("outbox_publish_retries_total") {
        assert_eq!(retries.value, 0.0, "{retries:?}");
    }
    assert_eq!(relay.value("outbox_shards_held", &[]), Some(1.0));
    for budget in ["events", "pages", "reads", "look_ups"] {
        let used = relay.value("outbox_budget_utilization_ratio", &[("budget", budget)]);
        assert!((0.0..1.0).contains(&used.unwrap()), "{budget}: {used:?}");
    }
    let progress = relay.value("outbox_shard_progress_seconds", &[]).unwrap();
    assert!((0.0..30.0).contains(&progress), "{progress}");
}

fn values_of_the_worker(worker: &Scrape) {
    let ended = |outcome| worker.value("orders_processed_total", &[("outcome", outcome)]);
    assert_eq!(ended("processed"), Some(GOOD as f64));
    assert_eq!(ended("rejected"), Some(1.0));
    assert_eq!(ended("duplicate"), Some(1.0));
    assert_eq!(ended("unreadable"), Some(0.0));
    assert_eq!(ended("failed"), Some(0.0));
    assert_eq!(ended("ignored"), Some(0.0));
    let took = |outcome| {
        let labels = [
            ("messaging_operation_name", "process"),
            ("messaging_system", "aws_sqs"),
            ("messaging_destination_name", "order-events"),
            ("outcome", outcome),
        ];
        worker.value("messaging_process_duration_seconds_count", &labels)
    };
    assert_eq!(took("processed"), Some(GOOD as f64));
    assert_eq!(took("rejected"), Some(1.0));
    assert_eq!(took("duplicate"), Some(1.0));
    assert_eq!(
        worker.types["messaging_process_duration_seconds"],
        "histogram"
    );
    assert_eq!(worker.value("worker_circuit_open", &[]), Some(0.0));
    for state in ["active", "waiting"] {
        let held = worker.value("worker_messages_held", &[("state", state)]);
        assert_eq!(held, Some(0.0), "{state}");
    }
    let retries = worker.of_metric("worker_retries_total");
    assert_eq!(retries.count(), 3);
    let age = worker.value("worker_dead_letter_age_seconds", &[]);
    assert!((0.0..600.0).contains(&age.unwrap()), "{age:?}");
    let dead = worker.value("worker_dead_letters", &[("queue", "order-events-dlq")]);
    assert_eq!(dead, Some(1.0));
}

#[tokio::test]
async fn the_same_metrics_arrive_over_otlp() {
    let traffic = Traffic::generate().await;
    let documented: BTreeSet<_> = catalogue()
        .into_iter()
        .map(|(name, metric)| {
            let labels = without_errors(metric.labels);
            (metric.service, name, metric.kind, labels)
        })
        .collect();
    let arrived = eventually(PATIENCE, || async {
        let arrived = traffic.collector.metrics().into_iter();
        let arrived: BTreeSet<_> = arrived
            .map(|(service, name, kind, labels)| (service, name, kind, without_errors(labels)))
            .collect();
        if arrived == documented {
            Ok(())
        } else {
            Err(arrived)
        }
    });
    if let Err(arrived) = arrived.await {
        let missing: Vec<_> = documented.difference(&arrived).collect();
        let undocumented: Vec<_> = arrived.difference(&documented).collect();
        panic!("missing: {missing:#?}\nundocumented: {undocumented:#?}");
    }
}
