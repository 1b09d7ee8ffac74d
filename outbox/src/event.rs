//! What a writer hands over, and the `Put` made of it.

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use opentelemetry::trace::Status as SpanStatus;
use serde::Serialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::item::{OutboxItem, Status, attribute, pending_bucket};
use crate::message::{Message, Unpublishable};
use crate::timestamp::Timestamp;
use crate::trace_context::TraceContext;

/// An event before it is stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
    event_id: String,
    aggregate_type: String,
    aggregate_id: String,
    sequence: u64,
    event_type: String,
    payload: String,
    occurred_at: Timestamp,
}

/// The event cannot be stored, because it could never be published.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("the payload cannot be written as JSON: {0}")]
    Payload(#[from] serde_json::Error),
    #[error("`sequence` counts from 1")]
    Sequence,
    #[error("the event could never be published: {0}")]
    Unpublishable(#[from] Unpublishable),
    #[error("the event cannot be stored: {0}")]
    Item(#[from] serde_dynamo::Error),
}

impl NewEvent {
    /// An event of `aggregate_id`, its `sequence`-th (from 1, without holes),
    /// that occurred now. `payload` becomes the `data` of the message.
    pub fn new(
        aggregate_type: &str,
        aggregate_id: &str,
        sequence: u64,
        event_type: &str,
        payload: &impl Serialize,
    ) -> Result<Self, EventError> {
        if sequence == 0 {
            return Err(EventError::Sequence);
        }
        Ok(Self {
            event_id: OutboxItem::default_event_id(aggregate_id, sequence),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
            sequence,
            event_type: event_type.to_owned(),
            payload: serde_json::to_string(payload)?,
            occurred_at: Timestamp::now(),
        })
    }

    /// Replaces the default id `<aggregate_id>:<sequence>`; unique, 1–128
    /// characters.
    #[must_use]
    pub fn with_event_id(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = event_id.into();
        self
    }

    /// Replaces the time of the event.
    #[must_use]
    pub fn occurred_at(mut self, at: Timestamp) -> Self {
        self.occurred_at = at;
        self
    }
}

/// The outbox table, for writers.
#[derive(Clone, Debug)]
pub struct Outbox {
    table: String,
}

/// An event that is ready to be committed.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Goes into the caller's transaction. It refuses to overwrite an event
    /// with the same aggregate and sequence (`ConditionalCheckFailed`).
    pub item: TransactWriteItem,
    /// The PRODUCER span `create <table>`, whose context is stored with the
    /// event. Run the transaction inside it.
    pub span: Span,
}

impl Outbox {
    pub fn new(table: impl Into<String>) -> Self {
        Self {
            table: table.into(),
        }
    }

    /// Makes the transaction item of `event`, in a new PRODUCER span below the
    /// current one.
    ///
    /// # Errors
    /// When the relay could never publish the event: better a refused request
    /// than a quarantined event.
    pub fn stage(&self, event: NewEvent) -> Result<Staged, EventError> {
        let span = tracing::info_span!(
            "create",
            otel.name = format!("create {}", self.table),
            otel.kind = "producer",
            "messaging.system" = "aws_sqs",
            "messaging.operation.name" = "create",
            "messaging.operation.type" = "create",
            "messaging.destination.name" = %self.table,
            "outbox.event_id" = %event.event_id,
            "outbox.aggregate_id" = %event.aggregate_id,
        );
        let TraceContext {
            traceparent,
            tracestate,
        } = TraceContext::of(&span.context());
        let item = OutboxItem {
            state_bucket: Some(pending_bucket(&event.aggregate_id)),
            aggregate_id: event.aggregate_id,
            sequence: event.sequence,
            event_id: event.event_id,
            aggregate_type: event.aggregate_type,
            event_type: event.event_type,
            payload: event.payload,
            occurred_at: event.occurred_at.to_string(),
            traceparent,
            tracestate,
            status: Status::Pending,
            published_at: None,
            message_id: None,
            expires_at: None,
            failed_at: None,
            failure: None,
            attempts: None,
            replays: None,
        };
        Message::of(&item)?;
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(serde_dynamo::aws_sdk_dynamodb_1::to_item(&item)?))
            .condition_expression("attribute_not_exists(#id)")
            .expression_attribute_names("#id", attribute::AGGREGATE_ID)
            .build()
            // The builder only asks for the two fields set above.
            .expect("table and item are set");
        Ok(Staged {
            item: TransactWriteItem::builder().put(put).build(),
            span,
        })
    }
}

impl Staged {
    /// Marks the span as failed; `error_type` is the error's class, as
    /// OpenTelemetry's `error.type` wants it.
    pub fn failed(&self, error_type: &'static str) {
        self.span.set_attribute("error.type", error_type);
        self.span.set_status(SpanStatus::error(error_type));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_be_published_is_not_staged() {
        let event = NewEvent::new("order", "o-1", 1, "order.placed", &"\u{FFFF}").unwrap();
        assert!(matches!(
            Outbox::new("outbox").stage(event),
            Err(EventError::Unpublishable(_))
        ));
        assert!(matches!(
            NewEvent::new("order", "o-1", 0, "order.placed", &()),
            Err(EventError::Sequence)
        ));
    }

    #[test]
    fn a_staged_event_is_a_conditional_put_of_a_pending_item() {
        let event = NewEvent::new("order", "o-1", 1, "order.placed", &1).unwrap();
        let staged = Outbox::new("box").stage(event).unwrap();
        let put = staged.item.put().unwrap();
        assert_eq!(put.table_name(), "box");
        assert!(put.condition_expression().is_some());
        let item = OutboxItem::read(put.item().clone()).unwrap();
        assert_eq!(item.status, Status::Pending);
        assert_eq!(item.event_id, "o-1:1");
        assert_eq!(item.expires_at, None);
        assert!(item.state_bucket.unwrap().starts_with("PENDING#"));
    }
}
