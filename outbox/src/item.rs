//! The stored outbox item. This type is the schema: attribute names stand here
//! and nowhere else.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;
use crate::trace_context::TraceContext;

/// Attribute names.
pub mod attribute {
    pub const AGGREGATE_ID: &str = "aggregate_id";
    pub const SEQUENCE: &str = "sequence";
    pub const EVENT_ID: &str = "event_id";
    pub const AGGREGATE_TYPE: &str = "aggregate_type";
    pub const EVENT_TYPE: &str = "event_type";
    pub const PAYLOAD: &str = "payload";
    pub const OCCURRED_AT: &str = "occurred_at";
    pub const TRACEPARENT: &str = "traceparent";
    pub const TRACESTATE: &str = "tracestate";
    pub const STATUS: &str = "status";
    pub const STATE_BUCKET: &str = "state_bucket";
    pub const PUBLISHED_AT: &str = "published_at";
    pub const MESSAGE_ID: &str = "message_id";
    pub const EXPIRES_AT: &str = "expires_at";
    pub const FAILED_AT: &str = "failed_at";
    pub const FAILURE: &str = "failure";
    pub const ATTEMPTS: &str = "attempts";
    pub const RETRIED_AT: &str = "retried_at";
    pub const REPLAYS: &str = "replays";
    pub const REPLAYED_AT: &str = "replayed_at";
    pub const DISCARDED_AT: &str = "discarded_at";
    pub const DISCARD_REASON: &str = "discard_reason";

    /// Every one of them; an item may have others, which nobody here reads.
    pub const ALL: [&str; 22] = [
        AGGREGATE_ID,
        SEQUENCE,
        EVENT_ID,
        AGGREGATE_TYPE,
        EVENT_TYPE,
        PAYLOAD,
        OCCURRED_AT,
        TRACEPARENT,
        TRACESTATE,
        STATUS,
        STATE_BUCKET,
        PUBLISHED_AT,
        MESSAGE_ID,
        EXPIRES_AT,
        FAILED_AT,
        FAILURE,
        ATTEMPTS,
        RETRIED_AT,
        REPLAYS,
        REPLAYED_AT,
        DISCARDED_AT,
        DISCARD_REASON,
    ];
}

/// The sparse index over what is pending or failed.
pub const BY_STATE_INDEX: &str = "by_state";

/// Pending events are spread over this many index partitions.
pub const PENDING_BUCKETS: u32 = 8;

/// The index partition of quarantined events.
pub const FAILED_BUCKET: &str = "FAILED";

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Committed, not yet known to be published.
    Pending,
    /// Sent to its queue.
    Published,
    /// Quarantined: it can never be sent as it is.
    Failed,
    /// Quarantined, and given up by an operator. Later events of its aggregate
    /// do not wait for it.
    Discarded,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Published => "PUBLISHED",
            Self::Failed => "FAILED",
            Self::Discarded => "DISCARDED",
        }
    }

    /// As it is stored.
    pub fn read(text: &str) -> Option<Self> {
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
pub struct OutboxItem {
    pub aggregate_id: String,
    /// From 1, without holes per aggregate.
    pub sequence: u64,
    /// Unique, 1–128 characters; consumers deduplicate on it.
    pub event_id: String,
    pub aggregate_type: String,
    pub event_type: String,
    /// JSON text.
    pub payload: String,
    pub occurred_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_bucket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Epoch seconds. Only ever set on published items: a time to live on a
    /// pending one would be loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// How often an operator had it sent again after it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u64>,
}

/// An item that is no event of the contract, and why. The text is for an
/// operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedItem(pub String);

impl OutboxItem {
    /// The default `event_id` of an aggregate's `sequence`-th event.
    pub fn default_event_id(aggregate_id: &str, sequence: u64) -> String {
        format!("{aggregate_id}:{sequence}")
    }

    /// The stored trace context.
    pub fn trace_context(&self) -> TraceContext {
        TraceContext {
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.clone(),
        }
    }

    /// Reads an event that any program may have written. Wants what publishing
    /// needs, with the right types; a missing `event_id` is the default one,
    /// and what only the relay writes is ignored when it is not understood.
    pub fn read(mut item: HashMap<String, AttributeValue>) -> Result<Self, MalformedItem> {
        let sequence = item.remove(attribute::SEQUENCE).as_ref().map(number);
        let Some(Ok(sequence)) = sequence else {
            return Err(MalformedItem(
                "`sequence` must be a whole number from 1 to 18446744073709551615".to_owned(),
            ));
        };
        let aggregate_id = required(&mut item, attribute::AGGREGATE_ID)?;
        let event_id = optional(&mut item, attribute::EVENT_ID)?
            .unwrap_or_else(|| Self::default_event_id(&aggregate_id, sequence));
        let status = required(&mut item, attribute::STATUS)?;
        let status = Status::read(&status).ok_or_else(|| {
            MalformedItem(format!(
                "`status` is `{}`; it must be PENDING, PUBLISHED, FAILED or DISCARDED",
                excerpt(&status)
            ))
        })?;
        Ok(Self {
            sequence,
            event_id,
            aggregate_type: required(&mut item, attribute::AGGREGATE_TYPE)?,
            event_type: required(&mut item, attribute::EVENT_TYPE)?,
            payload: required(&mut item, attribute::PAYLOAD)?,
            occurred_at: required(&mut item, attribute::OCCURRED_AT)?,
            traceparent: lenient(&mut item, attribute::TRACEPARENT),
            tracestate: lenient(&mut item, attribute::TRACESTATE),
            status,
            state_bucket: lenient(&mut item, attribute::STATE_BUCKET),
            published_at: lenient(&mut item, attribute::PUBLISHED_AT)
                .and_then(|at| at.parse().ok()),
            message_id: lenient(&mut item, attribute::MESSAGE_ID),
            expires_at: item
                .remove(attribute::EXPIRES_AT)
                .and_then(|value| value.as_n().ok()?.parse().ok()),
            failed_at: lenient(&mut item, attribute::FAILED_AT).and_then(|at| at.parse().ok()),
            failure: lenient(&mut item, attribute::FAILURE),
            attempts: item
                .remove(attribute::ATTEMPTS)
                .and_then(|value| value.as_n().ok()?.parse().ok()),
            replays: item
                .remove(attribute::REPLAYS)
                .and_then(|value| value.as_n().ok()?.parse().ok()),
            aggregate_id,
        })
    }
}

/// The index partition of a pending event of `aggregate_id`: FNV-1a (32 bits)
/// of its UTF-8 bytes, modulo [`PENDING_BUCKETS`]. Any spread will do for
/// other writers; readers ask for every bucket.
pub fn pending_bucket(aggregate_id: &str) -> String {
    let hash = aggregate_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    bucket_name(hash % PENDING_BUCKETS)
}

/// Every index partition that can hold pending events.
pub fn pending_buckets() -> impl Iterator<Item = String> {
    (0..PENDING_BUCKETS).map(bucket_name)
}

/// The index partition of a pending event, from 0 to [`PENDING_BUCKETS`] − 1.
pub fn bucket_name(bucket: u32) -> String {
    format!("{}#{bucket}", Status::Pending.as_str())
}

fn number(value: &AttributeValue) -> Result<u64, ()> {
    match value {
        AttributeValue::N(text) => match text.parse() {
            Ok(0) | Err(_) => Err(()),
            Ok(number) => Ok(number),
        },
        _ => Err(()),
    }
}

fn optional(
    item: &mut HashMap<String, AttributeValue>,
    name: &str,
) -> Result<Option<String>, MalformedItem> {
    match item.remove(name) {
        None | Some(AttributeValue::Null(_)) => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(other) => Err(MalformedItem(format!(
            "`{name}` must be a string (S), not {}",
            type_name(&other)
        ))),
    }
}

fn required(
    item: &mut HashMap<String, AttributeValue>,
    name: &str,
) -> Result<String, MalformedItem> {
    optional(item, name)?.ok_or_else(|| MalformedItem(format!("`{name}` is missing")))
}

/// What an event can be published without.
fn lenient(item: &mut HashMap<String, AttributeValue>, name: &str) -> Option<String> {
    match item.remove(name)? {
        AttributeValue::S(text) => Some(text),
        _ => None,
    }
}

fn type_name(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::B(_) => "binary (B)",
        AttributeValue::Bool(_) => "a boolean (BOOL)",
        AttributeValue::Bs(_) => "a binary set (BS)",
        AttributeValue::L(_) => "a list (L)",
        AttributeValue::M(_) => "a map (M)",
        AttributeValue::N(_) => "a number (N)",
        AttributeValue::Ns(_) => "a number set (NS)",
        AttributeValue::Ss(_) => "a string set (SS)",
        _ => "of another type",
    }
}

/// The start of a text, for messages: bad input may be huge.
pub fn excerpt(text: &str) -> String {
    const LENGTH: usize = 40;
    if text.chars().count() <= LENGTH {
        text.to_owned()
    } else {
        text.chars().take(LENGTH).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> HashMap<String, AttributeValue> {
        [
            (attribute::AGGREGATE_ID, "o-1"),
            (attribute::AGGREGATE_TYPE, "order"),
            (attribute::EVENT_TYPE, "order.placed"),
            (attribute::PAYLOAD, "{}"),
            (attribute::OCCURRED_AT, "2026-01-31T08:15:30.123Z"),
            (attribute::STATUS, "PENDING"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())))
        .chain([(
            attribute::SEQUENCE.to_owned(),
            AttributeValue::N("7".to_owned()),
        )])
        .collect()
    }

    #[test]
    fn a_missing_event_id_is_the_default_one() {
        assert_eq!(OutboxItem::read(event()).unwrap().event_id, "o-1:7");
    }

    #[test]
    fn every_attribute_that_publishing_needs_is_asked_for_by_name() {
        for name in [
            attribute::AGGREGATE_TYPE,
            attribute::EVENT_TYPE,
            attribute::PAYLOAD,
            attribute::OCCURRED_AT,
            attribute::STATUS,
        ] {
            let mut missing = event();
            missing.remove(name);
            let mut wrong = event();
            wrong.insert(name.to_owned(), AttributeValue::N("1".to_owned()));
            for item in [missing, wrong] {
                let reason = OutboxItem::read(item).unwrap_err().to_string();
                assert!(reason.contains(name), "{reason}");
            }
        }
    }

    #[test]
    fn what_publishing_does_not_need_does_not_cost_the_event() {
        let mut item = event();
        for name in [
            attribute::TRACEPARENT,
            attribute::MESSAGE_ID,
            attribute::PUBLISHED_AT,
        ] {
            item.insert(name.to_owned(), AttributeValue::N("1".to_owned()));
        }
        let item = OutboxItem::read(item).unwrap();
        assert_eq!((item.traceparent, item.message_id), (None, None));
    }

    #[test]
    fn a_sequence_is_a_whole_number_from_one() {
        for wrong in ["0", "-1", "1.5", "18446744073709551616", "1E3"] {
            let mut item = event();
            item.insert("sequence".to_owned(), AttributeValue::N(wrong.to_owned()));
            assert!(OutboxItem::read(item).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buckets_are_few_and_stable() {
        // Published vectors of FNV-1a: "foobar" is 0xbf9cf968, "a" 0xe40c292c.
        assert_eq!(pending_bucket("foobar"), "PENDING#0");
        assert_eq!(pending_bucket("a"), "PENDING#4");
        assert_eq!(pending_buckets().count(), 8);
    }

    proptest! {
        #[test]
        fn what_is_stored_reads_back(
            aggregate_id in ".{1,40}",
            sequence in 1u64..,
            payload in ".*",
            traceparent in proptest::option::of(".*"),
            published in proptest::option::of(0i64..4_102_444_800_000),
            attempts in proptest::option::of(any::<u64>()),
        ) {
            let item = OutboxItem {
                event_id: OutboxItem::default_event_id(&aggregate_id, sequence),
                state_bucket: Some(pending_bucket(&aggregate_id)),
                aggregate_id,
                sequence,
                aggregate_type: "order".to_owned(),
                event_type: "order.placed".to_owned(),
                payload,
                occurred_at: Timestamp::from_millis(0).to_string(),
                traceparent,
                tracestate: None,
                status: Status::Pending,
                published_at: published.map(Timestamp::from_millis),
                message_id: None,
                expires_at: published,
                failed_at: None,
                failure: None,
                attempts,
                replays: attempts,
            };
            let stored: HashMap<String, AttributeValue> =
                serde_dynamo::aws_sdk_dynamodb_1::to_item(&item).unwrap();
            prop_assert_eq!(&OutboxItem::read(stored.clone()).unwrap(), &item);
            let by_serde: OutboxItem = serde_dynamo::aws_sdk_dynamodb_1::from_item(stored).unwrap();
            prop_assert_eq!(by_serde, item);
        }
    }
}
