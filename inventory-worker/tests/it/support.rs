//! A cloud with the contract's tables and queues, workers on it, and orders and messages as the
//! other services write them.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    SendMessageBatchRequestEntry,
};
use local_cloud::LocalCloud;
use outbox::{Buckets, Message, OutboxItem};
use shared::order::{Currency, CustomerId, Line, Order, OrderStatus, Quantity, Sku, UnitPrice};
use shared::provision::{self, Table};
use test_support::{Call, Fault, Proxy, Service, eventually};

/// Time limit for waiting, far beyond the duration of anything here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(25);

const PROGRAM: &str = env!("CARGO_BIN_EXE_inventory-worker");

pub(crate) struct TestCloud {
    pub local: LocalCloud,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sqs: aws_sdk_sqs::Client,
    pub queue_url: String,
    pub dead_letters_url: String,
}

impl TestCloud {
    /// Starts a cloud with tables, queues and `stock` in the inventory.
    pub(crate) async fn start(stock: &[(&str, u64)]) -> Self {
        Self::start_with(local_cloud::Config::default(), stock).await
    }

    pub(crate) async fn start_with(config: local_cloud::Config, stock: &[(&str, u64)]) -> Self {
        let local = LocalCloud::start(config).await.unwrap();
        let dynamodb = local.dynamodb_client();
        let sqs = local.sqs_client();
        let tables = [Table::orders("orders"), Table::inventory("inventory")];
        provision::tables(&dynamodb, tables).await.unwrap();
        for (sku, available) in stock {
            let skus = [(*sku).to_owned()];
            provision::stock(&dynamodb, "inventory", skus, *available)
                .await
                .unwrap();
        }
        let queue_url = provision::queue(&sqs, "order-events").await.unwrap();
        let dead_letters = provision::dead_letter_queue_name("order-events");
        let dead_letters_url = shared::aws::queue_url(&sqs, &dead_letters).await.unwrap();
        Self {
            local,
            dynamodb,
            sqs,
            queue_url,
            dead_letters_url,
        }
    }

    /// Starts a worker on this cloud; `environment` overrides its other variables.
    pub(crate) async fn worker(&self, environment: &[(&str, &str)]) -> Service {
        start_worker(self.local.env(), environment).await
    }

    /// Stores an order of (SKU, quantity) lines.
    pub(crate) async fn place(&self, lines: &[(&str, u64)]) -> Order {
        let order = order(lines);
        self.dynamodb
            .put_item()
            .table_name("orders")
            .set_item(Some(order.to_item().unwrap()))
            .send()
            .await
            .unwrap();
        order
    }

    pub(crate) async fn send(&self, messages: &[Message]) {
        for batch in messages.chunks(10) {
            let entries = batch.iter().enumerate().map(|(n, message)| {
                let attributes = message.attributes.iter().map(|(name, value)| {
                    let value = MessageAttributeValue::builder()
                        .data_type("String")
                        .string_value(value)
                        .build()
                        .unwrap();
                    ((*name).to_owned(), value)
                });
                SendMessageBatchRequestEntry::builder()
                    .id(n.to_string())
                    .message_body(&message.body)
                    .set_message_attributes(Some(attributes.collect()))
                    .build()
                    .unwrap()
            });
            let sent = self
                .sqs
                .send_message_batch()
                .queue_url(&self.queue_url)
                .set_entries(Some(entries.collect()))
                .send()
                .await
                .unwrap();
            assert!(sent.failed().is_empty(), "{sent:?}");
        }
    }

    /// Places an order for each element and sends its message.
    pub(crate) async fn place_and_send(&self, orders: &[&[(&str, u64)]]) -> Vec<Order> {
        let mut placed = Vec::new();
        for lines in orders {
            placed.push(self.place(lines).await);
        }
        let messages: Vec<_> = placed.iter().map(message).collect();
        self.send(&messages).await;
        placed
    }

    pub(crate) async fn order(&self, order: &Order) -> Order {
        Order::from_item(self.order_item(order).await).unwrap()
    }

    pub(crate) async fn order_item(&self, order: &Order) -> HashMap<String, AttributeValue> {
        let answer = self
            .dynamodb
            .get_item()
            .table_name("orders")
            .key("order_id", AttributeValue::S(order.order_id.to_string()))
            .consistent_read(true)
            .send()
            .await
            .unwrap();
        answer.item.unwrap()
    }

    /// Waits until the order is no longer CREATED.
    pub(crate) async fn decided(&self, order: &Order) -> Order {
        let decided = eventually(DEADLINE, || async {
            let stored = self.order(order).await;
            match stored.status {
                OrderStatus::Created => Err(stored),
                _ => Ok(stored),
            }
        });
        decided
            .await
            .expect("the order should be processed or rejected")
    }

    /// Waits until every one of `orders` has `status`.
    pub(crate) async fn all(&self, orders: &[Order], status: OrderStatus) {
        for order in orders {
            let stored = self.decided(order).await;
            assert_eq!(stored.status, status, "{stored:?}");
            assert_eq!(stored.version, 2, "changed once: {stored:?}");
        }
    }

    /// Returns the numbers of pieces (available, reserved).
    pub(crate) async fn stock(&self, sku: &str) -> (i64, i64) {
        let answer = self
            .dynamodb
            .get_item()
            .table_name("inventory")
            .key("sku", AttributeValue::S(sku.to_owned()))
            .consistent_read(true)
            .send()
            .await
            .unwrap();
        let item: HashMap<_, _> = answer.item.unwrap();
        let number = |name: &str| item[name].as_n().unwrap().parse().unwrap();
        (number("available"), number("reserved"))
    }

    /// Waits until the queue is empty, with no message in flight.
    pub(crate) async fn drained(&self) {
        let drained = eventually(DEADLINE, || async {
            match self.messages(&self.queue_url).await {
                (0, 0) => Ok(()),
                left => Err(left),
            }
        });
        drained.await.expect("the queue should become empty");
    }

    /// Waits until `count` messages are in the dead-letter queue.
    pub(crate) async fn dead_letters(&self, count: u64) {
        let dead = eventually(DEADLINE, || async {
            match self.messages(&self.dead_letters_url).await {
                (found, 0) if found == count => Ok(()),
                found => Err(found),
            }
        });
        dead.await.expect("the messages should be dead-lettered");
    }

    /// Returns the numbers of messages (visible, in flight).
    pub(crate) async fn messages(&self, queue_url: &str) -> (u64, u64) {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(queue_url)
            .set_attribute_names(Some(names.to_vec()))
            .send()
            .await
            .unwrap();
        let attributes = answer.attributes.unwrap();
        let [visible, in_flight] = names.map(|name| attributes[&name].parse().unwrap());
        (visible, in_flight)
    }

    /// Receives all visible messages, as (body, receive count).
    pub(crate) async fn receive_all(&self, queue_url: &str) -> Vec<(String, u32)> {
        let mut taken = Vec::new();
        loop {
            let answer = self
                .sqs
                .receive_message()
                .queue_url(queue_url)
                .max_number_of_messages(10)
                .visibility_timeout(600)
                .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
                .send()
                .await
                .unwrap();
            let messages = answer.messages.unwrap_or_default();
            if messages.is_empty() {
                return taken;
            }
            taken.extend(messages.into_iter().map(|message| {
                let receives = &message.attributes.as_ref().unwrap()
                    [&MessageSystemAttributeName::ApproximateReceiveCount];
                (message.body.clone().unwrap(), receives.parse().unwrap())
            }));
        }
    }
}

/// Decides about each of the worker's transactions by its number, from 1. Its probes, which are
/// transactions as well, and all other requests pass.
pub(crate) fn on_transactions(
    proxy: &Proxy,
    mut fault: impl FnMut(Call<'_>, usize) -> Fault + Send + 'static,
) {
    let mut count = 0;
    proxy.rule(move |call| {
        if call.operation == "TransactWriteItems" && !call.body.contains("probe:") {
            count += 1;
            fault(call, count)
        } else {
            Fault::Pass
        }
    });
}

/// Cancels a transaction because one of its items is in another transaction.
pub(crate) fn conflict(call: Call<'_>) -> Fault {
    let body: serde_json::Value = serde_json::from_str(call.body).unwrap();
    let mut reasons = vec!["None"; body["TransactItems"].as_array().unwrap().len()];
    reasons.pop();
    reasons.push("TransactionConflict");
    Fault::cancel(&reasons)
}

/// Starts a worker in the given environment, on a free port.
pub(crate) async fn start_worker(
    cloud: Vec<(&'static str, String)>,
    environment: &[(&str, &str)],
) -> Service {
    let mut variables: Vec<(String, String)> = vec![
        ("WORKER_ADMIN_LISTEN".into(), "127.0.0.1:0".into()),
        ("RUST_LOG".into(), "info,inventory_worker=debug".into()),
    ];
    variables.extend(cloud.into_iter().map(|(name, value)| (name.into(), value)));
    variables.extend(
        environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into())),
    );
    Service::start(PROGRAM, &[], variables).await.unwrap()
}

pub(crate) fn program() -> &'static str {
    PROGRAM
}

pub(crate) fn order(lines: &[(&str, u64)]) -> Order {
    let lines = lines.iter().map(|(sku, quantity)| Line {
        sku: Sku::try_from((*sku).to_owned()).unwrap(),
        quantity: Quantity::try_from(*quantity).unwrap(),
        unit_price_minor: UnitPrice::try_from(1_999).unwrap(),
    });
    Order::create(
        CustomerId::try_from("c-1".to_owned()).unwrap(),
        Currency::try_from("EUR".to_owned()).unwrap(),
        lines.collect(),
    )
}

/// Returns the outbox item that the API would have written with the order.
pub(crate) fn outbox_item(order: &Order) -> OutboxItem {
    OutboxItem::pending(order.placed().unwrap(), Buckets::default())
}

/// Returns the message that the relay would send.
pub(crate) fn message(order: &Order) -> Message {
    Message::from_item(&outbox_item(order)).unwrap()
}

/// Returns one sample of `/metrics`, such as `orders_processed_total{outcome="failed"}`.
pub(crate) async fn metric(worker: &Service, sample: &str) -> f64 {
    let text = get(worker, "/metrics").await.1;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{text}"))
        .parse()
        .unwrap()
}

/// Returns status and body.
pub(crate) async fn get(worker: &Service, path: &str) -> (u16, String) {
    let answer = reqwest::get(worker.url(path)).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until the worker has logged `text`.
pub(crate) async fn logged(worker: &Service, text: &str) {
    let logged = eventually(DEADLINE, || async {
        let log = worker.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
    if let Err(log) = logged.await {
        panic!("not logged: {text}; but\n{log}");
    }
}
