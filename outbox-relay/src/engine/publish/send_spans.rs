//! Spans of a send: one CLIENT span for the request, linked to every message's creation context,
//! and one CLIENT span per message, a child of that context, so that it is part of the event's own
//! trace (the "one trace" guarantee).
//!
//! OpenTelemetry's API is used directly: parents are remote, and a span that is not sampled costs
//! only its id. A request is traced if one of its messages is, whatever the sampler decides for new
//! traces: otherwise a caller that samples one order in a hundred would get the spans of every
//! request.

use std::time::SystemTime;

use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_BATCH_MESSAGE_COUNT, MESSAGING_DESTINATION_NAME, MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
};

use crate::policy::event_source::EventSource;
use crate::policy::send_scheduler::{Batch, Outgoing};

/// Spans of a request in flight.
pub(crate) struct BatchSpan {
    /// `None` if none of its messages is traced.
    span: Option<global::BoxedSpan>,
    /// Creation contexts of the messages, in the order of the batch.
    created: Vec<Context>,
    /// By the clock of the OpenTelemetry SDK, which also sets the end.
    started: SystemTime,
}

/// Outcome of the send of one message.
pub(crate) enum MessageOutcome<'a> {
    Sent {
        message_id: &'a str,
        lag_ms: Option<i64>,
    },
    Failed {
        kind: &'a str,
    },
}

fn tracer() -> global::BoxedTracer {
    global::tracer("outbox-relay")
}

impl BatchSpan {
    pub(crate) fn start(batch: &Batch) -> Self {
        let created: Vec<_> = batch
            .events
            .iter()
            .map(|out| out.event.trace.to_context())
            .collect();
        let span = created
            .iter()
            .any(is_traced)
            .then(|| request_span(batch, &created));
        Self {
            span,
            created,
            started: opentelemetry::time::now(),
        }
    }

    /// Records that the request as a whole failed.
    pub(crate) fn fail(&mut self, kind: &str) {
        if let Some(span) = &mut self.span {
            failed(span, kind);
        }
    }

    /// Records the span of the `n`-th message of the batch, linked to that of the request.
    pub(crate) fn message(
        &self,
        batch: &Batch,
        n: usize,
        source: Option<&EventSource>,
        outcome: &MessageOutcome<'_>,
    ) {
        let (Some(outgoing), Some(created)) = (batch.events.get(n), self.created.get(n)) else {
            return;
        };
        let queue = batch.queue.name();
        let mut span = tracer()
            .span_builder(format!("send {queue}"))
            .with_kind(SpanKind::Client)
            .with_start_time(self.started)
            .start_with_context(&tracer(), created);
        if !span.is_recording() {
            return;
        }
        if let Some(request) = &self.span {
            span.add_link(request.span_context().clone(), Vec::new());
        }
        span.set_attributes(message_attributes(queue, outgoing, source, outcome));
        if let MessageOutcome::Failed { kind } = outcome {
            failed(&mut span, kind);
        }
        span.end();
    }
}

/// Returns `true` if the writer of the event samples its trace. Without a trace the sampler
/// decides.
fn is_traced(created: &Context) -> bool {
    let span = created.span();
    let context = span.span_context();
    !context.is_valid() || context.is_sampled()
}

fn request_span(batch: &Batch, created: &[Context]) -> global::BoxedSpan {
    let queue = batch.queue.name();
    let mut span = tracer()
        .span_builder(format!("SendMessageBatch {queue}"))
        .with_kind(SpanKind::Client)
        // It has no parent, even if a trace is current.
        .start_with_context(&tracer(), &Context::new());
    if !span.is_recording() {
        return span;
    }
    let count = i64::try_from(batch.events.len()).unwrap_or(i64::MAX);
    span.set_attributes([
        KeyValue::new(MESSAGING_SYSTEM, "aws_sqs"),
        KeyValue::new(MESSAGING_OPERATION_NAME, "SendMessageBatch"),
        KeyValue::new(MESSAGING_OPERATION_TYPE, "send"),
        KeyValue::new(MESSAGING_DESTINATION_NAME, queue.to_owned()),
        KeyValue::new(MESSAGING_BATCH_MESSAGE_COUNT, count),
    ]);
    for context in created {
        let creation = context.span().span_context().clone();
        if creation.is_valid() {
            span.add_link(creation, Vec::new());
        }
    }
    span
}

fn message_attributes(
    queue: &str,
    outgoing: &Outgoing,
    source: Option<&EventSource>,
    outcome: &MessageOutcome<'_>,
) -> Vec<KeyValue> {
    let event = &outgoing.event;
    let attempt = i64::try_from(outgoing.attempt).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new(MESSAGING_SYSTEM, "aws_sqs"),
        KeyValue::new(MESSAGING_OPERATION_NAME, "send"),
        KeyValue::new(MESSAGING_OPERATION_TYPE, "send"),
        KeyValue::new(MESSAGING_DESTINATION_NAME, queue.to_owned()),
        KeyValue::new("outbox.event_id", event.event_id.clone()),
        KeyValue::new("outbox.aggregate_id", event.key.aggregate_id.clone()),
        KeyValue::new("outbox.attempt", attempt),
    ];
    if let Some(replay) = event.generation.replays {
        let replay = i64::try_from(replay).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("outbox.replay", replay));
    }
    if let Some(source) = source {
        attributes.push(KeyValue::new("outbox.path", source.path()));
        if let EventSource::Stream { shard, position } = source {
            attributes.push(KeyValue::new("outbox.shard_id", shard.to_string()));
            attributes.push(KeyValue::new(
                "outbox.stream_sequence_number",
                position.to_string(),
            ));
        }
    }
    if let MessageOutcome::Sent { message_id, lag_ms } = outcome {
        attributes.push(KeyValue::new(
            MESSAGING_MESSAGE_ID,
            (*message_id).to_owned(),
        ));
        if let Some(lag_ms) = lag_ms {
            attributes.push(KeyValue::new("outbox.lag_ms", *lag_ms));
        }
    }
    attributes
}

fn failed(span: &mut global::BoxedSpan, kind: &str) {
    span.set_attribute(KeyValue::new(ERROR_TYPE, kind.to_owned()));
    span.set_status(Status::error(kind.to_owned()));
}
