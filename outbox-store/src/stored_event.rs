//! An event as the table has it. Reading never rejects a malformed item: operators look for exactly
//! those.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::OutboxItem;
use outbox::item::attribute;
use outbox::trace_context::TraceContext;
use serde::Serialize;

use crate::item::{EventKey, Item, number, text};

/// A stored event without its payload. Texts are as stored, whatever their writer made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoredEvent {
    /// As stored, or the default `<aggregate_id>:<sequence>`.
    pub event_id: String,
    pub aggregate_id: String,
    /// Decimal, as stored: it may exceed what JSON parsers represent exactly.
    pub sequence: String,
    /// `PENDING`, `PUBLISHED`, `FAILED` or `DISCARDED` unless the item is malformed.
    pub status: Option<String>,
    pub aggregate_type: Option<String>,
    pub event_type: Option<String>,
    pub occurred_at: Option<String>,
    pub published_at: Option<String>,
    pub message_id: Option<String>,
    /// Time at which a relay deferred the event: its queue was unavailable, or an earlier event of
    /// its aggregate was waiting.
    pub deferred_at: Option<String>,
    pub failed_at: Option<String>,
    /// Reason of the quarantine; kept when the event is retried.
    pub failure: Option<String>,
    /// Number of failed sends before the quarantine.
    pub attempts: Option<u64>,
    pub retried_at: Option<String>,
    /// Number of times the event was replayed.
    pub replays: Option<u64>,
    pub replayed_at: Option<String>,
    pub discarded_at: Option<String>,
    pub discard_reason: Option<String>,
    pub trace_id: Option<String>,
}

/// A stored event with its payload and every other attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEventDetail {
    pub event: StoredEvent,
    /// JSON unless the event is malformed.
    pub payload: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// Partition of the index, if the event is in it.
    pub state_bucket: Option<String>,
    /// Epoch seconds after which DynamoDB may delete the item.
    pub expires_at: Option<i64>,
    /// Reason why the item is not a valid event.
    pub malformed: Option<String>,
    /// Attributes that do not belong to the contract.
    pub other: BTreeMap<String, AttributeValue>,
}

impl StoredEvent {
    /// Returns the primary key.
    pub fn key(&self) -> EventKey {
        EventKey {
            aggregate_id: self.aggregate_id.clone(),
            sequence: self.sequence.clone(),
        }
    }

    /// Reads an item. Returns `None` if it has no key, which DynamoDB rules out.
    pub(crate) fn of(item: &Item) -> Option<Self> {
        let text = |name: &str| text(item, name);
        let EventKey {
            aggregate_id,
            sequence,
        } = EventKey::of(item)?;
        let trace_id = TraceContext {
            traceparent: text(attribute::TRACEPARENT),
            tracestate: None,
        }
        .trace_id();
        Some(Self {
            event_id: text(attribute::EVENT_ID)
                .unwrap_or_else(|| format!("{aggregate_id}:{sequence}")),
            status: text(attribute::STATUS),
            aggregate_type: text(attribute::AGGREGATE_TYPE),
            event_type: text(attribute::EVENT_TYPE),
            occurred_at: text(attribute::OCCURRED_AT),
            published_at: text(attribute::PUBLISHED_AT),
            message_id: text(attribute::MESSAGE_ID),
            deferred_at: text(attribute::DEFERRED_AT),
            failed_at: text(attribute::FAILED_AT),
            failure: text(attribute::FAILURE),
            attempts: number(item, attribute::ATTEMPTS),
            retried_at: text(attribute::RETRIED_AT),
            replays: number(item, attribute::REPLAYS),
            replayed_at: text(attribute::REPLAYED_AT),
            discarded_at: text(attribute::DISCARDED_AT),
            discard_reason: text(attribute::DISCARD_REASON),
            trace_id,
            aggregate_id,
            sequence,
        })
    }
}

impl StoredEventDetail {
    /// Reads an item. Returns `None` if it has no key, which DynamoDB rules out.
    pub(crate) fn of(item: Item) -> Option<Self> {
        Some(Self {
            event: StoredEvent::of(&item)?,
            payload: text(&item, attribute::PAYLOAD),
            traceparent: text(&item, attribute::TRACEPARENT),
            tracestate: text(&item, attribute::TRACESTATE),
            state_bucket: text(&item, attribute::STATE_BUCKET),
            expires_at: number(&item, attribute::EXPIRES_AT),
            other: item
                .iter()
                .filter(|(name, _)| !attribute::ALL.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            malformed: OutboxItem::from_attributes(item)
                .err()
                .map(|error| error.to_string()),
        })
    }
}
