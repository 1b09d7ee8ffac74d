//! The stored outbox item: the schema of the outbox table, and the only place that names its
//! attributes.
//!
//! - [`attribute`]: the names of the attributes.
//! - `reader`: reads an item, whichever program wrote it, and states what is wrong with it.

pub mod attribute;
mod reader;

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
pub use reader::MalformedItem;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;
use crate::trace_context::TraceContext;

/// Name of the sparse index of pending and quarantined events.
pub const BY_STATE_INDEX: &str = "by_state";

/// Upper bound on the item of a new event, in bytes: 399 KiB. DynamoDB's limit is 400 KiB; the rest
/// is for the attributes that the relay and operators add when they publish, quarantine, retry,
/// replay or discard the event.
pub const MAX_ITEM_BYTES: usize = 399 * 1024;

/// Index partition of quarantined events.
pub const FAILED_BUCKET: &str = "FAILED";

/// State of an event.
///
/// Exhaustive on purpose: a new state changes the contract between writers, relay and operators, so
/// their code must not compile until it handles the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Committed; not yet marked as published.
    Pending,
    /// Sent to its queue.
    Published,
    /// Quarantined: it cannot be sent as it is.
    Failed,
    /// Abandoned by an operator while it was quarantined or pending. Later events of its aggregate
    /// do not wait for it.
    Discarded,
}

impl Status {
    /// Returns the text that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Published => "PUBLISHED",
            Self::Failed => "FAILED",
            Self::Discarded => "DISCARDED",
        }
    }

    /// Parses a stored text; `None` if it is not one of the four.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Published,
            Self::Failed,
            Self::Discarded,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }
}

/// One event as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutboxItem {
    /// Partition key.
    pub aggregate_id: String,
    /// Sort key: from 1, without gaps per aggregate.
    pub sequence: u64,
    /// Unique, 1 to 128 characters; consumers deduplicate on it.
    pub event_id: String,
    /// Kind of aggregate, such as `order`.
    pub aggregate_type: String,
    /// Kind of event, such as `order.placed`; selects the queue.
    pub event_type: String,
    /// JSON text.
    pub payload: String,
    /// RFC 3339 time. Text, because a writer in another language may use another precision or
    /// offset, and the message repeats it unchanged.
    pub occurred_at: String,
    /// W3C trace context of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// W3C trace context of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// State of the event.
    pub status: Status,
    /// Index partition; absent once the event is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_bucket: Option<String>,
    /// Time of the last publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
    /// SQS's id of the last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Time to live, in seconds since the epoch. Set only on published events: a pending event
    /// that expires is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Time of the quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// Reason of the quarantine, for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Number of sends that failed before the quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// Number of replays: how often an operator had the published event sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u64>,
}

impl OutboxItem {
    /// Returns the `event_id` of an event whose writer did not choose one.
    pub fn default_event_id(aggregate_id: &str, sequence: u64) -> String {
        format!("{aggregate_id}:{sequence}")
    }

    /// Returns the stored trace context.
    pub fn trace_context(&self) -> TraceContext {
        TraceContext {
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.clone(),
        }
    }
}

/// Returns the size of an item of strings and numbers as DynamoDB counts it, in bytes: names and
/// texts in UTF-8, and for a number one byte per two digits and one more.
pub(crate) fn item_size(item: &HashMap<String, AttributeValue>) -> usize {
    let value_size = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        // An event is stored as strings and numbers only.
        _ => 0,
    };
    item.iter()
        .map(|(name, value)| name.len() + value_size(value))
        .sum()
}

/// Returns the name of the `bucket`-th index partition of pending events, from 0.
pub fn bucket_name(bucket: u32) -> String {
    format!("{}#{bucket}", Status::Pending.as_str())
}
