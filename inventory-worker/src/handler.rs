//! Handles deliveries, from their arrival to their disposition.
//!
//! A message is deleted strictly after its effect is durable, or when the order turns out to be
//! processed or rejected already. The poison rule: a message that cannot be read, or whose order
//! can never be processed, is left in the queue. Its permit is released at once, its visibility
//! timeout expires, and after the queue's number of receives SQS moves it to the dead-letter queue,
//! where an operator finds it by the id that was logged here.
//!
//! An event of a type that the worker does not handle is not poison: a route can send several types
//! to one queue. It is counted and deleted.

use std::sync::Arc;

use opentelemetry::trace::Status as SpanStatus;
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_DESTINATION_NAME, MESSAGING_MESSAGE_ID, MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
};
use outbox::timestamp::Timestamp;
use shared::order::{OrderId, OrderPlaced};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch_deleter::DeleteRequest;
use crate::batch_processor::BatchProcessor;
use crate::concurrency::Permit;
use crate::dispatcher::Dispatcher;
use crate::disposition::{DeadLetterReason, Disposition, ReleaseReason};
use crate::job::{Decided, Submission};
use crate::message::{self, Delivery, Event};
use crate::visibility::{Hidden, VisibilityExtender};

/// Handles deliveries; shared by their tasks.
#[derive(Debug)]
pub(crate) struct Handler {
    pub processor: Arc<BatchProcessor>,
    pub dispatcher: Arc<Dispatcher>,
    pub visibility: Arc<VisibilityExtender>,
    /// For telemetry.
    pub queue_name: String,
    /// Bounded: while it is full, permits are held and polling waits.
    pub deletes: mpsc::Sender<DeleteRequest>,
    /// Owns the messages' tasks. A task that panics releases its permit, and its message is
    /// redelivered.
    pub tasks: TaskTracker,
    /// Cancelled when the time to finish is over: release what is not finished.
    pub abandon: CancellationToken,
}

/// A delivery whose body was read, or could not be.
#[derive(Debug)]
struct Received {
    delivery: Delivery,
    arrived: Instant,
    event_id: Option<String>,
    order_id: Option<OrderId>,
    span: Span,
}

impl Handler {
    /// Handles the messages of one response. Their orders are submitted together, so that those of
    /// one SKU are in one transaction.
    pub(crate) fn receive(self: &Arc<Self>, messages: Vec<(Delivery, Permit)>) {
        let orders = messages
            .into_iter()
            .filter_map(|(delivery, permit)| self.accept(delivery, permit));
        self.dispatcher.submit(orders.collect());
    }

    /// Reads a message. Returns its order, or ends the message if it has none.
    fn accept(
        self: &Arc<Self>,
        mut delivery: Delivery,
        permit: Permit,
    ) -> Option<(Arc<OrderPlaced>, Submission)> {
        let arrived = Instant::now();
        let event = message::parse(&delivery.body);
        // The body may have a mebibyte, and the delivery may be held for hours.
        drop(std::mem::take(&mut delivery.body));
        let span = self.span(&delivery, event.as_ref().ok());
        let received = Received {
            arrived,
            event_id: event.as_ref().ok().map(|event| event.id.clone()),
            order_id: event
                .as_ref()
                .ok()
                .and_then(|event| Some(event.order.as_ref()?.order_id)),
            span: span.clone(),
            delivery,
        };
        let order = match event {
            Err(unreadable) => {
                let reason = DeadLetterReason::Unreadable(unreadable);
                self.end(&received, &Disposition::DeadLetter(reason));
                return None;
            }
            Ok(event) => event.order,
        };
        let hidden = self.visibility.hide(&received.delivery);
        let handler = Arc::clone(self);
        let Some(order) = order else {
            self.end(&received, &Disposition::Ignored);
            self.tasks.spawn(async move {
                handler
                    .delete(received.delivery, hidden, Some(permit))
                    .await;
            });
            return None;
        };
        let (submission, decided) = Submission::new(permit, span.clone());
        let task = async move { handler.finish(received, hidden, decided).await };
        self.tasks.spawn(task.instrument(span));
        Some((order, submission))
    }

    /// Waits until the order of a message is decided, and ends the message.
    async fn finish(
        &self,
        received: Received,
        hidden: Hidden,
        decided: oneshot::Receiver<Decided>,
    ) {
        let decided = tokio::select! {
            biased;
            decided = decided => decided.ok(),
            () = self.abandon.cancelled() => None,
        };
        let (disposition, permit) = match decided {
            Some((disposition, permit)) => (disposition, Some(permit)),
            None if self.abandon.is_cancelled() => {
                (Disposition::Released(ReleaseReason::Stopping), None)
            }
            None => (Disposition::Released(ReleaseReason::Interrupted), None),
        };
        self.end(&received, &disposition);
        if disposition.error_type().is_none() {
            self.delete(received.delivery, hidden, permit).await;
        } else if disposition == Disposition::Released(ReleaseReason::Stopping) {
            hidden.release();
        }
    }

    /// Reports how a delivery ended.
    fn end(&self, received: &Received, disposition: &Disposition) {
        let span = &received.span;
        span.in_scope(|| report(received, disposition));
        span.record("outbox.outcome", disposition.label());
        let took = received.arrived.elapsed();
        self.processor.metrics.record(disposition, took);
    }

    /// Enqueues the message for deletion and releases its permit. The permit is held until the
    /// channel has capacity, so that the number of undeleted messages is bounded.
    async fn delete(&self, delivery: Delivery, hidden: Hidden, permit: Option<Permit>) {
        // Closed only when the deleter has ended: then the message is redelivered as a duplicate.
        if let Ok(slot) = self.deletes.reserve().await {
            // Released first: the deleter must not delay the last delete because of a message that
            // this permit shows as in flight.
            drop(permit);
            slot.send(DeleteRequest::new(delivery, hidden));
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
            "outbox.aggregate_id" = event.and_then(|event| event.aggregate_id.as_deref()),
            // Repeats are found by values over 1.
            "outbox.receive_count" = i64::from(delivery.receive_count),
            "outbox.outcome" = field::Empty,
        );
        // Fails when nothing is traced, as in a unit test; the message is handled all the same.
        let _ = span.set_parent(delivery.trace.to_context());
        span
    }
}

/// Logs how a delivery ended, and marks its span as failed if it did.
fn report(received: &Received, disposition: &Disposition) {
    if let Some(error_type) = disposition.error_type() {
        let span = Span::current();
        span.set_attribute(ERROR_TYPE, error_type);
        span.set_status(SpanStatus::error(error_type));
    }
    let delivery = &received.delivery;
    let order_id = received.order_id.map(field::display);
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
        Disposition::Ignored => {
            tracing::debug!(
                message_id,
                event_id = received.event_id,
                "event is of a type that this worker does not handle; deleting the message"
            );
        }
        Disposition::Released(reason @ ReleaseReason::Interrupted) => {
            tracing::error!(
                order_id,
                message_id,
                receive_count,
                %reason,
                "message released; it will be redelivered after its visibility timeout"
            );
        }
        Disposition::Released(ReleaseReason::Stopping) => {
            tracing::info!(
                order_id,
                message_id,
                "message released because the worker is stopping"
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
                event_id = received.event_id,
                receive_count,
                reason,
                "order cannot be processed; leaving its message for the dead-letter queue"
            );
        }
    }
}
