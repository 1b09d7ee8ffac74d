//! The SQS message of an event: a CloudEvents 1.0 JSON body and up to five string attributes. A
//! message that SQS would reject is detected here, before it is sent.

mod deduplication_id;

pub use deduplication_id::deduplication_id;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::excerpt::excerpt;
use crate::item::OutboxItem;
use crate::trace_context::MAX_TRACESTATE_BYTES;

/// Upper bound on the size of a message with its attributes, and of the messages of one batch
/// together, in bytes. Source: SQS quotas.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Upper bound on `event_id`, in characters. It equals the bound of SQS on the
/// `MessageDeduplicationId` of a FIFO queue.
pub const MAX_EVENT_ID_CHARS: usize = 128;

/// Type name that SQS adds to the size of each string attribute.
const ATTRIBUTE_TYPE: &str = "String";

/// Name of the attribute of a replayed message. Its value is the number of the replay, from 1. A
/// consumer that must apply a replayed event again has to check it, because `event_id` is the same.
pub const REPLAY_ATTRIBUTE: &str = "replay";

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// CloudEvents 1.0 in the JSON format.
    pub body: String,
    /// Names and values of the string attributes: at most 5, none empty.
    pub attributes: Vec<(&'static str, String)>,
}

/// Reason why an event cannot be published as it is. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unpublishable {
    /// The event id is empty or too long.
    #[error("`event_id` has {chars} characters; it must have 1 to {limit}")]
    EventIdLength {
        /// Length of the id, in characters.
        chars: usize,
        /// [`MAX_EVENT_ID_CHARS`].
        limit: usize,
    },
    /// An attribute that must have a value is empty.
    #[error("`{attribute}` is empty")]
    Empty {
        /// Name of the attribute.
        attribute: &'static str,
    },
    /// The payload is not JSON.
    #[error("`payload` is not JSON: {reason}")]
    NotJson {
        /// The parser's message, shortened.
        reason: String,
    },
    /// A text contains a character that SQS does not accept.
    #[error("`{attribute}` contains U+{code_point:04X}, which SQS rejects")]
    InvalidCharacter {
        /// Name of the attribute.
        attribute: &'static str,
        /// The first such character.
        code_point: u32,
    },
    /// The message exceeds the limit of SQS.
    #[error("the message has {bytes} bytes; the limit of SQS is {limit}")]
    TooLarge {
        /// Size of the message with its attributes, in bytes.
        bytes: usize,
        /// [`MAX_MESSAGE_BYTES`].
        limit: usize,
    },
}

impl Unpublishable {
    /// Returns a short, stable name of the reason, suited to a metric label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EventIdLength { .. } => "event_id",
            Self::Empty { .. } => "empty_attribute",
            Self::NotJson { .. } => "not_json",
            Self::InvalidCharacter { .. } => "invalid_character",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// The body of a message.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'a str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    event_type: &'a str,
    subject: &'a str,
    time: &'a str,
    datacontenttype: &'a str,
    /// Decimal, with leading zeros up to the 20 digits of `u64::MAX`, so that it orders as text.
    /// Text, because JSON numbers lose precision past 2^53 in many readers.
    sequence: String,
    data: &'a RawValue,
}

impl Message {
    /// Creates a message from its parts. Nothing is validated.
    pub fn new(body: impl Into<String>, attributes: Vec<(&'static str, String)>) -> Self {
        Self {
            body: body.into(),
            attributes,
        }
    }

    /// Returns the message of `item`. The same item gives the same message, byte for byte.
    ///
    /// # Errors
    /// The first limit of SQS that the message would not meet.
    pub fn from_item(item: &OutboxItem) -> Result<Self, Unpublishable> {
        let id_length = item.event_id.chars().count();
        if !(1..=MAX_EVENT_ID_CHARS).contains(&id_length) {
            return Err(Unpublishable::EventIdLength {
                chars: id_length,
                limit: MAX_EVENT_ID_CHARS,
            });
        }
        for (attribute, value) in [
            ("aggregate_id", &item.aggregate_id),
            ("aggregate_type", &item.aggregate_type),
            ("event_type", &item.event_type),
            ("occurred_at", &item.occurred_at),
        ] {
            if value.is_empty() {
                return Err(Unpublishable::Empty { attribute });
            }
        }
        for (attribute, value) in [
            ("event_id", &item.event_id),
            ("event_type", &item.event_type),
            ("aggregate_id", &item.aggregate_id),
            ("aggregate_type", &item.aggregate_type),
            ("occurred_at", &item.occurred_at),
            ("payload", &item.payload),
        ] {
            // The body escapes control characters, but attributes carry them unescaped, and U+FFFE
            // is not escaped in either.
            if let Some(character) = value.chars().find(|c| !is_sqs_character(*c)) {
                return Err(Unpublishable::InvalidCharacter {
                    attribute,
                    code_point: u32::from(character),
                });
            }
        }
        let not_json = |error: serde_json::Error| Unpublishable::NotJson {
            reason: excerpt(&error.to_string()),
        };
        let data: &RawValue = serde_json::from_str(&item.payload).map_err(not_json)?;
        let event = CloudEvent {
            specversion: "1.0",
            id: &item.event_id,
            source: format!("/{}s", item.aggregate_type),
            event_type: &item.event_type,
            subject: &item.aggregate_id,
            time: &item.occurred_at,
            datacontenttype: "application/json",
            sequence: format!("{:020}", item.sequence),
            data,
        };
        let body = serde_json::to_string(&event).map_err(not_json)?;
        let mut attributes = vec![
            ("event_id", item.event_id.clone()),
            ("event_type", item.event_type.clone()),
        ];
        // A trace context that SQS would reject is left out; the event matters more.
        for (name, value) in [
            ("traceparent", &item.traceparent),
            ("tracestate", &item.tracestate),
        ] {
            if let Some(value) = value
                && !value.is_empty()
                && value.chars().all(is_sqs_character)
                && (name != "tracestate" || value.len() <= MAX_TRACESTATE_BYTES)
            {
                attributes.push((name, value.clone()));
            }
        }
        if let Some(replays) = item.replays {
            attributes.push((REPLAY_ATTRIBUTE, replays.to_string()));
        }
        let message = Self { body, attributes };
        match message.size() {
            bytes if bytes > MAX_MESSAGE_BYTES => Err(Unpublishable::TooLarge {
                bytes,
                limit: MAX_MESSAGE_BYTES,
            }),
            _ => Ok(message),
        }
    }

    /// Returns the size in bytes as SQS counts it: the body, and the name, type and value of each
    /// attribute.
    pub fn size(&self) -> usize {
        self.attributes
            .iter()
            .map(|(name, value)| name.len() + ATTRIBUTE_TYPE.len() + value.len())
            .sum::<usize>()
            + self.body.len()
    }
}

/// Returns `true` if SQS accepts the character in bodies and attributes.
/// Source: the SendMessage API reference.
fn is_sqs_character(character: char) -> bool {
    matches!(character,
        '\u{9}' | '\u{A}' | '\u{D}'
        | '\u{20}'..='\u{D7FF}'
        | '\u{E000}'..='\u{FFFD}'
        | '\u{10000}'..='\u{10FFFF}')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::item::Status;

    pub(crate) fn item() -> OutboxItem {
        OutboxItem {
            aggregate_id: "o-1".to_owned(),
            sequence: 3,
            event_id: "o-1:3".to_owned(),
            aggregate_type: "order".to_owned(),
            event_type: "order.placed".to_owned(),
            payload: r#"{ "n": 1.50, "n": 2 }"#.to_owned(),
            occurred_at: "2026-01-31T08:15:30.123Z".to_owned(),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            tracestate: None,
            status: Status::Pending,
            state_bucket: None,
            published_at: None,
            message_id: None,
            expires_at: None,
            failed_at: None,
            failure: None,
            attempts: None,
            replays: None,
        }
    }

    #[test]
    fn body_is_a_cloud_event_with_the_payload_unchanged() {
        let message = Message::from_item(&item()).unwrap();
        assert_eq!(
            message.body,
            r#"{"specversion":"1.0","id":"o-1:3","source":"/orders","type":"order.placed","subject":"o-1","time":"2026-01-31T08:15:30.123Z","datacontenttype":"application/json","sequence":"00000000000000000003","data":{ "n": 1.50, "n": 2 }}"#
        );
        let names: Vec<_> = message.attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["event_id", "event_type", "traceparent"]);
    }

    #[test]
    fn event_id_has_1_to_128_characters() {
        let id_length = |chars| Unpublishable::EventIdLength { chars, limit: 128 };
        let mut long = item();
        long.event_id = "é".repeat(128);
        assert!(Message::from_item(&long).is_ok());
        long.event_id.push('é');
        assert_eq!(Message::from_item(&long), Err(id_length(129)));
        long.event_id.clear();
        assert_eq!(Message::from_item(&long), Err(id_length(0)));
    }

    #[test]
    fn item_that_sqs_would_reject_is_unpublishable() {
        let mut wrong = item();
        wrong.payload = "{not json".to_owned();
        assert!(matches!(
            Message::from_item(&wrong),
            Err(Unpublishable::NotJson { .. })
        ));
        wrong.payload = "\"\u{FFFE}\"".to_owned();
        assert_eq!(
            Message::from_item(&wrong).unwrap_err().to_string(),
            "`payload` contains U+FFFE, which SQS rejects"
        );
        wrong.payload = "\"\\u0000\"".to_owned();
        assert!(
            Message::from_item(&wrong).is_ok(),
            "an escaped NUL is ASCII text"
        );
        wrong.event_type = "a\0".to_owned();
        assert!(matches!(
            Message::from_item(&wrong),
            Err(Unpublishable::InvalidCharacter {
                attribute: "event_type",
                code_point: 0
            })
        ));
        wrong.event_type.clear();
        assert_eq!(
            Message::from_item(&wrong),
            Err(Unpublishable::Empty {
                attribute: "event_type"
            })
        );
    }

    #[test]
    fn message_with_attributes_has_at_most_1_mebibyte() {
        let mut large = item();
        large.payload = "\"\"".to_owned();
        let envelope = Message::from_item(&large).unwrap().size();
        large.payload = format!("\"{}\"", "x".repeat(MAX_MESSAGE_BYTES - envelope));
        assert_eq!(
            Message::from_item(&large).unwrap().size(),
            MAX_MESSAGE_BYTES
        );
        large.payload = format!("\"{}\"", "x".repeat(MAX_MESSAGE_BYTES - envelope + 1));
        assert_eq!(
            Message::from_item(&large),
            Err(Unpublishable::TooLarge {
                bytes: MAX_MESSAGE_BYTES + 1,
                limit: MAX_MESSAGE_BYTES,
            })
        );
    }

    #[test]
    fn trace_context_that_sqs_would_reject_is_left_out() {
        let mut odd = item();
        odd.traceparent = Some(String::new());
        odd.tracestate = Some("a\u{1}".to_owned());
        assert_eq!(Message::from_item(&odd).unwrap().attributes.len(), 2);
        odd.tracestate = Some(format!("a={}", "x".repeat(MAX_TRACESTATE_BYTES - 1)));
        assert_eq!(Message::from_item(&odd).unwrap().attributes.len(), 2);
    }

    #[test]
    fn replay_has_an_attribute() {
        let mut again = item();
        again.replays = Some(2);
        let attributes = Message::from_item(&again).unwrap().attributes;
        assert_eq!(attributes.last(), Some(&("replay", "2".to_owned())));
    }

    #[test]
    fn deeply_nested_payload_is_accepted() {
        let mut deep = item();
        deep.payload = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(Message::from_item(&deep).is_ok());
    }
}
