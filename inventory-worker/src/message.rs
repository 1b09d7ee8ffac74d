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
    /// The message attribute, which is known even if the body cannot be read.
    pub event_id: Option<String>,
    pub trace: TraceContext,
}

impl Delivery {
    /// Reads a message of SQS. Returns `None` if it lacks its id or its receipt handle, which SQS
    /// always sends: such a message can be neither deleted nor extended.
    pub(crate) fn of(message: Message, queue_url: &Arc<str>) -> Option<Self> {
        let system = message.attributes.unwrap_or_default();
        let mut attributes = message.message_attributes.unwrap_or_default();
        let mut text = |name: &str| attributes.remove(name)?.string_value;
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

/// The parts of an `order.placed` event that the worker uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub id: String,
    /// The CloudEvent's subject.
    pub aggregate_id: String,
    pub order: OrderPlaced,
}

/// Defect for which a body is not an `order.placed` event of the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body is not a CloudEvent in JSON, at {0}")]
    Envelope(Position),
    #[error("`specversion` is not 1.0")]
    SpecVersion,
    #[error("`id` is empty")]
    NoId,
    #[error("`type` is not {}", OrderPlaced::EVENT_TYPE)]
    Type,
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

/// Parses a body. Checks the order against the contract's bounds as well, so that an order that no
/// transaction could carry fails here.
pub(crate) fn parse(body: &str) -> Result<Event, Unreadable> {
    let envelope: Envelope<'_> =
        serde_json::from_str(body).map_err(|error| Unreadable::Envelope(error.into()))?;
    if envelope.specversion != "1.0" {
        return Err(Unreadable::SpecVersion);
    }
    if envelope.id.is_empty() {
        return Err(Unreadable::NoId);
    }
    if envelope.event_type != OrderPlaced::EVENT_TYPE {
        return Err(Unreadable::Type);
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
            .unwrap_or_else(|| order.order_id.to_string()),
        order,
    })
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            (event.id.as_str(), event.aggregate_id.as_str()),
            ("e-1", "s")
        );
        assert_eq!(event.order.order_id.to_string(), ORDER_ID);
        assert_eq!(event.order.items.len(), 2);
    }

    #[test]
    fn escapes_in_the_envelope_are_decoded() {
        let escaped = body(&lines(1)).replace("order.placed", "order\\u002eplaced");
        assert!(parse(&escaped).is_ok());
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
        assert_eq!(with("order.placed", "order.paid"), Err(Unreadable::Type));
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
