//! The spans of a send: one CLIENT span for the request, linked to every
//! message's creation context, and one CLIENT span per message, a child of
//! that context, so that it stands in the order's own trace.
//!
//! OpenTelemetry's API is used directly: parents are remote, and a span that
//! is not sampled costs nothing.

use std::time::SystemTime;

use opentelemetry::trace::{Link, Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};

use super::held::Path;
use crate::decide::schedule::{Batch, Outgoing};

/// A request that is under way.
pub(crate) struct BatchSpan {
    span: global::BoxedSpan,
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
        let links = batch
            .events
            .iter()
            .map(|out| out.event.trace.to_context().span().span_context().clone())
            .filter(|context| context.is_valid())
            .map(|context| Link::new(context, Vec::new(), 0))
            .collect();
        let count = i64::try_from(batch.events.len()).unwrap_or(i64::MAX);
        let span = tracer()
            .span_builder(format!("SendMessageBatch {}", batch.queue.name()))
            .with_kind(SpanKind::Client)
            .with_links(links)
            .with_attributes([
                KeyValue::new("messaging.system", "aws_sqs"),
                KeyValue::new("messaging.operation.name", "SendMessageBatch"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", batch.queue.name().to_owned()),
                KeyValue::new("messaging.batch.message_count", count),
            ])
            // Not part of whatever trace happens to be current.
            .start_with_context(&tracer(), &Context::new());
        Self {
            span,
            started: SystemTime::now(),
        }
    }

    /// The request as a whole failed.
    pub(crate) fn fail(&mut self, kind: &str) {
        failed(&mut self.span, kind);
    }

    /// The span of one message of the batch.
    pub(crate) fn message(
        &self,
        batch: &Batch,
        outgoing: &Outgoing,
        source: Option<&Source>,
        outcome: &MessageOutcome<'_>,
    ) {
        let event = &outgoing.event;
        let queue = batch.queue.name();
        let mut attributes = vec![
            KeyValue::new("messaging.system", "aws_sqs"),
            KeyValue::new("messaging.operation.name", "send"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", queue.to_owned()),
            KeyValue::new("outbox.event_id", event.event_id.clone()),
            KeyValue::new("outbox.aggregate_id", event.key.aggregate_id.clone()),
            KeyValue::new(
                "outbox.attempt",
                i64::try_from(outgoing.attempt).unwrap_or(i64::MAX),
            ),
        ];
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
        let mut span = tracer()
            .span_builder(format!("send {queue}"))
            .with_kind(SpanKind::Client)
            .with_start_time(self.started)
            .with_attributes(attributes)
            .start_with_context(&tracer(), &event.trace.to_context());
        if let MessageOutcome::Failed { kind } = outcome {
            failed(&mut span, kind);
        }
        span.end();
    }
}

fn failed(span: &mut global::BoxedSpan, kind: &str) {
    span.set_attribute(KeyValue::new("error.type", kind.to_owned()));
    span.set_status(Status::error(kind.to_owned()));
}
