//! Events as a writer describes them, and the transaction items that store them.

use std::error::Error;

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use serde::Serialize;

use crate::buckets::Buckets;
use crate::item::{MAX_ITEM_BYTES, OutboxItem, Status, attribute, item_size};
use crate::message::{Message, Unpublishable};
use crate::timestamp::Timestamp;
use crate::trace_context::{MAX_TRACESTATE_BYTES, TraceContext};

/// An event that is not stored yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) event_id: String,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) sequence: u64,
    pub(crate) event_type: String,
    pub(crate) payload: String,
    pub(crate) occurred_at: Timestamp,
    pub(crate) trace_context: TraceContext,
}

/// The thing that an event is about, such as an order. Its events are sent in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregate<'a> {
    /// Its type, such as `order`.
    pub kind: &'a str,
    /// Its id, unique in the outbox table.
    pub id: &'a str,
}

/// Reason why an event cannot be created or staged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The payload has no JSON representation, for example a map whose keys are not strings.
    #[error("the payload cannot be serialized as JSON: {0}")]
    Payload(#[from] serde_json::Error),
    /// The sequence is 0.
    #[error("`sequence` is 0; the first event of an aggregate has sequence 1")]
    ZeroSequence,
    /// The relay could never publish the event.
    #[error("the event could never be published: {0}")]
    Unpublishable(#[from] Unpublishable),
    /// The event has no DynamoDB representation.
    #[error("the event cannot be converted to a DynamoDB item: {0}")]
    Item(#[source] Box<dyn Error + Send + Sync>),
    /// The item would be too large.
    #[error(
        "the item of the event has {bytes} bytes; the limit is {limit}, because DynamoDB allows \
         400 KiB and the relay adds its mark"
    )]
    ItemTooLarge {
        /// Size of the item as DynamoDB counts it, in bytes.
        bytes: usize,
        /// [`MAX_ITEM_BYTES`].
        limit: usize,
    },
}

impl NewEvent {
    /// Creates an event that occurred now, with the id `<aggregate_id>:<sequence>`.
    ///
    /// `sequence` numbers the events of one aggregate: 1, 2, 3, …, without gaps.
    /// [`Sequence`](crate::Sequence) provides these numbers. The relay sends the events of an
    /// aggregate in this order. `payload` becomes the `data` of the message.
    ///
    /// # Errors
    /// [`EventError::ZeroSequence`] if `sequence` is 0, and [`EventError::Payload`] if `payload`
    /// cannot be serialized as JSON.
    pub fn new(
        aggregate: Aggregate<'_>,
        sequence: u64,
        event_type: &str,
        payload: &impl Serialize,
    ) -> Result<Self, EventError> {
        if sequence == 0 {
            return Err(EventError::ZeroSequence);
        }
        Ok(Self {
            event_id: OutboxItem::default_event_id(aggregate.id, sequence),
            aggregate_type: aggregate.kind.to_owned(),
            aggregate_id: aggregate.id.to_owned(),
            sequence,
            event_type: event_type.to_owned(),
            payload: serde_json::to_string(payload)?,
            occurred_at: Timestamp::now(),
            trace_context: TraceContext::default(),
        })
    }

    /// Replaces the event id: unique, 1 to [`MAX_EVENT_ID_CHARS`] characters.
    ///
    /// [`MAX_EVENT_ID_CHARS`]: crate::message::MAX_EVENT_ID_CHARS
    #[must_use]
    pub fn with_event_id(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = event_id.into();
        self
    }

    /// Replaces the time at which the event occurred.
    #[must_use]
    pub fn with_occurred_at(mut self, at: impl Into<Timestamp>) -> Self {
        self.occurred_at = at.into();
        self
    }

    /// Sets the trace context that is stored with the event and sent with its message, for example
    /// the headers of the request being served. An event has none by default.
    #[must_use]
    pub fn with_trace_context(mut self, trace_context: TraceContext) -> Self {
        self.trace_context = trace_context;
        self
    }
}

impl OutboxItem {
    /// Returns the item that [`Outbox::stage`] stores for `event` if pending events are spread over
    /// `buckets`.
    pub fn pending(event: NewEvent, buckets: Buckets) -> Self {
        Self {
            state_bucket: Some(buckets.partition_of(&event.aggregate_id)),
            aggregate_id: event.aggregate_id,
            sequence: event.sequence,
            event_id: event.event_id,
            aggregate_type: event.aggregate_type,
            event_type: event.event_type,
            payload: event.payload,
            occurred_at: event.occurred_at.to_string(),
            traceparent: event.trace_context.traceparent,
            tracestate: event
                .trace_context
                .tracestate
                .filter(|state| state.len() <= MAX_TRACESTATE_BYTES),
            status: Status::Pending,
            published_at: None,
            message_id: None,
            expires_at: None,
            failed_at: None,
            failure: None,
            attempts: None,
            replays: None,
        }
    }
}

/// An outbox table, as its writers use it.
#[derive(Clone, Debug)]
pub struct Outbox {
    pub(crate) table: String,
    buckets: Buckets,
}

impl Outbox {
    /// Creates the outbox of the DynamoDB table with this name or ARN. Sends no request.
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
            buckets: Buckets::default(),
        }
    }

    /// Spreads pending events over this number of index partitions instead of 32. The relay and the
    /// operators' commands must query at least as many (`OUTBOX_BUCKETS`): no sweep and no list
    /// finds an event beyond their number.
    #[must_use]
    pub const fn with_buckets(mut self, buckets: Buckets) -> Self {
        self.buckets = buckets;
        self
    }

    /// Converts `event` to an action for the caller's `TransactWriteItems` request.
    ///
    /// The action is a `Put` that does not overwrite: if the table already has an event with the
    /// same aggregate and sequence, DynamoDB cancels the transaction with the reason
    /// `ConditionalCheckFailed`.
    ///
    /// # Errors
    /// [`EventError::Unpublishable`] if the relay could never publish the event. The caller learns
    /// of it before the commit, instead of an operator who finds the event in quarantine.
    /// [`EventError::ItemTooLarge`] if the item exceeds
    /// [`MAX_ITEM_BYTES`].
    pub fn stage(&self, event: NewEvent) -> Result<TransactWriteItem, EventError> {
        let item = OutboxItem::pending(event, self.buckets);
        Message::from_item(&item)?;
        let item = serde_dynamo::aws_sdk_dynamodb_1::to_item(&item)
            .map_err(|error| EventError::Item(error.into()))?;
        let bytes = item_size(&item);
        if bytes > MAX_ITEM_BYTES {
            return Err(EventError::ItemTooLarge {
                bytes,
                limit: MAX_ITEM_BYTES,
            });
        }
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#id)")
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .build()
            // The builder requires only the two fields set above.
            .expect("table and item are set");
        Ok(TransactWriteItem::builder().put(put).build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Aggregate<'_> = Aggregate {
        kind: "order",
        id: "o-1",
    };

    #[test]
    fn unpublishable_event_is_not_staged() {
        let event = NewEvent::new(ORDER, 1, "order.placed", &"\u{FFFF}").unwrap();
        assert!(matches!(
            Outbox::new("outbox").stage(event),
            Err(EventError::Unpublishable(_))
        ));
        assert!(matches!(
            NewEvent::new(ORDER, 0, "order.placed", &()),
            Err(EventError::ZeroSequence)
        ));
    }

    #[test]
    fn staged_event_is_a_conditional_put_of_a_pending_item() {
        let event = NewEvent::new(ORDER, 1, "order.placed", &1).unwrap();
        let staged = Outbox::new("box").stage(event).unwrap();
        let put = staged.put().unwrap();
        assert_eq!(put.table_name(), "box");
        assert!(put.condition_expression().is_some());
        let item = OutboxItem::from_attributes(put.item().clone()).unwrap();
        assert_eq!(item.status, Status::Pending);
        assert_eq!(item.event_id, "o-1:1");
        assert_eq!(item.expires_at, None);
        assert_eq!(item.trace_context(), TraceContext::default());
        assert_eq!(
            item.state_bucket,
            Some(Buckets::default().partition_of("o-1"))
        );
    }

    #[test]
    fn pending_events_are_spread_over_the_configured_buckets() {
        let event = NewEvent::new(ORDER, 1, "order.placed", &1).unwrap();
        let outbox = Outbox::new("box").with_buckets(Buckets::new(1).unwrap());
        let staged = outbox.stage(event).unwrap();
        let stored = staged.put().unwrap().item()[attribute::STATE_BUCKET].clone();
        assert_eq!(stored.as_s().unwrap(), "PENDING#0");
    }

    #[test]
    fn item_without_room_for_the_mark_is_not_staged() {
        let sized = |length| {
            let payload = "x".repeat(length);
            let event = NewEvent::new(ORDER, 1, "order.placed", &payload).unwrap();
            Outbox::new("outbox").stage(event)
        };
        let empty = item_size(sized(0).unwrap().put().unwrap().item());
        assert!(sized(MAX_ITEM_BYTES - empty).is_ok());
        let error = sized(MAX_ITEM_BYTES - empty + 1).unwrap_err();
        assert!(matches!(error, EventError::ItemTooLarge { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("408577 bytes") && text.contains("408576"),
            "{text}"
        );
    }

    #[test]
    fn long_tracestate_is_not_stored() {
        let stored = |length| {
            let event = NewEvent::new(ORDER, 1, "order.placed", &1)
                .unwrap()
                .with_trace_context(TraceContext {
                    traceparent: None,
                    tracestate: Some("x".repeat(length)),
                });
            let staged = Outbox::new("outbox").stage(event).unwrap();
            let item = staged.put().unwrap().item();
            item.contains_key(attribute::TRACESTATE)
        };
        assert!(stored(512) && !stored(513));
    }

    fn traced() -> (NewEvent, TraceContext) {
        let trace_context = TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            tracestate: Some("vendor=1".to_owned()),
        };
        let event = NewEvent::new(ORDER, 1, "order.placed", &1)
            .unwrap()
            .with_trace_context(trace_context.clone());
        (event, trace_context)
    }

    #[test]
    fn explicit_trace_context_is_stored() {
        let (event, expected) = traced();
        let staged = Outbox::new("outbox").stage(event).unwrap();
        let item = OutboxItem::from_attributes(staged.put().unwrap().item().clone()).unwrap();
        assert_eq!(item.trace_context(), expected);
    }
}
