//! Decides which stream records are events, and composes the message of each event.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::item::attribute;
use outbox::message::deduplication_id;
use outbox::timestamp::Timestamp;
use outbox::trace_context::TraceContext;
use outbox::{Buckets, Message, OutboxItem, Status};

use crate::ports::{Change, EventKey, Generation};
use crate::routes::{QueueRef, Routes, Target};

/// Class of a stream record.
#[derive(Clone, Debug, PartialEq)]
pub enum Classified {
    /// A record that is not an event. The reason is a metric label.
    Skip(&'static str),
    /// An event that can be sent.
    Event(Arc<Event>),
    /// An event that can never be sent.
    Reject(Rejected),
}

/// An event on its way to its queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub key: EventKey,
    /// Position among the events of `key.aggregate_id`.
    pub sequence: u64,
    pub event_id: String,
    /// Deduplication id on a FIFO queue; empty for other queues.
    pub deduplication_id: String,
    /// Publication that this is; marks of an earlier one leave the item unchanged.
    pub generation: Generation,
    /// The table can return the event later, from its index of pending events.
    pub is_deferrable: bool,
    /// Latest time at which a relay deferred the event, or an operator retried or replayed it, if
    /// its item was read from the table. Records of the stream do not contain it.
    pub left_to_sweepers_at: Option<Timestamp>,
    /// [`QueueRef::unrouted`] if no route matches.
    pub queue: QueueRef,
    pub message: Message,
    pub occurred_at: Option<Timestamp>,
    pub trace: TraceContext,
}

impl Event {
    /// Returns the type of the event.
    pub fn event_type(&self) -> &str {
        let mut attributes = self.message.attributes.iter();
        attributes
            .find(|(name, _)| *name == attribute::EVENT_TYPE)
            .map_or("", |(_, event_type)| event_type)
    }
}

/// Configuration of the classification.
#[derive(Clone, Copy, Debug)]
pub struct ClassifierConfig<'a> {
    /// Name of the outbox table.
    pub table: &'a str,
    pub routes: &'a Routes,
    /// Index partitions of pending events.
    pub buckets: Buckets,
}

/// An event to be quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub key: EventKey,
    pub generation: Generation,
    /// A metric label.
    pub reason: &'static str,
    /// Text for an operator: what is wrong and what to do.
    pub failure: String,
    /// Trace of the event, if the item contains it.
    pub trace_id: Option<String>,
}

/// Maximum length of the message group id of a FIFO queue, in characters.
const MAX_FIFO_ID: usize = 128;

/// Classifies one change of the outbox table. Only an INSERT with status PENDING is an event (the
/// "event filter" rule); other changes are the relay's own marks, expiry, or changes by others.
pub fn classify(change: Change, config: ClassifierConfig<'_>) -> Classified {
    let Change::Insert(image) = change else {
        return Classified::Skip("not_insert");
    };
    let pending = |value: &AttributeValue| {
        value
            .as_s()
            .is_ok_and(|status| status == Status::Pending.as_str())
    };
    if !image.get(attribute::STATUS).is_some_and(pending) {
        return Classified::Skip("not_pending");
    }
    match key_of(&image) {
        Some(key) => prepare(key, image, config),
        // DynamoDB enforces the types of the key, so this does not occur.
        None => Classified::Skip("no_key"),
    }
}

/// Composes the message of a pending item, or returns the reason for which it cannot be sent.
fn prepare(
    key: EventKey,
    image: HashMap<String, AttributeValue>,
    config: ClassifierConfig<'_>,
) -> Classified {
    let trace_id = stored_trace_id(&image);
    let generation = Generation::of(&image);
    let is_malformed = generation.is_malformed;
    let time_of = |name| image.get(name)?.as_s().ok()?.parse().ok();
    let times = [
        attribute::DEFERRED_AT,
        attribute::RETRIED_AT,
        attribute::REPLAYED_AT,
    ];
    let left_to_sweepers_at = times.into_iter().filter_map(time_of).max();
    let reject = |key, reason, failure: String, trace_id| {
        Classified::Reject(Rejected {
            key,
            generation: generation.clone(),
            reason,
            failure,
            trace_id,
        })
    };
    let item = match OutboxItem::from_attributes(image) {
        Ok(item) => item,
        Err(error) => return reject(key, "malformed_item", error.to_string(), trace_id),
    };
    // A mark could not be conditional on the generation.
    if is_malformed {
        let failure = "`replays` must be missing or a whole number (N) of at least 0, and only operators' commands write it; remove it and retry, or discard the event";
        return reject(key, "malformed_item", failure.to_owned(), trace_id);
    }
    let message = match Message::from_item(&item) {
        Ok(message) => message,
        Err(error) => return reject(key, error.kind(), error.to_string(), trace_id),
    };
    let queue = match config.routes.target_of(&item.event_type) {
        Some(Target::Queue(queue)) => queue.clone(),
        Some(Target::Quarantine) => {
            let failure = format!(
                "RELAY_ROUTES quarantines the event type `{}`; change its route and retry, or discard the event",
                excerpt(&item.event_type)
            );
            return reject(key, "quarantine_route", failure, trace_id);
        }
        None => QueueRef::unrouted(),
    };
    if queue.is_fifo() && !is_fifo_id(&item.aggregate_id) {
        let failure = format!(
            "`aggregate_id` must be 1 to {MAX_FIFO_ID} visible ASCII characters for the FIFO queue `{}`",
            queue.name()
        );
        return reject(key, "fifo_id", failure, trace_id);
    }
    Classified::Event(Arc::new(Event {
        key,
        sequence: item.sequence,
        message,
        occurred_at: item.occurred_at.parse().ok(),
        trace: item.trace_context(),
        deduplication_id: if queue.is_fifo() {
            deduplication_id(config.table, &item)
        } else {
            String::new()
        },
        queue,
        generation,
        left_to_sweepers_at,
        is_deferrable: item
            .state_bucket
            .is_some_and(|partition| config.buckets.contains(&partition)),
        event_id: item.event_id,
    }))
}

/// Returns the primary key of an item, or `None` if it has no valid one.
pub(crate) fn key_of(image: &HashMap<String, AttributeValue>) -> Option<EventKey> {
    Some(EventKey {
        aggregate_id: image.get(attribute::AGGREGATE_ID)?.as_s().ok()?.clone(),
        sequence: image.get(attribute::SEQUENCE)?.as_n().ok()?.clone(),
    })
}

fn stored_trace_id(image: &HashMap<String, AttributeValue>) -> Option<String> {
    let traceparent = image.get(attribute::TRACEPARENT)?.as_s().ok()?.clone();
    TraceContext {
        traceparent: Some(traceparent),
        tracestate: None,
    }
    .trace_id()
}

/// Returns the first 40 characters of `text`: an event type may be large.
fn excerpt(text: &str) -> String {
    const LENGTH: usize = 40;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_fifo_id(text: &str) -> bool {
    (1..=MAX_FIFO_ID).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(changes: &[(&str, Option<AttributeValue>)]) -> HashMap<String, AttributeValue> {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let mut image = HashMap::from([
            ("aggregate_id".to_owned(), text("o-1")),
            ("sequence".to_owned(), AttributeValue::N("2".to_owned())),
            ("event_id".to_owned(), text("o-1:2")),
            ("aggregate_type".to_owned(), text("order")),
            ("event_type".to_owned(), text("order.placed")),
            ("payload".to_owned(), text("{}")),
            ("occurred_at".to_owned(), text("2026-01-31T08:15:30.123Z")),
            ("status".to_owned(), text("PENDING")),
        ]);
        for (name, value) in changes {
            match value {
                Some(value) => image.insert((*name).to_owned(), value.clone()),
                None => image.remove(*name),
            };
        }
        image
    }

    fn classified(changes: &[(&str, Option<AttributeValue>)], routes: &str) -> Classified {
        let config = ClassifierConfig {
            table: "outbox",
            routes: &routes.parse().unwrap(),
            buckets: Buckets::default(),
        };
        classify(Change::Insert(image(changes)), config)
    }

    fn event(changes: &[(&str, Option<AttributeValue>)], routes: &str) -> Arc<Event> {
        match classified(changes, routes) {
            Classified::Event(event) => event,
            other => panic!("not an event: {other:?}"),
        }
    }

    fn text(value: impl Into<String>) -> Option<AttributeValue> {
        Some(AttributeValue::S(value.into()))
    }

    #[test]
    fn a_pending_insert_is_an_event() {
        let event = event(&[], "order.*=q");
        assert_eq!(event.sequence, 2);
        assert_eq!(event.event_type(), "order.placed");
        assert_eq!(event.queue.name(), "q");
        assert_eq!(event.key.sequence, "2");
    }

    #[test]
    fn an_event_for_a_fifo_queue_has_a_deduplication_id() {
        assert!(!event(&[], "*=q.fifo").deduplication_id.is_empty());
        assert_eq!(event(&[], "*=q").deduplication_id, "");
    }

    #[test]
    fn records_other_than_pending_inserts_are_skipped() {
        let config = ClassifierConfig {
            table: "outbox",
            routes: &"*=q".parse().unwrap(),
            buckets: Buckets::default(),
        };
        assert_eq!(
            classify(Change::Other, config),
            Classified::Skip("not_insert")
        );
        for status in [None, text("PUBLISHED"), Some(AttributeValue::Bool(true))] {
            assert_eq!(
                classified(&[("status", status)], "*=q"),
                Classified::Skip("not_pending")
            );
        }
    }

    #[test]
    fn an_event_without_a_route_is_an_event_without_a_queue() {
        let event = event(&[], "stock.*=q");
        assert!(!event.queue.is_routed());
    }

    #[test]
    fn an_event_is_deferrable_if_a_reader_of_the_index_finds_it() {
        for (partition, expected) in [
            (None, false),
            (text("PENDING#31"), true),
            (text("PENDING#32"), false),
            (text("other"), false),
        ] {
            let event = event(&[("state_bucket", partition.clone())], "*=q");
            assert_eq!(event.is_deferrable, expected, "{partition:?}");
        }
    }

    #[test]
    fn each_violation_of_the_item_contract_has_its_reason() {
        let number = || Some(AttributeValue::N("1".to_owned()));
        let cases: [(&str, Option<AttributeValue>, &str, &str); 9] = [
            ("payload", None, "*=q", "malformed_item"),
            ("payload", number(), "*=q", "malformed_item"),
            ("event_type", number(), "*=q", "malformed_item"),
            (
                "sequence",
                Some(AttributeValue::N("1.5".to_owned())),
                "*=q",
                "malformed_item",
            ),
            ("payload", text("{"), "*=q", "not_json"),
            ("payload", text("\"\u{FFFE}\""), "*=q", "invalid_character"),
            ("event_id", text("x".repeat(500)), "*=q", "event_id"),
            (
                "event_type",
                text("test.a"),
                "test.*=!quarantine",
                "quarantine_route",
            ),
            ("aggregate_id", text("ö"), "*=q.fifo", "fifo_id"),
        ];
        for (name, value, routes, expected) in cases {
            match classified(&[(name, value)], routes) {
                Classified::Reject(rejected) => {
                    assert_eq!(rejected.reason, expected, "{name}");
                    assert!(!rejected.failure.is_empty());
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
