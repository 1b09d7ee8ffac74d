//! The spans of a send: one CLIENT span for the request, linked to every
//! message's creation context, and one CLIENT span per message, a child of
//! that context, so that it stands in the order's own trace.
//!
//! OpenTelemetry's API is used directly: parents are remote, and a span that
//! is not sampled costs nothing but its id. A request is traced when one of its
//! messages is, whatever the sampler says of new traces: else a caller that
//! samples one order in a hundred would get the spans of every request.

use std::time::SystemTime;

use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};

use crate::engine::shard_state::Path;
use crate::policy::send_scheduler::{Batch, Outgoing};

/// A request that is under way.
pub(crate) struct BatchSpan {
    /// `None` when no message of it is traced.
    span: Option<global::BoxedSpan>,
    /// The messages' creation contexts, in the batch's order.
    created: Vec<Context>,
    started: SystemTime,
}

/// How one message fared.
pub(crate) enum MessageOutcome<'a> {
    Sent {
        message_id: &'a str,
        lag_ms: Option<i64>,
    },
    Failed {
        kind: &'a str,
    },
}

/// Where an event came from, for its span.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: Path,
    /// Shard and position, when it came from the stream.
    pub(crate) record: Option<(String, String)>,
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
            started: SystemTime::now(),
        }
    }

    /// The request as a whole failed.
    pub(crate) fn fail(&mut self, kind: &str) {
        if let Some(span) = &mut self.span {
            failed(span, kind);
        }
    }

    /// The span of the `n`-th message of the batch, linked to its request's.
    pub(crate) fn message(
        &self,
        batch: &Batch,
        n: usize,
        source: Option<&Source>,
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

/// Whether the caller wants this trace; without one there is nobody to ask,
/// and the sampler decides.
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
        // Not part of whatever trace happens to be current.
        .start_with_context(&tracer(), &Context::new());
    if !span.is_recording() {
        return span;
    }
    let count = i64::try_from(batch.events.len()).unwrap_or(i64::MAX);
    span.set_attributes([
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.name", "SendMessageBatch"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", queue.to_owned()),
        KeyValue::new("messaging.batch.message_count", count),
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
    source: Option<&Source>,
    outcome: &MessageOutcome<'_>,
) -> Vec<KeyValue> {
    let event = &outgoing.event;
    let attempt = i64::try_from(outgoing.attempt).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "aws_sqs"),
        KeyValue::new("messaging.operation.name", "send"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", queue.to_owned()),
        KeyValue::new("outbox.event_id", event.event_id.clone()),
        KeyValue::new("outbox.aggregate_id", event.key.aggregate_id.clone()),
        KeyValue::new("outbox.attempt", attempt),
    ];
    if let Some(replay) = event.replay {
        let replay = i64::try_from(replay).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("outbox.replay", replay));
    }
    if let Some(source) = source {
        attributes.push(KeyValue::new("outbox.path", source.path.as_str()));
        if let Some((shard, position)) = &source.record {
            attributes.push(KeyValue::new("outbox.shard_id", shard.clone()));
            attributes.push(KeyValue::new(
                "outbox.stream_sequence_number",
                position.clone(),
            ));
        }
    }
    if let MessageOutcome::Sent { message_id, lag_ms } = outcome {
        attributes.push(KeyValue::new(
            "messaging.message.id",
            (*message_id).to_owned(),
        ));
        if let Some(lag_ms) = lag_ms {
            attributes.push(KeyValue::new("outbox.lag_ms", *lag_ms));
        }
    }
    attributes
}

fn failed(span: &mut global::BoxedSpan, kind: &str) {
    span.set_attribute(KeyValue::new("error.type", kind.to_owned()));
    span.set_status(Status::error(kind.to_owned()));
}
