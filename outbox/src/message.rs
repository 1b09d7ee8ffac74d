//! The SQS message of an event: a CloudEvents 1.0 JSON body and four string
//! attributes. What SQS would refuse is found here, before it is sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::item::{OutboxItem, excerpt};

/// SQS: one message with its attributes, and one batch in total, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The contract's bound on `event_id`, in characters; it is also what a FIFO
/// queue's `MessageDeduplicationId` takes.
pub const MAX_EVENT_ID_CHARS: usize = 128;

/// What SQS counts for the type name `String` of each attribute.
const ATTRIBUTE_TYPE: &str = "String";

/// The attribute of a message that was sent before and is sent again on
/// purpose: the how-manyth time, from 1. A consumer that wants the effect
/// again must look at it, as `event_id` is the same.
pub const REPLAY: &str = "replay";

/// A message, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// CloudEvents 1.0 in the JSON format.
    pub body: String,
    /// String attributes; at most 5, none empty.
    pub attributes: Vec<(&'static str, String)>,
}

/// Why an event can never be sent as it is. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublishable {
    #[error("`event_id` has {0} characters; it must have 1 to {MAX_EVENT_ID_CHARS}")]
    EventId(usize),
    #[error("`{0}` is empty")]
    Empty(&'static str),
    #[error("`payload` is not JSON: {0}")]
    NotJson(String),
    #[error("`{field}` contains U+{code:04X}, which SQS does not take")]
    Character { field: &'static str, code: u32 },
    #[error("the message would have {0} bytes; SQS takes {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
}

/// The body: CloudEvents 1.0, JSON format.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloudEvent<'a> {
    pub specversion: &'a str,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: String,
    pub time: String,
    pub datacontenttype: &'a str,
    /// Decimal: JSON numbers lose precision past 2^53 in many readers.
    pub sequence: String,
    #[serde(borrow)]
    pub data: &'a RawValue,
}

impl Message {
    /// The message of `item`. A pure function: the same item gives the same
    /// message, byte for byte.
    pub fn of(item: &OutboxItem) -> Result<Self, Unpublishable> {
        let id_length = item.event_id.chars().count();
        if !(1..=MAX_EVENT_ID_CHARS).contains(&id_length) {
            return Err(Unpublishable::EventId(id_length));
        }
        for (name, value) in [
            ("aggregate_id", &item.aggregate_id),
            ("aggregate_type", &item.aggregate_type),
            ("event_type", &item.event_type),
            ("occurred_at", &item.occurred_at),
        ] {
            if value.is_empty() {
                return Err(Unpublishable::Empty(name));
            }
        }
        for (field, value) in [
            ("event_id", &item.event_id),
            ("event_type", &item.event_type),
            ("aggregate_id", &item.aggregate_id),
            ("aggregate_type", &item.aggregate_type),
            ("occurred_at", &item.occurred_at),
            ("payload", &item.payload),
        ] {
            // Inside JSON strings control characters are escaped, but
            // attributes carry them raw, and U+FFFE is never escaped.
            if let Some(character) = value.chars().find(|c| !is_sqs_character(*c)) {
                return Err(Unpublishable::Character {
                    field,
                    code: u32::from(character),
                });
            }
        }
        let data: &RawValue = serde_json::from_str(&item.payload)
            .map_err(|error| Unpublishable::NotJson(excerpt(&error.to_string())))?;
        let event = CloudEvent {
            specversion: "1.0",
            id: item.event_id.clone(),
            source: format!("/{}s", item.aggregate_type),
            event_type: item.event_type.clone(),
            subject: item.aggregate_id.clone(),
            time: item.occurred_at.clone(),
            datacontenttype: "application/json",
            sequence: item.sequence.to_string(),
            data,
        };
        let body = serde_json::to_string(&event)
            .map_err(|error| Unpublishable::NotJson(excerpt(&error.to_string())))?;
        let mut attributes = vec![
            ("event_id", item.event_id.clone()),
            ("event_type", item.event_type.clone()),
        ];
        // A trace context that SQS would refuse must not cost the event.
        for (name, value) in [
            ("traceparent", &item.traceparent),
            ("tracestate", &item.tracestate),
        ] {
            if let Some(value) = value
                && !value.is_empty()
                && value.chars().all(is_sqs_character)
            {
                attributes.push((name, value.clone()));
            }
        }
        if let Some(replays) = item.replays {
            attributes.push((REPLAY, replays.to_string()));
        }
        let message = Self { body, attributes };
        match message.size() {
            size if size > MAX_MESSAGE_BYTES => Err(Unpublishable::TooLarge(size)),
            _ => Ok(message),
        }
    }

    /// Bytes as SQS counts them: the body, and each attribute's name, type and
    /// value.
    pub fn size(&self) -> usize {
        self.attributes
            .iter()
            .map(|(name, value)| name.len() + ATTRIBUTE_TYPE.len() + value.len())
            .sum::<usize>()
            + self.body.len()
    }
}

/// The deduplication id of `item` on a FIFO queue: its event id, and of a
/// replay another one, as SQS would drop a repeated one for five minutes. At
/// most 128 characters, as SQS wants, as long as the event id is.
pub fn deduplication_id(item: &OutboxItem) -> String {
    let Some(replays) = item.replays else {
        return item.event_id.clone();
    };
    let suffix = format!("#replay-{replays}");
    if item.event_id.chars().count() + suffix.len() <= MAX_EVENT_ID_CHARS {
        format!("{}{suffix}", item.event_id)
    } else {
        let hash = Sha256::digest(&item.event_id);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        hex + &suffix
    }
}

/// The characters that SQS takes in bodies and attributes.
/// Source: the SendMessage API reference.
fn is_sqs_character(character: char) -> bool {
    matches!(character,
        '\u{9}' | '\u{A}' | '\u{D}'
        | '\u{20}'..='\u{D7FF}'
        | '\u{E000}'..='\u{FFFD}'
        | '\u{10000}'..='\u{10FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Status;

    fn item() -> OutboxItem {
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
    fn the_body_is_a_cloud_event_with_the_payload_to_the_byte() {
        let message = Message::of(&item()).unwrap();
        assert_eq!(
            message.body,
            r#"{"specversion":"1.0","id":"o-1:3","source":"/orders","type":"order.placed","subject":"o-1","time":"2026-01-31T08:15:30.123Z","datacontenttype":"application/json","sequence":"3","data":{ "n": 1.50, "n": 2 }}"#
        );
        let names: Vec<_> = message.attributes.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["event_id", "event_type", "traceparent"]);
    }

    #[test]
    fn an_event_id_has_at_most_128_characters() {
        let mut long = item();
        long.event_id = "é".repeat(128);
        assert!(Message::of(&long).is_ok());
        long.event_id.push('é');
        assert_eq!(Message::of(&long), Err(Unpublishable::EventId(129)));
        long.event_id.clear();
        assert_eq!(Message::of(&long), Err(Unpublishable::EventId(0)));
    }

    #[test]
    fn what_sqs_refuses_is_refused_with_its_reason() {
        let mut wrong = item();
        wrong.payload = "{not json".to_owned();
        assert!(matches!(
            Message::of(&wrong),
            Err(Unpublishable::NotJson(_))
        ));
        wrong.payload = "\"\u{FFFE}\"".to_owned();
        assert_eq!(
            Message::of(&wrong).unwrap_err().to_string(),
            "`payload` contains U+FFFE, which SQS does not take"
        );
        wrong.payload = "\"\\u0000\"".to_owned();
        assert!(Message::of(&wrong).is_ok(), "an escaped NUL is plain text");
        wrong.event_type = "a\0".to_owned();
        assert!(matches!(
            Message::of(&wrong),
            Err(Unpublishable::Character {
                field: "event_type",
                code: 0
            })
        ));
        wrong.event_type.clear();
        assert_eq!(Message::of(&wrong), Err(Unpublishable::Empty("event_type")));
    }

    #[test]
    fn a_message_has_at_most_a_mebibyte_with_its_attributes() {
        let mut large = item();
        large.payload = "\"\"".to_owned();
        let envelope = Message::of(&large).unwrap().size();
        large.payload = format!("\"{}\"", "x".repeat(MAX_MESSAGE_BYTES - envelope));
        assert_eq!(Message::of(&large).unwrap().size(), MAX_MESSAGE_BYTES);
        large.payload = format!("\"{}\"", "x".repeat(MAX_MESSAGE_BYTES - envelope + 1));
        assert_eq!(
            Message::of(&large),
            Err(Unpublishable::TooLarge(MAX_MESSAGE_BYTES + 1))
        );
    }

    #[test]
    fn a_trace_context_that_sqs_refuses_does_not_cost_the_event() {
        let mut odd = item();
        odd.traceparent = Some(String::new());
        odd.tracestate = Some("a\u{1}".to_owned());
        assert_eq!(Message::of(&odd).unwrap().attributes.len(), 2);
    }

    #[test]
    fn a_replay_says_so_and_has_a_deduplication_id_of_its_own() {
        let mut again = item();
        assert_eq!(deduplication_id(&again), "o-1:3");
        again.replays = Some(2);
        let attributes = Message::of(&again).unwrap().attributes;
        assert_eq!(attributes.last(), Some(&("replay", "2".to_owned())));
        assert_eq!(deduplication_id(&again), "o-1:3#replay-2");
        for length in [119, 120, 128] {
            again.event_id = "x".repeat(length);
            let id = deduplication_id(&again);
            assert!(id.len() <= 128 && id.ends_with("#replay-2"), "{id}");
            again.event_id.replace_range(0..1, "y");
            assert_ne!(deduplication_id(&again), id);
        }
    }

    #[test]
    fn deeply_nested_payloads_are_neither_refused_nor_a_crash() {
        let mut deep = item();
        deep.payload = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(Message::of(&deep).is_ok());
    }
}
