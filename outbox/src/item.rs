//! The stored outbox item: the schema of the outbox table, and the only place that names its
//! attributes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;
use crate::timestamp::Timestamp;
use crate::trace_context::TraceContext;

/// Attribute names.
pub mod attribute {
    /// Partition key (S).
    pub const AGGREGATE_ID: &str = "aggregate_id";
    /// Sort key (N): from 1, without gaps per aggregate.
    pub const SEQUENCE: &str = "sequence";
    /// Unique id of the event (S).
    pub const EVENT_ID: &str = "event_id";
    /// Kind of aggregate (S), such as `order`.
    pub const AGGREGATE_TYPE: &str = "aggregate_type";
    /// Kind of event (S), such as `order.placed`.
    pub const EVENT_TYPE: &str = "event_type";
    /// JSON text (S).
    pub const PAYLOAD: &str = "payload";
    /// RFC 3339 time (S); sort key of the index.
    pub const OCCURRED_AT: &str = "occurred_at";
    /// W3C trace context (S), optional.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace context (S), optional.
    pub const TRACESTATE: &str = "tracestate";
    /// One of the texts of [`Status`](super::Status) (S).
    pub const STATUS: &str = "status";
    /// Partition key of the index (S); absent once the event is published.
    pub const STATE_BUCKET: &str = "state_bucket";
    /// RFC 3339 time of the last publication (S).
    pub const PUBLISHED_AT: &str = "published_at";
    /// SQS's id of the message (S).
    pub const MESSAGE_ID: &str = "message_id";
    /// Time to live (N): seconds since the epoch; set only on publication.
    pub const EXPIRES_AT: &str = "expires_at";
    /// RFC 3339 time of the quarantine (S).
    pub const FAILED_AT: &str = "failed_at";
    /// Reason of the quarantine (S), for an operator.
    pub const FAILURE: &str = "failure";
    /// Number of sends that failed before the quarantine (N).
    pub const ATTEMPTS: &str = "attempts";
    /// RFC 3339 time at which an operator retried a quarantined event (S).
    pub const RETRIED_AT: &str = "retried_at";
    /// Number of replays (N): how often an operator had a published event sent again.
    pub const REPLAYS: &str = "replays";
    /// RFC 3339 time of the last replay (S).
    pub const REPLAYED_AT: &str = "replayed_at";
    /// RFC 3339 time (S) at which the relay left the event to its table path, because the event's
    /// queue was unavailable or an earlier event blocked it; kept when the event is published.
    pub const DEFERRED_AT: &str = "deferred_at";
    /// RFC 3339 time at which an operator discarded the event (S).
    pub const DISCARDED_AT: &str = "discarded_at";
    /// An operator's reason to discard the event (S).
    pub const DISCARD_REASON: &str = "discard_reason";

    /// All of the above. An item may have other attributes; they are ignored.
    pub const ALL: [&str; 23] = [
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
        DEFERRED_AT,
        DISCARDED_AT,
        DISCARD_REASON,
    ];
}

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

/// Reason why an item is not an event. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedItem {
    /// A required attribute is missing.
    #[error("`{attribute}` is missing")]
    Missing {
        /// Name of the attribute.
        attribute: &'static str,
    },
    /// An attribute has the wrong DynamoDB type.
    #[error("`{attribute}` must be {expected}, not {actual}")]
    WrongType {
        /// Name of the attribute.
        attribute: &'static str,
        /// The required type, such as `a string (S)`.
        expected: &'static str,
        /// The stored type, such as `a number (N)`.
        actual: &'static str,
    },
    /// The sequence is not a whole number from 1 to `u64::MAX`.
    #[error("`sequence` is {actual}; it must be a whole number from 1 to {max}", max = u64::MAX)]
    Sequence {
        /// The stored number.
        actual: String,
    },
    /// The status is not one of [`Status`].
    #[error("`status` is `{actual}`; it must be PENDING, PUBLISHED, FAILED or DISCARDED")]
    Status {
        /// The start of the stored text.
        actual: String,
    },
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

    /// Reads an event, whichever program wrote it. What publishing requires must be present and
    /// have the right type, except that a missing `event_id` becomes the default one.
    /// Attributes that publishing does not require are ignored if they are malformed.
    ///
    /// # Errors
    /// The first attribute that is missing or malformed.
    pub fn from_attributes(
        mut item: HashMap<String, AttributeValue>,
    ) -> Result<Self, MalformedItem> {
        let sequence = sequence(item.remove(attribute::SEQUENCE))?;
        let aggregate_id = required(&mut item, attribute::AGGREGATE_ID)?;
        let event_id = optional(&mut item, attribute::EVENT_ID)?
            .unwrap_or_else(|| Self::default_event_id(&aggregate_id, sequence));
        let status = required(&mut item, attribute::STATUS)?;
        let status = Status::parse(&status).ok_or_else(|| MalformedItem::Status {
            actual: excerpt(&status),
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

fn sequence(value: Option<AttributeValue>) -> Result<u64, MalformedItem> {
    let attribute = attribute::SEQUENCE;
    match value {
        None => Err(MalformedItem::Missing { attribute }),
        Some(AttributeValue::N(text)) => match text.parse() {
            Ok(0) | Err(_) => Err(MalformedItem::Sequence {
                actual: excerpt(&text),
            }),
            Ok(number) => Ok(number),
        },
        Some(other) => Err(MalformedItem::WrongType {
            attribute,
            expected: "a number (N)",
            actual: type_name(&other),
        }),
    }
}

fn optional(
    item: &mut HashMap<String, AttributeValue>,
    attribute: &'static str,
) -> Result<Option<String>, MalformedItem> {
    match item.remove(attribute) {
        None | Some(AttributeValue::Null(_)) => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(other) => Err(MalformedItem::WrongType {
            attribute,
            expected: "a string (S)",
            actual: type_name(&other),
        }),
    }
}

fn required(
    item: &mut HashMap<String, AttributeValue>,
    attribute: &'static str,
) -> Result<String, MalformedItem> {
    optional(item, attribute)?.ok_or(MalformedItem::Missing { attribute })
}

/// Removes an attribute that publishing does not require; `None` if it is not a string.
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
        AttributeValue::Null(_) => "null (NULL)",
        AttributeValue::S(_) => "a string (S)",
        AttributeValue::Ss(_) => "a string set (SS)",
        _ => "of another type",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buckets::Buckets;

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
    fn missing_event_id_becomes_the_default() {
        assert_eq!(
            OutboxItem::from_attributes(event()).unwrap().event_id,
            "o-1:7"
        );
    }

    #[test]
    fn error_names_the_missing_or_malformed_attribute() {
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
                let reason = OutboxItem::from_attributes(item).unwrap_err().to_string();
                assert!(reason.contains(name), "{reason}");
            }
        }
    }

    #[test]
    fn malformed_optional_attributes_are_ignored() {
        let mut item = event();
        for name in [
            attribute::TRACEPARENT,
            attribute::MESSAGE_ID,
            attribute::PUBLISHED_AT,
        ] {
            item.insert(name.to_owned(), AttributeValue::N("1".to_owned()));
        }
        let item = OutboxItem::from_attributes(item).unwrap();
        assert_eq!((item.traceparent, item.message_id), (None, None));
    }

    #[test]
    fn sequence_is_a_whole_number_from_1() {
        for wrong in ["0", "-1", "1.5", "18446744073709551616", "1E3"] {
            let mut item = event();
            item.insert("sequence".to_owned(), AttributeValue::N(wrong.to_owned()));
            assert!(OutboxItem::from_attributes(item).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn stored_item_reads_back_unchanged(
            aggregate_id in ".{1,40}",
            sequence in 1u64..,
            payload in ".*",
            traceparent in proptest::option::of(".*"),
            published in proptest::option::of(0i64..4_102_444_800_000),
            attempts in proptest::option::of(any::<u64>()),
        ) {
            let item = OutboxItem {
                event_id: OutboxItem::default_event_id(&aggregate_id, sequence),
                state_bucket: Some(Buckets::default().partition_of(&aggregate_id)),
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
            prop_assert_eq!(&OutboxItem::from_attributes(stored.clone()).unwrap(), &item);
            let by_serde: OutboxItem = serde_dynamo::aws_sdk_dynamodb_1::from_item(stored).unwrap();
            prop_assert_eq!(by_serde, item);
        }
    }
}
