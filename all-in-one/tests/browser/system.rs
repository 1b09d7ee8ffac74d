//! The system under test: an embedded cloud in the test, and the services on it as processes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::MessageAttributeValue;
use local_cloud::{Config, LocalCloud};
use serde_json::{Value, json};
use test_support::Service;
use tokio::process::Command;

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_all-in-one");

const DEAD_LETTERS: &str = "order-events-dlq";

/// Short intervals, so that takeovers and retries are quick.
const ENVIRONMENT: [(&str, &str); 10] = [
    ("ORDER_API_LISTEN", "127.0.0.1:0"),
    ("ORDER_API_ADMIN_LISTEN", "127.0.0.1:0"),
    ("RELAY_ADMIN_LISTEN", "127.0.0.1:0"),
    ("WORKER_ADMIN_LISTEN", "127.0.0.1:0"),
    ("RELAY_ROUTES", "order.*=order-events,invoice.*=!quarantine"),
    ("RELAY_LEASE_DURATION", "3s"),
    ("RELAY_SWEEP_INTERVAL", "500ms"),
    ("RELAY_SWEEP_AFTER", "500ms"),
    ("RELAY_AGGREGATE_TABLES", "order=orders"),
    ("JAEGER_UI_URL", "http://localhost:16686"),
];

pub(crate) struct System {
    cloud: LocalCloud,
    dynamodb: aws_sdk_dynamodb::Client,
    http: reqwest::Client,
    api: Service,
    _worker: Service,
}

impl System {
    /// Starts the whole system except a relay.
    pub(crate) async fn start() -> Self {
        let cloud = LocalCloud::start(Config::default()).await.unwrap();
        let provisioned = Command::new(BINARY)
            .args(["provision", "--stock"])
            .envs(cloud.env())
            .output()
            .await
            .unwrap();
        assert!(provisioned.status.success(), "{provisioned:?}");
        Self {
            dynamodb: cloud.dynamodb_client(),
            http: reqwest::Client::new(),
            api: service(&cloud, "order-api", &[]).await,
            _worker: service(&cloud, "inventory-worker", &[]).await,
            cloud,
        }
    }

    pub(crate) async fn relay(&self, instance: &str, more: &[(&str, &str)]) -> Service {
        let environment: Vec<_> = [("RELAY_INSTANCE_ID", instance)]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        service(&self.cloud, "outbox-relay", &environment).await
    }

    /// Posts an order and returns its id.
    pub(crate) async fn order(&self) -> String {
        let order = json!({
            "customer_id": "c-1",
            "currency": "EUR",
            "items": [
                { "sku": "WIDGET-1", "quantity": 2, "unit_price_minor": 1999 },
                { "sku": "WIDGET-4", "quantity": 1, "unit_price_minor": 250 },
            ],
        });
        let request = self.http.post(self.api.url("/orders")).json(&order);
        let order: Value = request.send().await.unwrap().json().await.unwrap();
        order["order_id"].as_str().unwrap().to_owned()
    }

    /// Writes the first event of an aggregate as any program may.
    pub(crate) async fn event(&self, aggregate_id: &str, event_type: &str, payload: &str) {
        self.event_at(aggregate_id, 1, event_type, payload).await;
    }

    /// Writes a pending event as any program may.
    pub(crate) async fn event_at(
        &self,
        aggregate_id: &str,
        sequence: u32,
        event_type: &str,
        payload: &str,
    ) {
        let texts = [
            ("aggregate_id", aggregate_id),
            ("event_id", &format!("{aggregate_id}:{sequence}")),
            ("aggregate_type", "order"),
            ("event_type", event_type),
            ("payload", payload),
            (
                "occurred_at",
                &outbox::timestamp::Timestamp::now().to_string(),
            ),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("status", "PENDING"),
            ("state_bucket", "PENDING#0"),
        ];
        let mut item: HashMap<_, _> = texts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), text(value)))
            .collect();
        let sequence = AttributeValue::N(sequence.to_string());
        item.insert("sequence".to_owned(), sequence);
        let put = self.dynamodb.put_item().table_name("outbox");
        put.set_item(Some(item)).send().await.unwrap();
    }

    /// Discards a failed event, as another operator would.
    pub(crate) async fn discard(&self, relay: &Service, aggregate_id: &str, reason: &str) {
        let body = json!({ "aggregate_id": aggregate_id, "sequence": "1", "reason": reason });
        let request = self.http.post(relay.url("/api/discard")).json(&body);
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Repairs an event's payload, as an operator would.
    pub(crate) async fn repair(&self, aggregate_id: &str, payload: &str) {
        self.dynamodb
            .update_item()
            .table_name("outbox")
            .key("aggregate_id", text(aggregate_id))
            .key("sequence", AttributeValue::N("1".to_owned()))
            .update_expression("SET payload = :payload")
            .expression_attribute_values(":payload", text(payload))
            .send()
            .await
            .unwrap();
    }

    /// Sends a message to the dead-letter queue.
    pub(crate) async fn dead_letter(&self, body: &str) {
        let sqs = self.cloud.sqs_client();
        let url = sqs.get_queue_url().queue_name(DEAD_LETTERS).send().await;
        let url = url.unwrap().queue_url.unwrap();
        let send = sqs.send_message().queue_url(url).message_body(body);
        let trace = MessageAttributeValue::builder()
            .data_type("String")
            .string_value("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .build()
            .unwrap();
        let sent = send.message_attributes("traceparent", trace).send().await;
        sent.unwrap();
    }
}

async fn service(cloud: &LocalCloud, name: &str, environment: &[(&str, &str)]) -> Service {
    let environment = cloud
        .env()
        .into_iter()
        .chain(
            ENVIRONMENT
                .iter()
                .chain(environment)
                .map(|(name, value)| (*name, (*value).to_owned())),
        )
        .map(|(name, value)| (name.to_owned(), value))
        .collect::<Vec<_>>();
    Service::start(BINARY, &[name], environment).await.unwrap()
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}
