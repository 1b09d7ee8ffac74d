//! The PRODUCER span of a staged event.

use aws_sdk_dynamodb::types::TransactWriteItem;
use opentelemetry::Context;
use opentelemetry::trace::Status as SpanStatus;
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_DESTINATION_NAME, MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::event::{EventError, NewEvent, Outbox};
use crate::trace_context::TraceContext;

/// Value of `error.type` if the outcome of the transaction was never recorded.
const CANCELLED: &str = "cancelled";

/// A transaction action and the span in which to commit it.
///
/// The span ends with this value. Record the outcome with [`committed`](Self::committed),
/// [`superseded`](Self::superseded) or [`record_error`](Self::record_error): if the value is
/// dropped before, such as in a request whose client has disconnected, the span has the error
/// `cancelled`. So a span without an error shows that the event exists.
#[derive(Debug)]
#[non_exhaustive]
pub struct StagedEvent {
    /// The action for the caller's transaction; see [`Outbox::stage`].
    pub item: TransactWriteItem,
    /// The PRODUCER span `create <table>`. Instrument the transaction with it.
    pub span: Span,
    /// The trace context stored with the event: the one of `span`.
    pub trace_context: TraceContext,
    is_recorded: bool,
}

impl Outbox {
    /// Stages `event` like [`stage`](Self::stage) and stores with it the context of a new
    /// PRODUCER span, a child of the current span. The span follows OpenTelemetry's messaging
    /// conventions.
    ///
    /// If no OpenTelemetry layer records the span, the trace context that was set with
    /// [`NewEvent::with_trace_context`] is stored. Without one it is the context of the current
    /// span, or else the current OpenTelemetry context.
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
    /// match committed {
    ///     Ok(_) => staged.committed(),
    ///     Err(error) => {
    ///         staged.record_error("transaction");
    ///         return Err(error.into());
    ///     }
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
            { MESSAGING_SYSTEM } = "outbox",
            { MESSAGING_OPERATION_NAME } = "create",
            { MESSAGING_OPERATION_TYPE } = "create",
            { MESSAGING_DESTINATION_NAME } = %self.table,
            "outbox.event_id" = %event.event_id,
            "outbox.aggregate_id" = %event.aggregate_id,
        );
        let current = || {
            let of_span = TraceContext::from_context(&Span::current().context());
            some(of_span).or_else(|| some(TraceContext::from_context(&Context::current())))
        };
        let explicit = some(event.trace_context);
        event.trace_context = some(TraceContext::from_context(&span.context()))
            .or(explicit)
            .or_else(current)
            .unwrap_or_default();
        let trace_context = event.trace_context.clone();
        Ok(StagedEvent {
            item: self.stage(event)?,
            span,
            trace_context,
            is_recorded: false,
        })
    }
}

/// Returns the context if it names a span.
fn some(context: TraceContext) -> Option<TraceContext> {
    context.traceparent.is_some().then_some(context)
}

impl StagedEvent {
    /// Records that the transaction was committed: the event exists.
    pub fn committed(mut self) {
        self.is_recorded = true;
    }

    /// Records that the event does not exist because an earlier transaction had the same effect,
    /// such as one with the same idempotency key. Sets `outbox.outcome` to `superseded`; that is
    /// not an error.
    pub fn superseded(mut self) {
        self.span.set_attribute("outbox.outcome", "superseded");
        self.is_recorded = true;
    }

    /// Records that the transaction failed, or that its outcome is unknown. `error_type` is the
    /// value of OpenTelemetry's `error.type`: a class of errors, with few values.
    pub fn record_error(mut self, error_type: &'static str) {
        self.fail(error_type);
        self.is_recorded = true;
    }

    fn fail(&self, error_type: &'static str) {
        self.span.set_attribute(ERROR_TYPE, error_type);
        self.span.set_status(SpanStatus::error(error_type));
    }
}

impl Drop for StagedEvent {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.fail(CANCELLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    };
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;
    use crate::event::Aggregate;

    fn event() -> NewEvent {
        let order = Aggregate {
            kind: "order",
            id: "o-1",
        };
        NewEvent::new(order, 1, "order.placed", &1).unwrap()
    }

    fn stage(event: NewEvent) -> StagedEvent {
        Outbox::new("outbox").stage_with_span(event).unwrap()
    }

    fn remote(trace_id: u128) -> Context {
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from(trace_id),
            SpanId::from(7),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        ))
    }

    /// Runs `work` with a subscriber that records the spans of these targets, and returns them.
    fn recorded(targets: Targets, work: impl FnOnce()) -> Vec<SpanData> {
        let exporter = Collected::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
        tracing::subscriber::with_default(subscriber, work);
        std::mem::take(&mut exporter.0.lock().unwrap())
    }

    #[derive(Clone, Debug, Default)]
    struct Collected(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Collected {
        async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().append(&mut batch);
            Ok(())
        }
    }

    fn all() -> Targets {
        Targets::new().with_default(LevelFilter::INFO)
    }

    fn error_of(span: &SpanData) -> Option<String> {
        let mut attributes = span.attributes.iter();
        let error = attributes.find(|attribute| attribute.key.as_str() == ERROR_TYPE);
        error.map(|error| error.value.to_string())
    }

    #[test]
    fn explicit_trace_context_is_stored_when_the_span_is_not_recorded() {
        let explicit = TraceContext::from_context(&remote(1));
        let _current = remote(2).attach();
        let staged = stage(event().with_trace_context(explicit.clone()));
        assert_eq!(staged.trace_context, explicit);
    }

    #[test]
    fn current_context_is_stored_when_the_span_is_not_recorded() {
        let _current = remote(2).attach();
        let staged = stage(event());
        assert_eq!(
            staged.trace_context.trace_id().unwrap(),
            format!("{:032x}", 2)
        );
    }

    #[test]
    fn current_span_is_stored_when_the_library_s_target_is_disabled() {
        let without = all().with_target("outbox::producer_span", LevelFilter::OFF);
        let mut stored = None;
        let spans = recorded(without, || {
            let _request = tracing::info_span!(target: "application", "request").entered();
            stored = stage(event()).trace_context.trace_id();
        });
        let [request] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!(stored, Some(request.span_context.trace_id().to_string()));
    }

    #[test]
    fn span_without_an_error_was_committed() {
        let outcome = |record: fn(StagedEvent)| {
            let spans = recorded(all(), || record(stage(event())));
            let [span] = &spans[..] else {
                panic!("{spans:?}");
            };
            assert_eq!(span.name, "create outbox");
            let is_error = matches!(span.status, SpanStatus::Error { .. });
            assert_eq!(is_error, error_of(span).is_some());
            error_of(span)
        };
        assert_eq!(outcome(StagedEvent::committed), None);
        assert_eq!(outcome(StagedEvent::superseded), None);
        let failed = outcome(|staged| staged.record_error("throttled"));
        assert_eq!(failed.as_deref(), Some("throttled"));
        assert_eq!(outcome(drop).as_deref(), Some("cancelled"));
    }
}
