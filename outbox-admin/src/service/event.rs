//! One stored event as an operator sees it. Nothing here refuses a malformed
//! item: those are the ones an operator looks for.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::OutboxItem;
use outbox::item::attribute;
use outbox::trace_context::TraceContext;
use outbox_store::EventKey;
use serde::Serialize;

use super::aggregate::AggregateState;

/// A stored item.
type Item = HashMap<String, AttributeValue>;

/// Bytes of a text in a list: what a writer stored may have 390 KB.
const MAX_TEXT: usize = 256;

/// One event in a list: everything but its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// As stored, or the default `<aggregate_id>:<sequence>`.
    pub event_id: String,
    pub aggregate_id: String,
    /// Decimal, as stored: it may exceed what JSON readers keep exact.
    pub sequence: String,
    /// As stored: `PENDING`, `PUBLISHED`, `FAILED`, `DISCARDED`, or whatever a
    /// writer made of it.
    pub status: Option<String>,
    pub aggregate_type: Option<String>,
    pub event_type: Option<String>,
    pub occurred_at: Option<String>,
    pub published_at: Option<String>,
    pub message_id: Option<String>,
    pub failed_at: Option<String>,
    /// Why it was quarantined; kept when it is retried.
    pub failure: Option<String>,
    /// How often it was sent in vain before it was quarantined.
    pub attempts: Option<u64>,
    pub retried_at: Option<String>,
    /// How often it was sent again on purpose.
    pub replays: Option<u64>,
    pub replayed_at: Option<String>,
    pub discarded_at: Option<String>,
    pub discard_reason: Option<String>,
    pub trace_id: Option<String>,
    /// The trace's page in Jaeger, when `JAEGER_UI_URL` is set.
    pub trace_url: Option<String>,
}

/// One event, whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventDetail {
    #[serde(flatten)]
    pub event: EventView,
    /// As stored; JSON unless that is what is wrong with it.
    pub payload: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub state_bucket: Option<String>,
    /// Epoch seconds at which DynamoDB may delete it.
    pub expires_at: Option<i64>,
    /// What makes it no event of the contract, if anything.
    pub malformed: Option<String>,
    /// What happened to it, in the order of time.
    pub timeline: Vec<Moment>,
    /// Attributes that are none of the contract's.
    pub other: BTreeMap<String, serde_json::Value>,
    /// What its consumer made of it, where `RELAY_AGGREGATE_TABLES` tells.
    pub aggregate: Option<AggregateState>,
}

/// One line of an event's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// RFC 3339, as stored.
    pub at: String,
    pub step: Step,
    /// More about it, for people.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Committed,
    Failed,
    Retried,
    Replayed,
    Published,
    Discarded,
    /// The aggregate was changed by a consumer.
    Processed,
}

impl EventView {
    /// The primary key.
    pub fn key(&self) -> EventKey {
        EventKey {
            aggregate_id: self.aggregate_id.clone(),
            sequence: self.sequence.clone(),
        }
    }

    /// Cuts what may be long, for a list; the key stays whole.
    pub(super) fn shorten(&mut self) {
        let texts = [
            &mut self.status,
            &mut self.aggregate_type,
            &mut self.event_type,
            &mut self.occurred_at,
            &mut self.published_at,
            &mut self.message_id,
            &mut self.failed_at,
            &mut self.failure,
            &mut self.retried_at,
            &mut self.replayed_at,
            &mut self.discarded_at,
            &mut self.discard_reason,
        ];
        for text in texts.into_iter().flatten().chain([&mut self.event_id]) {
            if text.len() > MAX_TEXT {
                text.truncate(text.floor_char_boundary(MAX_TEXT));
                text.push('…');
            }
        }
    }

    /// Reads an item; `None` when it has no key, which DynamoDB rules out.
    pub(super) fn of(item: &Item, jaeger_ui_url: Option<&str>) -> Option<Self> {
        let text = |name: &str| text(item, name);
        let count = |name: &str| item.get(name)?.as_n().ok()?.parse().ok();
        let aggregate_id = text(attribute::AGGREGATE_ID)?;
        let sequence = item.get(attribute::SEQUENCE)?.as_n().ok()?.clone();
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
            failed_at: text(attribute::FAILED_AT),
            failure: text(attribute::FAILURE),
            attempts: count(attribute::ATTEMPTS),
            retried_at: text(attribute::RETRIED_AT),
            replays: count(attribute::REPLAYS),
            replayed_at: text(attribute::REPLAYED_AT),
            discarded_at: text(attribute::DISCARDED_AT),
            discard_reason: text(attribute::DISCARD_REASON),
            trace_url: jaeger_ui_url
                .zip(trace_id.as_ref())
                .map(|(base, id)| format!("{base}/trace/{id}")),
            trace_id,
            aggregate_id,
            sequence,
        })
    }

    /// The history, without what the consumer did.
    fn timeline(&self) -> Vec<Moment> {
        let moments = [
            (Step::Committed, &self.occurred_at, None),
            (Step::Failed, &self.failed_at, self.failure.clone()),
            (Step::Retried, &self.retried_at, None),
            (
                Step::Replayed,
                &self.replayed_at,
                self.replays.map(|count| format!("replay {count}")),
            ),
            (
                Step::Published,
                &self.published_at,
                self.message_id.as_ref().map(|id| format!("message {id}")),
            ),
            (
                Step::Discarded,
                &self.discarded_at,
                self.discard_reason.clone(),
            ),
        ];
        let mut timeline: Vec<_> = moments
            .into_iter()
            .filter_map(|(step, at, note)| {
                let at = at.clone()?;
                Some(Moment { at, step, note })
            })
            .collect();
        // All are written with one width and in UTC, so text sorts as time;
        // what a writer wrote otherwise only stands in another line.
        timeline.sort_by(|a, b| a.at.cmp(&b.at));
        timeline
    }
}

impl EventDetail {
    pub(super) fn of(item: Item, jaeger_ui_url: Option<&str>) -> Option<Self> {
        let event = EventView::of(&item, jaeger_ui_url)?;
        let other = item
            .iter()
            .filter(|(name, _)| !attribute::ALL.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), json(value)))
            .collect();
        Some(Self {
            payload: text(&item, attribute::PAYLOAD),
            traceparent: text(&item, attribute::TRACEPARENT),
            tracestate: text(&item, attribute::TRACESTATE),
            state_bucket: text(&item, attribute::STATE_BUCKET),
            expires_at: item
                .get(attribute::EXPIRES_AT)
                .and_then(|value| value.as_n().ok()?.parse().ok()),
            timeline: event.timeline(),
            other,
            malformed: OutboxItem::from_attributes(item)
                .err()
                .map(|error| error.to_string()),
            aggregate: None,
            event,
        })
    }

    /// Adds what the consumer did.
    pub(super) fn with_aggregate(mut self, aggregate: Option<AggregateState>) -> Self {
        if let Some(AggregateState {
            updated_at: Some(at),
            status,
            ..
        }) = &aggregate
            && self
                .event
                .occurred_at
                .as_ref()
                .is_some_and(|made| at > made)
        {
            self.timeline.push(Moment {
                at: at.clone(),
                step: Step::Processed,
                note: status.clone(),
            });
            self.timeline.sort_by(|a, b| a.at.cmp(&b.at));
        }
        self.aggregate = aggregate;
        self
    }
}

pub(super) fn text(item: &Item, name: &str) -> Option<String> {
    item.get(name)?.as_s().ok().cloned()
}

/// A value without its DynamoDB types. A number that readers of JSON would
/// round is text.
fn json(value: &AttributeValue) -> serde_json::Value {
    use serde_json::Value;
    match value {
        AttributeValue::S(text) => Value::from(text.clone()),
        AttributeValue::N(number) => Some(number)
            .filter(|number| number.parse().is_ok_and(|n: f64| n.to_string() == **number))
            .and_then(|number| serde_json::from_str(number).ok())
            .unwrap_or_else(|| Value::from(number.clone())),
        AttributeValue::Bool(flag) => Value::from(*flag),
        AttributeValue::L(list) => list.iter().map(json).collect(),
        AttributeValue::M(map) => map
            .iter()
            .map(|(name, value)| (name.clone(), json(value)))
            .collect(),
        AttributeValue::Ss(set) | AttributeValue::Ns(set) => set.iter().cloned().collect(),
        AttributeValue::B(bytes) => Value::from(format!("{} bytes", bytes.as_ref().len())),
        AttributeValue::Bs(set) => Value::from(format!("{} binary values", set.len())),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_json_readers_would_round_is_text() {
        let number = |text: &str| json(&AttributeValue::N(text.to_owned())).to_string();
        for exact in ["0", "-7", "1.5", "9007199254740992"] {
            assert_eq!(number(exact), exact);
        }
        for rounded in ["12345678901234567890123", "9007199254740993"] {
            assert_eq!(number(rounded), format!("\"{rounded}\""));
        }
    }

    #[test]
    fn a_list_has_the_start_of_long_texts_and_whole_keys() {
        let mut event = EventView {
            aggregate_id: "ä".repeat(1_000),
            event_type: Some("ä".repeat(1_000)),
            ..EventView::default()
        };
        event.shorten();
        assert_eq!(event.aggregate_id, "ä".repeat(1_000));
        assert_eq!(event.event_type, Some("ä".repeat(128) + "…"));
    }
}
