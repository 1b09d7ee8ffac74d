//! Sends one batch to its queue, with its spans, or looks its events up before that.

use std::sync::Arc;

use outbox::timestamp::Timestamp;

use super::send_spans::{BatchSpan, MessageOutcome};
use crate::policy::event_source::EventSource;
use crate::policy::send_scheduler::{Batch, Outgoing};
use crate::ports::{
    EntryFailure, OutboxTable, Queue, SendEntry, SendError, StoredStatus, TableError,
};

pub(super) type SendResult = Result<Vec<Result<String, EntryFailure>>, SendError>;

/// Request that has ended.
pub(super) enum SendAnswer {
    Sent {
        batch: Batch,
        result: SendResult,
    },
    /// The batch was not sent. The result has the status of each event, in order.
    LookedUp {
        batch: Batch,
        result: Result<Vec<Option<StoredStatus>>, TableError>,
    },
}

/// Looks up the events of a batch in the outbox table.
pub(super) async fn look_up(outbox: Arc<dyn OutboxTable>, batch: Batch) -> SendAnswer {
    let events = batch.events.iter();
    let keys: Vec<_> = events.map(|outgoing| outgoing.event.key.clone()).collect();
    let result = outbox.statuses(&keys).await;
    SendAnswer::LookedUp { batch, result }
}

/// Sends a batch. `sources` are those of its events, in order.
pub(super) async fn send(
    queue: Arc<dyn Queue>,
    batch: Batch,
    sources: Vec<Option<EventSource>>,
    clock: fn() -> Timestamp,
) -> SendAnswer {
    let mut span = BatchSpan::start(&batch);
    let entries: Vec<_> = batch.events.iter().map(entry).collect();
    let result = queue.send(&batch.queue, &entries).await;
    trace(&mut span, &batch, &sources, &result, clock);
    SendAnswer::Sent { batch, result }
}

fn entry(outgoing: &Outgoing) -> SendEntry<'_> {
    SendEntry {
        message: &outgoing.event.message,
        group: &outgoing.event.key.aggregate_id,
        deduplication: &outgoing.event.deduplication_id,
    }
}

/// Ends the spans of a send. A message gets its span when its outcome is known. The messages of a
/// request that failed as a whole get none: an outage would fill every trace with them.
fn trace(
    span: &mut BatchSpan,
    batch: &Batch,
    sources: &[Option<EventSource>],
    result: &SendResult,
    clock: fn() -> Timestamp,
) {
    match result {
        Ok(results) => {
            let wall = clock();
            let messages = batch.events.iter().zip(results).zip(sources);
            for (n, ((outgoing, result), source)) in messages.enumerate() {
                let outcome = match result {
                    Ok(message_id) => MessageOutcome::Sent {
                        message_id,
                        lag_ms: outgoing
                            .event
                            .occurred_at
                            .map(|at| wall.as_millis() - at.as_millis()),
                    },
                    Err(failure) => MessageOutcome::Failed {
                        kind: &failure.code,
                    },
                };
                span.message(batch, n, source.as_ref(), &outcome);
            }
        }
        Err(SendError::Unavailable { kind, .. } | SendError::Refused { code: kind, .. }) => {
            span.fail(kind);
        }
    }
}
