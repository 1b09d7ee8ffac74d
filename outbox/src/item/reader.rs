//! Reads a stored item.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{OutboxItem, Status, attribute};
use crate::excerpt::excerpt;

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
    use crate::timestamp::Timestamp;

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
