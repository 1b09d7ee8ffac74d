//! One stored event as an operator sees it, malformed or not.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox_store::{EventKey, StoredEvent, StoredEventDetail};
use serde::Serialize;

use super::aggregate::AggregateState;

/// Upper bound on a text in a list in bytes: a stored text may have 390 KB.
const MAX_TEXT: usize = 256;

/// One event in a list: everything but its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventView {
    #[serde(flatten)]
    pub stored: StoredEvent,
    /// Page of the trace in Jaeger, if `JAEGER_UI_URL` is set.
    pub trace_url: Option<String>,
}

/// One event with all details.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventDetail {
    #[serde(flatten)]
    pub event: EventView,
    /// As stored; JSON unless the event is malformed.
    pub payload: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub state_bucket: Option<String>,
    /// Epoch seconds after which DynamoDB may delete the item.
    pub expires_at: Option<i64>,
    /// Reason why the item is not a valid event.
    pub malformed: Option<String>,
    /// History in the order of time.
    pub timeline: Vec<Moment>,
    /// The failed event of the same aggregate that blocks this pending event until it is retried
    /// or discarded, with `RELAY_ON_FAILURE`=`hold`.
    pub blocked_by: Option<Box<EventView>>,
    /// Attributes that do not belong to the contract.
    pub other: BTreeMap<String, serde_json::Value>,
    /// The consumer's result, if `RELAY_AGGREGATE_TABLES` names the aggregate's table.
    pub aggregate: Option<AggregateState>,
}

/// One entry of an event's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// RFC 3339, as stored.
    pub at: String,
    pub step: Step,
    /// Details, for people.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Committed,
    Deferred,
    Failed,
    Retried,
    Replayed,
    Published,
    Discarded,
    /// The aggregate was changed by a consumer.
    Processed,
}

impl EventView {
    /// Adds the link to the trace.
    pub(super) fn new(stored: StoredEvent, jaeger_ui_url: Option<&str>) -> Self {
        Self {
            trace_url: jaeger_ui_url
                .zip(stored.trace_id.as_ref())
                .map(|(base, id)| format!("{base}/trace/{id}")),
            stored,
        }
    }

    /// Returns the primary key.
    pub fn key(&self) -> EventKey {
        self.stored.key()
    }

    /// Truncates long texts, for a list. The key is not truncated.
    pub(super) fn shorten(&mut self) {
        let event = &mut self.stored;
        let texts = [
            &mut event.status,
            &mut event.aggregate_type,
            &mut event.event_type,
            &mut event.occurred_at,
            &mut event.published_at,
            &mut event.message_id,
            &mut event.deferred_at,
            &mut event.failed_at,
            &mut event.failure,
            &mut event.retried_at,
            &mut event.replayed_at,
            &mut event.discarded_at,
            &mut event.discard_reason,
        ];
        for text in texts.into_iter().flatten().chain([&mut event.event_id]) {
            if text.len() > MAX_TEXT {
                text.truncate(text.floor_char_boundary(MAX_TEXT));
                text.push('…');
            }
        }
    }

    /// Returns the history without the consumer's part.
    fn timeline(&self) -> Vec<Moment> {
        let event = &self.stored;
        let moments = [
            (Step::Committed, &event.occurred_at, None),
            (Step::Deferred, &event.deferred_at, None),
            (Step::Failed, &event.failed_at, event.failure.clone()),
            (Step::Retried, &event.retried_at, None),
            (
                Step::Replayed,
                &event.replayed_at,
                event.replays.map(|count| format!("replay {count}")),
            ),
            (
                Step::Published,
                &event.published_at,
                event.message_id.as_ref().map(|id| format!("message {id}")),
            ),
            (
                Step::Discarded,
                &event.discarded_at,
                event.discard_reason.clone(),
            ),
        ];
        let mut timeline: Vec<_> = moments
            .into_iter()
            .filter_map(|(step, at, note)| {
                let at = at.clone()?;
                Some(Moment { at, step, note })
            })
            .collect();
        // The relay and operators write all times with one width and in UTC, so that texts sort as
        // times do. A writer's time in another form only moves that entry.
        timeline.sort_by(|a, b| a.at.cmp(&b.at));
        timeline
    }
}

impl EventDetail {
    pub(super) fn new(stored: StoredEventDetail, jaeger_ui_url: Option<&str>) -> Self {
        let event = EventView::new(stored.event, jaeger_ui_url);
        Self {
            payload: stored.payload,
            traceparent: stored.traceparent,
            tracestate: stored.tracestate,
            state_bucket: stored.state_bucket,
            expires_at: stored.expires_at,
            timeline: event.timeline(),
            other: stored
                .other
                .iter()
                .map(|(name, value)| (name.clone(), json(value)))
                .collect(),
            malformed: stored.malformed,
            blocked_by: None,
            aggregate: None,
            event,
        }
    }

    /// Adds the consumer's result.
    pub(super) fn with_aggregate(mut self, aggregate: Option<AggregateState>) -> Self {
        if let Some(AggregateState {
            updated_at: Some(at),
            status,
            ..
        }) = &aggregate
            && self
                .event
                .stored
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

/// Converts a value to JSON. A number that JSON parsers would round becomes a string.
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
    fn a_number_that_json_parsers_would_round_becomes_a_string() {
        let number = |text: &str| json(&AttributeValue::N(text.to_owned())).to_string();
        for exact in ["0", "-7", "1.5", "9007199254740992"] {
            assert_eq!(number(exact), exact);
        }
        for rounded in ["12345678901234567890123", "9007199254740993"] {
            assert_eq!(number(rounded), format!("\"{rounded}\""));
        }
    }

    #[test]
    fn a_list_truncates_long_texts_but_not_keys() {
        let mut event = EventView::default();
        event.stored.aggregate_id = "ä".repeat(1_000);
        event.stored.event_type = Some("ä".repeat(1_000));
        event.shorten();
        assert_eq!(event.stored.aggregate_id, "ä".repeat(1_000));
        assert_eq!(event.stored.event_type, Some("ä".repeat(128) + "…"));
    }
}
