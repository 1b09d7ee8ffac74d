//! A delivery of SQS, and the event in its body.
//!
//! Errors about an unreadable body never quote it: they are logged, and payloads must not be.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use outbox::trace_context::TraceContext;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::order::{MAX_LINES, OrderPlaced};

/// Upper bound on each text that is kept of a message, in bytes: for telemetry, while the message
/// is held. Its texts may have a mebibyte, and the contract's are far shorter.
const MAX_TEXT: usize = outbox::trace_context::MAX_TRACESTATE_BYTES;

/// One delivery of a message. The receipt handle is valid for this delivery only.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub queue_url: Arc<str>,
    pub message_id: String,
    pub receipt_handle: String,
    pub body: String,
    /// Starts at 1. At the queue's limit SQS moves the message to the dead-letter queue.
    pub receive_count: u32,
    /// Time of sending, in milliseconds since the epoch.
    pub sent_at_millis: Option<i64>,
    /// The message attribute, which is known even if the body cannot be read. `None` if it is
    /// longer than [`MAX_TEXT`], as with the trace context.
    pub event_id: Option<String>,
    pub trace: TraceContext,
}

impl Delivery {
    /// Reads a message of SQS. Returns `None` if it lacks its id or its receipt handle, which SQS
    /// always sends: such a message can be neither deleted nor extended.
    pub(crate) fn of(message: Message, queue_url: &Arc<str>) -> Option<Self> {
        let system = message.attributes.unwrap_or_default();
        let mut attributes = message.message_attributes.unwrap_or_default();
        let mut text = |name: &str| {
            let text = attributes.remove(name)?.string_value;
            text.filter(|text| text.len() <= MAX_TEXT)
        };
        Some(Self {
            queue_url: Arc::clone(queue_url),
            message_id: message.message_id?,
            receipt_handle: message.receipt_handle?,
            body: message.body.unwrap_or_default(),
            receive_count: system
                .get(&MessageSystemAttributeName::ApproximateReceiveCount)
                .and_then(|count| count.parse().ok())
                .unwrap_or(1),
            sent_at_millis: system
                .get(&MessageSystemAttributeName::SentTimestamp)
                .and_then(|at| at.parse().ok()),
            event_id: text("event_id"),
            trace: TraceContext {
                traceparent: text("traceparent"),
                tracestate: text("tracestate"),
            },
        })
    }
}

/// The parts of an event that the worker uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// At most [`MAX_TEXT`] of it.
    pub id: String,
    /// The CloudEvent's subject, at most [`MAX_TEXT`] of it.
    pub aggregate_id: Option<String>,
    /// `None` if the event is of a type that the worker does not handle. A queue can carry such
    /// types: the message is not defective.
    pub order: Option<Arc<OrderPlaced>>,
}

/// Defect for which a body is not an event of the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body is not a CloudEvent in JSON, at {0}")]
    Envelope(Position),
    #[error("`specversion` is not 1.0, nor another 1.x")]
    SpecVersion,
    #[error("`id` is empty")]
    NoId,
    #[error("`data` is missing")]
    NoData,
    #[error("`data` is not an order, at its {0}")]
    Data(Position),
    #[error("an order has 1 to {MAX_LINES} lines; this one has {0}")]
    Lines(usize),
    #[error("two lines have the same SKU")]
    SkuTwice,
}

/// Position at which parsing stopped; the only detail about a body that may be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}")]
pub(crate) struct Position {
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for Position {
    fn from(error: serde_json::Error) -> Self {
        Self {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// The members that a consumer relies on; producers may add and remove others. Borrowed where JSON
/// allows it, because a body may have a mebibyte.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    id: String,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// Parses a body. Checks an order against the contract's bounds as well, so that an order that no
/// transaction could carry fails here. Minor versions of CloudEvents add attributes, which are
/// ignored; another major version may mean anything.
pub(crate) fn parse(body: &str) -> Result<Event, Unreadable> {
    let mut envelope: Envelope<'_> =
        serde_json::from_str(body).map_err(|error| Unreadable::Envelope(error.into()))?;
    for text in [Some(&mut envelope.id), envelope.subject.as_mut()]
        .into_iter()
        .flatten()
    {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.shrink_to_fit();
    }
    let minor_version = envelope.specversion.strip_prefix("1.");
    if minor_version.is_none_or(|minor| minor.parse::<u32>().is_err()) {
        return Err(Unreadable::SpecVersion);
    }
    if envelope.id.is_empty() {
        return Err(Unreadable::NoId);
    }
    if envelope.event_type != OrderPlaced::EVENT_TYPE {
        return Ok(Event {
            id: envelope.id,
            aggregate_id: envelope.subject,
            order: None,
        });
    }
    let data = envelope.data.ok_or(Unreadable::NoData)?;
    let order: OrderPlaced =
        serde_json::from_str(data.get()).map_err(|error| Unreadable::Data(error.into()))?;
    if !(1..=MAX_LINES).contains(&order.items.len()) {
        return Err(Unreadable::Lines(order.items.len()));
    }
    // A transaction cannot name one item twice.
    let mut skus = HashSet::new();
    if !order.items.iter().all(|line| skus.insert(&line.sku)) {
        return Err(Unreadable::SkuTwice);
    }
    Ok(Event {
        id: envelope.id,
        aggregate_id: envelope
            .subject
            .or_else(|| Some(order.order_id.to_string())),
        order: Some(Arc::new(order)),
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    const ORDER_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn body(lines: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"e-1","source":"/orders","type":"order.placed","subject":"s","data":{{"order_id":"{ORDER_ID}","customer_id":"c","items":{lines},"currency":"EUR","total_minor":1}},"later":1}}"#
        )
    }

    fn line(sku: &str, quantity: &str) -> String {
        format!(r#"{{"sku":"{sku}","quantity":{quantity},"unit_price_minor":1}}"#)
    }

    fn lines(count: usize) -> String {
        let lines: Vec<_> = (0..count).map(|n| line(&format!("S-{n}"), "1")).collect();
        format!("[{}]", lines.join(","))
    }

    #[test]
    fn an_order_placed_event_is_read_and_unknown_members_are_ignored() {
        let event = parse(&body(&lines(2))).unwrap();
        assert_eq!(event.id, "e-1");
        assert_eq!(event.aggregate_id.as_deref(), Some("s"));
        let order = event.order.unwrap();
        assert_eq!(order.order_id.to_string(), ORDER_ID);
        assert_eq!(order.items.len(), 2);
    }

    #[test]
    fn escapes_in_the_envelope_are_decoded() {
        let escaped = body(&lines(1)).replace("order.placed", "order\\u002eplaced");
        assert!(parse(&escaped).unwrap().order.is_some());
    }

    #[test]
    fn an_event_of_another_type_has_no_order_whatever_its_data_is() {
        for other in ["order.paid", "order.placed.v2", "ORDER.PLACED", ""] {
            let other = body(&lines(1)).replace("order.placed", other);
            assert_eq!(parse(&other).unwrap().order, None, "{other}");
        }
        let bare = r#"{"specversion":"1.0","id":"e-1","source":"/x","type":"x"}"#;
        assert_eq!(parse(bare).unwrap().order, None);
    }

    #[test]
    fn a_minor_version_of_cloudevents_is_read_and_another_major_version_is_not() {
        let with =
            |version: &str| parse(&body(&lines(1)).replace(r#""1.0""#, &format!(r#""{version}""#)));
        for minor in ["1.0", "1.1", "1.10"] {
            assert!(with(minor).is_ok(), "{minor}");
        }
        for other in ["", "1", "1.", "1.x", "10.0", "0.3", "2.0"] {
            assert_eq!(with(other), Err(Unreadable::SpecVersion), "{other}");
        }
    }

    #[test]
    fn a_total_beyond_every_integer_type_does_not_matter() {
        for total in ["9007199254740992", "50000000000000000000", "1e400"] {
            let body =
                body(&lines(1)).replace(r#""total_minor":1"#, &format!(r#""total_minor":{total}"#));
            assert!(parse(&body).is_ok(), "{total}");
        }
    }

    #[test]
    fn an_order_has_1_to_50_lines_and_no_sku_twice() {
        assert_eq!(parse(&body("[]")), Err(Unreadable::Lines(0)));
        assert!(parse(&body(&lines(50))).is_ok());
        assert_eq!(parse(&body(&lines(51))), Err(Unreadable::Lines(51)));
        let twice = format!("[{0},{0}]", line("A", "1"));
        assert_eq!(parse(&body(&twice)), Err(Unreadable::SkuTwice));
    }

    #[test]
    fn a_long_id_and_a_long_subject_are_cut() {
        let long = "ü".repeat(500_000);
        let event = parse(
            &body(&lines(1))
                .replace("\"e-1\"", &format!("\"{long}\""))
                .replace("\"s\"", &format!("\"{long}\"")),
        )
        .unwrap();
        assert!(event.order.is_some());
        for text in [event.id, event.aggregate_id.unwrap()] {
            assert!(text.starts_with('ü') && text.capacity() <= MAX_TEXT);
        }
    }

    #[test]
    fn attributes_that_are_too_long_are_dropped() {
        let with = |length: usize| {
            let attribute = |text: String| {
                MessageAttributeValue::builder()
                    .data_type("String")
                    .string_value(text)
                    .build()
                    .unwrap()
            };
            let message = Message::builder()
                .message_id("m")
                .receipt_handle("r")
                .message_attributes("event_id", attribute("e".repeat(length)))
                .message_attributes("tracestate", attribute("t".repeat(length)));
            let delivery = Delivery::of(message.build(), &"q".into()).unwrap();
            (delivery.event_id, delivery.trace.tracestate)
        };
        assert!(matches!(with(MAX_TEXT), (Some(_), Some(_))));
        assert_eq!(with(MAX_TEXT + 1), (None, None));
    }

    #[test]
    fn wrong_data_is_unreadable() {
        for (sku, quantity) in [
            ("A", "0"),
            ("A", "1000001"),
            ("A", "-1"),
            ("A", "1.5"),
            ("A", "\"1\""),
            ("", "1"),
            ("a b", "1"),
        ] {
            let wrong = body(&format!("[{}]", line(sku, quantity)));
            assert!(matches!(parse(&wrong), Err(Unreadable::Data(_))), "{wrong}");
        }
        let no_uuid = body(&lines(1)).replace(ORDER_ID, "o-1");
        assert!(matches!(parse(&no_uuid), Err(Unreadable::Data(_))));
    }

    #[test]
    fn each_defect_of_an_event_has_its_own_error() {
        let good = body(&lines(1));
        let with = |from: &str, to: &str| parse(&good.replace(from, to));
        assert_eq!(with("\"1.0\"", "\"0.3\""), Err(Unreadable::SpecVersion));
        assert_eq!(with("\"e-1\"", "\"\""), Err(Unreadable::NoId));
        assert_eq!(with("\"data\"", "\"date\""), Err(Unreadable::NoData));
        for malformed in ["", "no JSON", "[]", "null", "{}", &good[..good.len() - 1]] {
            assert!(matches!(parse(malformed), Err(Unreadable::Envelope(_))));
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&body(&deep)).is_err());
    }

    #[test]
    fn an_error_never_quotes_the_body() {
        let secret = body(&format!("[{}]", line("secret secret", "1")));
        for body in [secret.as_str(), r#"{"specversion":"secret"}"#, "secret"] {
            let reason = parse(body).unwrap_err().to_string();
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}
