//! Reads tables and queues directly: whether everything is settled, and their contents at the end.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Select};
use aws_sdk_sqs::types::QueueAttributeName;
use outbox::item::{BY_STATE_INDEX, attribute};
use outbox::{Buckets, OutboxItem};
use serde_json::Value;
use shared::order::attribute::orders::RESERVATION;
use shared::order::{Order, OrderStatus};
use shared::provision::dead_letter_queue_name;
use tokio::time::Instant;

use super::backend::Backend;
use super::error::Unreadable;
use super::history::{
    DeadLetter, End, IdempotencyRecord, Level, OrderLine, Stock, StoredEvent, StoredOrder,
};
use super::recorder::Recorder;

/// Interval between two checks whether everything is settled.
const PAUSE: Duration = Duration::from_millis(200);

type Item = HashMap<String, AttributeValue>;

impl Backend {
    /// Waits until no event is pending, the queues are empty and every order is settled. Returns
    /// whether that was before `deadline`.
    pub(super) async fn settled(&self, deadline: Instant) -> Result<bool, Unreadable> {
        while !self.is_settled().await? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(true)
    }

    async fn is_settled(&self) -> Result<bool, Unreadable> {
        for bucket in Buckets::default().partitions() {
            if self.pending(&bucket).await? > 0 {
                return Ok(false);
            }
        }
        for queue in self.queues() {
            if self.messages(queue).await? > 0 {
                return Ok(false);
            }
        }
        Ok(self.unsettled_orders().await? == 0)
    }

    async fn pending(&self, bucket: &str) -> Result<i32, Unreadable> {
        let table = &self.names.outbox_table;
        let mut pages = self
            .clients
            .dynamodb
            .query()
            .table_name(table)
            .index_name(BY_STATE_INDEX)
            .select(Select::Count)
            .key_condition_expression("#bucket = :bucket")
            .expression_attribute_names("#bucket", attribute::STATE_BUCKET)
            .expression_attribute_values(":bucket", AttributeValue::S(bucket.to_owned()))
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            count += page.map_err(|error| Unreadable::new(table, &error))?.count;
        }
        Ok(count)
    }

    async fn unsettled_orders(&self) -> Result<i32, Unreadable> {
        let table = &self.names.orders_table;
        let created = OrderStatus::Created.as_str().to_owned();
        let mut pages = self
            .clients
            .dynamodb
            .scan()
            .table_name(table)
            .consistent_read(true)
            .select(Select::Count)
            .filter_expression("#status = :created")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":created", AttributeValue::S(created))
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            count += page.map_err(|error| Unreadable::new(table, &error))?.count;
        }
        Ok(count)
    }

    /// Returns the number of messages in a queue, including messages in flight and delayed ones.
    async fn messages(&self, queue: &str) -> Result<u64, Unreadable> {
        let url = self.queue_url(queue).await?;
        let answer = self
            .clients
            .sqs
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .send()
            .await
            .map_err(|error| Unreadable::new(queue, &error))?;
        let counts = answer.attributes.unwrap_or_default();
        Ok(counts
            .values()
            .filter_map(|count| count.parse::<u64>().ok())
            .sum())
    }

    pub(super) async fn queue_url(&self, queue: &str) -> Result<String, Unreadable> {
        shared::aws::queue_url(&self.clients.sqs, queue)
            .await
            .map_err(|error| Unreadable::new(queue, &error))
    }

    /// Returns the stock by SKU.
    pub(super) async fn stock(&self) -> Result<BTreeMap<String, Level>, Unreadable> {
        let table = &self.names.inventory_table;
        let mut stock = BTreeMap::new();
        for item in self.scan(table).await? {
            let number = |name| -> Result<i64, Unreadable> {
                let value: &AttributeValue = item
                    .get(name)
                    .ok_or_else(|| Unreadable::malformed(table, format!("no `{name}`")))?;
                let text = value.as_n().map_err(|_| {
                    Unreadable::malformed(table, format!("`{name}` is not a number"))
                })?;
                text.parse()
                    .map_err(|error| Unreadable::malformed(table, error))
            };
            let level = Level {
                available: number("available")?,
                reserved: number("reserved")?,
            };
            stock.insert(string(&item, table, "sku")?, level);
        }
        Ok(stock)
    }

    /// Returns the final state, after every process has exited. `before` is the stock at the start.
    pub(super) async fn end(
        &self,
        recorder: &Recorder,
        before: &BTreeMap<String, Level>,
        drained_after_ms: Option<u64>,
    ) -> Result<End, Unreadable> {
        let after = self.stock().await?;
        let level = |of: &BTreeMap<String, Level>, sku| of.get(sku).copied().unwrap_or_default();
        let skus = before.keys().chain(after.keys());
        let mut left_in_queues = BTreeMap::new();
        let mut dead_letters = Vec::new();
        for queue in self.queues() {
            let left = self.messages(queue).await?;
            if left > 0 {
                left_in_queues.insert(queue.to_owned(), left);
            }
            let name = dead_letter_queue_name(queue);
            dead_letters.extend(self.dead_letters(&name).await?);
        }
        Ok(End {
            drained_after_ms,
            orders: self.orders(recorder).await?,
            outbox: self.outbox().await?,
            idempotency: self.idempotency().await?,
            inventory: skus
                .map(|sku| {
                    let stock = Stock {
                        before: level(before, sku),
                        after: level(&after, sku),
                    };
                    (sku.clone(), stock)
                })
                .collect(),
            left_in_queues,
            dead_letters,
        })
    }

    async fn orders(&self, recorder: &Recorder) -> Result<Vec<StoredOrder>, Unreadable> {
        let table = &self.names.orders_table;
        let items = self.scan(table).await?;
        items
            .into_iter()
            .map(|item| {
                let reservation = item.get(RESERVATION).map(|reservation| {
                    quantities(reservation).ok_or_else(|| {
                        Unreadable::malformed(
                            table,
                            format!("`{RESERVATION}` is not a map of numbers"),
                        )
                    })
                });
                let reservation = reservation.transpose()?;
                let order =
                    Order::from_item(item).map_err(|error| Unreadable::malformed(table, error))?;
                Ok(StoredOrder {
                    order_id: order.order_id.to_string(),
                    customer_id: order.customer_id.to_string(),
                    lines: order
                        .items
                        .iter()
                        .map(|line| OrderLine {
                            sku: line.sku.to_string(),
                            quantity: line.quantity.get().into(),
                        })
                        .collect(),
                    status: order.status.as_str().to_owned(),
                    rejection_reason: order.rejection_reason,
                    reservation,
                    version: order.version,
                    created_at: recorder.since_start(order.created_at),
                    updated_at: recorder.since_start(order.updated_at),
                })
            })
            .collect()
    }

    async fn outbox(&self) -> Result<Vec<StoredEvent>, Unreadable> {
        let table = &self.names.outbox_table;
        let items = self.scan(table).await?;
        items
            .into_iter()
            .map(|item| {
                let event = OutboxItem::from_attributes(item)
                    .map_err(|error| Unreadable::malformed(table, error))?;
                Ok(StoredEvent {
                    aggregate_id: event.aggregate_id,
                    sequence: event.sequence,
                    event_id: event.event_id,
                    event_type: event.event_type,
                    status: event.status.as_str().to_owned(),
                })
            })
            .collect()
    }

    async fn idempotency(&self) -> Result<Vec<IdempotencyRecord>, Unreadable> {
        let table = &self.names.idempotency_table;
        let items = self.scan(table).await?;
        items
            .iter()
            .map(|item| {
                Ok(IdempotencyRecord {
                    key: string(item, table, "idempotency_key")?,
                    order_id: string(item, table, "order_id")?,
                })
            })
            .collect()
    }

    async fn scan(&self, table: &str) -> Result<Vec<Item>, Unreadable> {
        self.clients
            .dynamodb
            .scan()
            .table_name(table)
            .consistent_read(true)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .map_err(|error| Unreadable::new(table, &error))
    }

    /// Receives all messages of a dead-letter queue.
    async fn dead_letters(&self, queue: &str) -> Result<Vec<DeadLetter>, Unreadable> {
        let url = self.queue_url(queue).await?;
        let mut letters = Vec::new();
        // Each response has at least one message as long as the queue is not empty.
        while letters.len() as u64 != self.messages(queue).await? {
            let answer = self
                .clients
                .sqs
                .receive_message()
                .queue_url(&url)
                .max_number_of_messages(10)
                .send()
                .await
                .map_err(|error| Unreadable::new(queue, &error))?;
            let messages = answer.messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            letters.extend(messages.into_iter().map(|message| {
                let body: Value = serde_json::from_str(message.body.as_deref().unwrap_or_default())
                    .unwrap_or_default();
                DeadLetter {
                    queue: queue.to_owned(),
                    event_id: body["id"].as_str().map(str::to_owned),
                }
            }));
        }
        Ok(letters)
    }
}

fn string(item: &Item, table: &str, name: &str) -> Result<String, Unreadable> {
    match item.get(name) {
        Some(AttributeValue::S(text)) => Ok(text.clone()),
        _ => Err(Unreadable::malformed(
            table,
            format!("`{name}` is not a string"),
        )),
    }
}

/// Reads a map of numbers.
fn quantities(map: &AttributeValue) -> Option<BTreeMap<String, u64>> {
    let quantities = map.as_m().ok()?.iter();
    quantities
        .map(|(sku, quantity)| Some((sku.clone(), quantity.as_n().ok()?.parse().ok()?)))
        .collect()
}
