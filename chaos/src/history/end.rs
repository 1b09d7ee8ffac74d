//! Tables and queues after the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::OrderLine;

/// Tables and queues after faults have ended and everything is drained and stopped.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct End {
    /// Time from the last fault until no event was pending, every order was settled and the queues
    /// were empty; `None` if the limit was exceeded.
    pub drained_after_ms: Option<u64>,
    pub orders: Vec<StoredOrder>,
    pub outbox: Vec<StoredEvent>,
    pub idempotency: Vec<IdempotencyRecord>,
    pub inventory: BTreeMap<String, Stock>,
    /// Number of messages left in each queue except the dead-letter queues.
    pub left_in_queues: BTreeMap<String, u64>,
    pub dead_letters: Vec<DeadLetter>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredOrder {
    pub order_id: String,
    pub customer_id: String,
    pub lines: Vec<OrderLine>,
    /// As stored: `CREATED`, `PROCESSED`, `REJECTED`.
    pub status: String,
    pub rejection_reason: Option<String>,
    /// The stock that it holds by its own record: quantities by SKU.
    #[serde(default)]
    pub reservation: Option<BTreeMap<String, u64>>,
    pub version: u64,
    pub created_at: u64,
    pub updated_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredEvent {
    pub aggregate_id: String,
    pub sequence: u64,
    pub event_id: String,
    pub event_type: String,
    /// As stored: `PENDING`, `PUBLISHED`, `FAILED`.
    pub status: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IdempotencyRecord {
    pub key: String,
    pub order_id: String,
}

/// One SKU before and after the run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stock {
    pub before: Level,
    pub after: Level,
}

/// Signed, so that negative stock is detected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Level {
    pub available: i64,
    pub reserved: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub queue: String,
    /// `None` if the message has none.
    pub event_id: Option<String>,
}
