//! The PRODUCER span of a staged event.

use aws_sdk_dynamodb::types::TransactWriteItem;
use opentelemetry::trace::Status as SpanStatus;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::event::{EventError, NewEvent, Outbox};
use crate::trace_context::TraceContext;

/// A transaction action and the span in which to commit it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StagedEvent {
    /// The action for the caller's transaction; see [`Outbox::stage`].
    pub item: TransactWriteItem,
    /// The PRODUCER span `create <table>`. Instrument the transaction with it.
    pub span: Span,
    /// The trace context stored with the event: the one of `span`.
    pub trace_context: TraceContext,
}

impl Outbox {
    /// Stages `event` like [`stage`](Self::stage) and stores with it the context of a new
    /// PRODUCER span, a child of the current span. The span follows OpenTelemetry's messaging
    /// conventions.
    ///
    /// If no OpenTelemetry layer records the span, the trace context that was set with
    /// [`NewEvent::with_trace_context`] is stored unchanged.
    ///
    /// ```no_run
    /// # async fn example(
    /// #     dynamodb: aws_sdk_dynamodb::Client,
    /// #     order: aws_sdk_dynamodb::types::TransactWriteItem,
    /// #     event: outbox::NewEvent,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use tracing::Instrument;
    ///
    /// let staged = outbox::Outbox::new("outbox").stage_with_span(event)?;
    /// let committed = dynamodb
    ///     .transact_write_items()
    ///     .transact_items(order)
    ///     .transact_items(staged.item.clone())
    ///     .send()
    ///     .instrument(staged.span.clone())
    ///     .await;
    /// if let Err(error) = committed {
    ///     staged.record_error("transaction");
    ///     return Err(error.into());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub fn stage_with_span(&self, mut event: NewEvent) -> Result<StagedEvent, EventError> {
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
        let recorded = TraceContext::from_context(&span.context());
        if recorded.traceparent.is_some() {
            event.trace_context = recorded;
        }
        let trace_context = event.trace_context.clone();
        Ok(StagedEvent {
            item: self.stage(event)?,
            span,
            trace_context,
        })
    }
}

impl StagedEvent {
    /// Marks the span as failed. `error_type` is the value of OpenTelemetry's `error.type`: a
    /// class of errors, with few values.
    pub fn record_error(&self, error_type: &'static str) {
        self.span.set_attribute("error.type", error_type);
        self.span.set_status(SpanStatus::error(error_type));
    }
}
