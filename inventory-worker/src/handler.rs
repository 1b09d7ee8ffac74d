//! Handles one delivery, from its arrival to its disposition.
//!
//! A message is deleted strictly after its effect is durable, or when the order turns out to be
//! processed or rejected already. The poison rule: a message that cannot be read, or whose order
//! can never be processed, is left in the queue. Its permit is released at once, its visibility
//! timeout expires, and after the queue's number of receives SQS moves it to the dead-letter queue,
//! where an operator finds it by the id that was logged here.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::Status as SpanStatus;
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_DESTINATION_NAME, MESSAGING_MESSAGE_ID, MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
};
use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch_deleter::DeleteRequest;
use crate::concurrency::Permit;
use crate::disposition::{DeadLetterReason, Disposition, ReleaseReason};
use crate::message::{self, Delivery, Event};
use crate::metrics::Metrics;
use crate::order_processor::OrderProcessor;
use crate::visibility;

/// Delay before a message that lost against other transactions is redelivered: shorter than its
/// visibility timeout, but longer than those transactions.
const CONTENTION_DELAY: Duration = Duration::from_secs(5);

/// Handles deliveries; shared by their tasks.
#[derive(Debug)]
pub(crate) struct Handler {
    pub sqs: aws_sdk_sqs::Client,
    pub processor: Arc<OrderProcessor>,
    pub metrics: Metrics,
    /// For telemetry.
    pub queue_name: String,
    pub visibility_timeout: Duration,
    /// Bounded: while it is full, permits are held and polling waits.
    pub deletes: mpsc::Sender<DeleteRequest>,
    /// Cancelled when the time to finish is over: release what is not finished.
    pub abandon: CancellationToken,
}

impl Handler {
    pub(crate) async fn handle(&self, mut delivery: Delivery, permit: Permit) {
        let arrived = Instant::now();
        let event = message::parse(&delivery.body);
        // The body may have a mebibyte, and the delivery may be held for hours.
        drop(std::mem::take(&mut delivery.body));
        let span = self.span(&delivery, event.as_ref().ok());
        let in_span = span.clone();
        let disposition = async {
            match event {
                Ok(event) => self.handle_event(&event, delivery, permit).await,
                Err(unreadable) => {
                    let reason = DeadLetterReason::Unreadable(unreadable);
                    let disposition = Disposition::DeadLetter(reason);
                    report(None, &delivery, &disposition);
                    disposition
                }
            }
        }
        .instrument(in_span)
        .await;
        span.record("outbox.outcome", disposition.label());
        self.metrics.record(&disposition, arrived.elapsed());
    }

    async fn handle_event(&self, event: &Event, delivery: Delivery, permit: Permit) -> Disposition {
        let disposition = tokio::select! {
            biased;
            disposition = self.processor.process(&event.order) => disposition,
            never = visibility::keep_extending(&self.sqs, &delivery, self.visibility_timeout) => {
                match never {}
            }
            // The outcome of an attempt that is cut off here is unknown; the next delivery finds
            // out.
            () = self.abandon.cancelled() => Disposition::Released(ReleaseReason::Stopping),
        };
        let release_delay = match &disposition {
            Disposition::Released(ReleaseReason::Stopping) => Some(Duration::ZERO),
            Disposition::Released(ReleaseReason::Contention) => Some(CONTENTION_DELAY),
            _ => None,
        };
        if let Some(delay) = release_delay {
            visibility::release(&self.sqs, &delivery, delay).await;
        }
        report(Some(event), &delivery, &disposition);
        if disposition.error_type().is_none() {
            self.delete(delivery, permit).await;
        }
        disposition
    }

    /// Enqueues the message for deletion and releases its permit. The permit is held until the
    /// channel has capacity, so that the number of undeleted messages is bounded.
    async fn delete(&self, delivery: Delivery, permit: Permit) {
        // Closed only when the deleter has ended: then the message is redelivered as a duplicate.
        if let Ok(slot) = self.deletes.reserve().await {
            // Released first: the deleter must not delay the last delete because of a message that
            // this permit shows as in flight.
            drop(permit);
            slot.send(delivery.into());
        }
    }

    /// Creates the CONSUMER span of a message. Its parent is the context that travelled with the
    /// message, so that one order is one trace (ADR-001). Without a well-formed context a new trace
    /// starts.
    fn span(&self, delivery: &Delivery, event: Option<&Event>) -> Span {
        let event_id = event
            .map(|event| event.id.as_str())
            .or(delivery.event_id.as_deref());
        let span = tracing::info_span!(
            parent: None,
            "process",
            otel.name = format!("process {}", self.queue_name),
            otel.kind = "consumer",
            { MESSAGING_SYSTEM } = "aws_sqs",
            { MESSAGING_OPERATION_NAME } = "process",
            { MESSAGING_OPERATION_TYPE } = "process",
            { MESSAGING_DESTINATION_NAME } = self.queue_name,
            { MESSAGING_MESSAGE_ID } = delivery.message_id,
            "outbox.event_id" = event_id,
            "outbox.aggregate_id" = event.map(|event| event.aggregate_id.as_str()),
            // Repeats are found by values over 1.
            "outbox.receive_count" = i64::from(delivery.receive_count),
            "outbox.outcome" = field::Empty,
        );
        // Fails when nothing is traced, as in a unit test; the message is handled all the same.
        let _ = span.set_parent(delivery.trace.to_context());
        span
    }
}

/// Logs how a delivery ended, and marks its span as failed if it did. `event` is `None` if the body
/// could not be read.
fn report(event: Option<&Event>, delivery: &Delivery, disposition: &Disposition) {
    if let Some(error_type) = disposition.error_type() {
        let span = Span::current();
        span.set_attribute(ERROR_TYPE, error_type);
        span.set_status(SpanStatus::error(error_type));
    }
    let order_id = event.map(|event| tracing::field::display(event.order.order_id));
    let message_id = &delivery.message_id;
    let receive_count = delivery.receive_count;
    let queued_ms = delivery
        .sent_at_millis
        .map(|sent| Timestamp::now().as_millis() - sent);
    match disposition {
        Disposition::Processed => {
            tracing::debug!(order_id, message_id, queued_ms, "order processed");
        }
        Disposition::Rejected(reason) => {
            tracing::info!(order_id, message_id, queued_ms, reason, "order rejected");
        }
        Disposition::Duplicate => {
            tracing::debug!(
                order_id,
                message_id,
                receive_count,
                "order was processed or rejected before; deleting the duplicate message"
            );
        }
        Disposition::Released(ReleaseReason::Stopping) => {
            tracing::info!(
                order_id,
                message_id,
                "message released because the worker is stopping"
            );
        }
        Disposition::Released(reason @ ReleaseReason::Contention) => {
            tracing::warn!(
                order_id,
                message_id,
                receive_count,
                %reason,
                "message released; it will be redelivered in {} s",
                CONTENTION_DELAY.as_secs()
            );
        }
        Disposition::Released(reason @ ReleaseReason::HoldLimit) => {
            tracing::warn!(
                order_id,
                message_id,
                receive_count,
                %reason,
                "message released; it will be redelivered after its visibility timeout"
            );
        }
        Disposition::DeadLetter(DeadLetterReason::Unreadable(reason)) => {
            tracing::error!(
                message_id,
                receive_count,
                %reason,
                "message cannot be read; leaving it for the dead-letter queue"
            );
        }
        Disposition::DeadLetter(DeadLetterReason::Unprocessable(reason)) => {
            tracing::error!(
                order_id,
                message_id,
                event_id = event.map(|event| event.id.as_str()),
                receive_count,
                reason,
                "order cannot be processed; leaving its message for the dead-letter queue"
            );
        }
    }
}
