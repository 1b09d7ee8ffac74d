//! One delivery, from its arrival to its end.
//!
//! A message is deleted strictly after its effect is durable, or when the order
//! is found to be settled. The poison rule: what cannot be read, or can never be
//! settled, is left alone. Its slot is free at once, its visibility runs out,
//! and after the queue's number of receipts SQS moves it to the dead letters,
//! where an operator finds it with the id that was logged here.

use std::time::Duration;

use opentelemetry::trace::Status as SpanStatus;
use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch_deleter::DeleteRequest;
use crate::concurrency::Permit;
use crate::message::{self, Delivery, Event, Unreadable};
use crate::metrics::{Ended, Metrics};
use crate::order_processor::{OrderProcessor, Unsettled};
use crate::transaction_outcome::Outcome;
use crate::visibility;

/// A message that lost against other transactions comes back after this, sooner
/// than its timeout, but later than what it lost against.
const CONTENDED_RETRY: Duration = Duration::from_secs(5);

/// Works on messages; shared by their tasks.
#[derive(Debug)]
pub(crate) struct Handler {
    pub sqs: aws_sdk_sqs::Client,
    pub settler: std::sync::Arc<OrderProcessor>,
    pub metrics: Metrics,
    /// For telemetry.
    pub queue_name: String,
    pub visibility_timeout: Duration,
    /// Bounded: a full one holds slots, and so receiving, back.
    pub done: mpsc::Sender<DeleteRequest>,
    /// The time to finish is over: give back what is not finished.
    pub abandon: CancellationToken,
}

impl Handler {
    pub(crate) async fn handle(&self, mut delivery: Delivery, slot: Permit) {
        let arrived = Instant::now();
        let event = message::parse(&delivery.body);
        // It may be held for hours, and has up to a mebibyte.
        drop(std::mem::take(&mut delivery.body));
        let span = self.span(&delivery, event.as_ref().ok());
        let in_span = span.clone();
        let ended = async {
            match event {
                Ok(event) => self.settle(&event, delivery, slot).await,
                Err(unreadable) => leave_unreadable(&delivery, &unreadable),
            }
        }
        .instrument(in_span)
        .await;
        span.record("outbox.outcome", ended.as_str());
        self.metrics.ended(ended, arrived.elapsed());
    }

    async fn settle(&self, event: &Event, delivery: Delivery, slot: Permit) -> Ended {
        let settled = tokio::select! {
            biased;
            settled = self.settler.settle(&event.order) => settled,
            never = visibility::keep(&self.sqs, &delivery, self.visibility_timeout) => match never {},
            // An attempt that is cut off here has an unknown outcome, which the
            // next delivery finds out.
            () = self.abandon.cancelled() => Err(Unsettled::Stopping),
        };
        match settled {
            Ok(outcome) => {
                let ended = report(event, &delivery, &outcome);
                self.delete(delivery, slot).await;
                ended
            }
            Err(unsettled) => {
                self.give_up(event, &delivery, &unsettled).await;
                Ended::Failed
            }
        }
    }

    /// Hands the message over for deletion, and its slot to the next one. The
    /// slot is held until there is room, so that undeleted messages are bounded.
    async fn delete(&self, delivery: Delivery, slot: Permit) {
        // Closed only when the deleter is gone: then the message comes back and
        // is a duplicate.
        if let Ok(room) = self.done.reserve().await {
            // In this order: the last delete must not wait for company that its
            // own slot announces.
            drop(slot);
            room.send(delivery.into());
        }
    }

    async fn give_up(&self, event: &Event, delivery: &Delivery, unsettled: &Unsettled) {
        failed(unsettled.error_type());
        let order_id = event.order.order_id;
        let message_id = &delivery.message_id;
        let receive_count = delivery.receive_count;
        match unsettled {
            Unsettled::Stopping => {
                visibility::give_back(&self.sqs, delivery, Duration::ZERO).await;
                tracing::info!(%order_id, message_id, "message given back, the worker stops");
            }
            Unsettled::Contended => {
                visibility::give_back(&self.sqs, delivery, CONTENDED_RETRY).await;
                tracing::warn!(%order_id, message_id, receive_count, reason = %unsettled, "message given back");
            }
            Unsettled::HeldTooLong => {
                tracing::warn!(%order_id, message_id, receive_count, reason = %unsettled, "message comes back");
            }
            Unsettled::Impossible(_) => {
                tracing::error!(
                    %order_id,
                    message_id,
                    event_id = event.id,
                    receive_count,
                    reason = %unsettled,
                    "order cannot be settled, its message is left for the dead-letter queue"
                );
            }
        }
    }

    /// The CONSUMER span of a message. Its parent is the context that travelled
    /// with the message, so that one order is one trace (ADR-001); without a
    /// well-formed one a new trace starts.
    fn span(&self, delivery: &Delivery, event: Option<&Event>) -> Span {
        let event_id = event
            .map(|event| event.id.as_str())
            .or(delivery.event_id.as_deref());
        let span = tracing::info_span!(
            parent: None,
            "process",
            otel.name = format!("process {}", self.queue_name),
            otel.kind = "consumer",
            "messaging.system" = "aws_sqs",
            "messaging.operation.name" = "process",
            "messaging.operation.type" = "process",
            "messaging.destination.name" = self.queue_name,
            "messaging.message.id" = delivery.message_id,
            "outbox.event_id" = event_id,
            "outbox.aggregate_id" = event.map(|event| event.aggregate_id.as_str()),
            // More than 1 is how repeats are searched for.
            "outbox.receive_count" = i64::from(delivery.receive_count),
            "outbox.outcome" = field::Empty,
        );
        // Fails when nothing traces, as in a unit test; then nothing is lost.
        let _ = span.set_parent(delivery.trace.to_context());
        span
    }
}

/// Logs the effect of a message.
fn report(event: &Event, delivery: &Delivery, outcome: &Outcome) -> Ended {
    let order_id = event.order.order_id;
    let message_id = &delivery.message_id;
    let queued_ms = delivery
        .sent_at_millis
        .map(|sent| Timestamp::now().as_millis() - sent);
    match outcome {
        Outcome::Processed => {
            tracing::debug!(%order_id, message_id, queued_ms, "order processed");
            Ended::Processed
        }
        Outcome::Rejected(reason) => {
            tracing::info!(%order_id, message_id, queued_ms, reason, "order rejected");
            Ended::Rejected
        }
        Outcome::Duplicate => {
            let receive_count = delivery.receive_count;
            tracing::debug!(%order_id, message_id, receive_count, "order was settled before");
            Ended::Duplicate
        }
    }
}

fn leave_unreadable(delivery: &Delivery, unreadable: &Unreadable) -> Ended {
    failed("unreadable");
    tracing::error!(
        message_id = delivery.message_id,
        receive_count = delivery.receive_count,
        reason = %unreadable,
        "message cannot be read and is left for the dead-letter queue"
    );
    Ended::Unreadable
}

/// Marks the current span as failed.
fn failed(error_type: &'static str) {
    let span = Span::current();
    span.set_attribute("error.type", error_type);
    span.set_status(SpanStatus::error(error_type));
}
