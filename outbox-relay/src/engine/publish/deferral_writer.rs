//! Deferral writer: marks events in the outbox table as deferred. They stay pending, and their
//! stream records are settled: the table path publishes them later (the "deferral" rule).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use outbox::timestamp::Timestamp;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::batch_writer::{BatchWriter, WriteAnswer};
use crate::engine::health::table_health::OperationMonitor;
use crate::engine::in_flight::{self, Ack};
use crate::engine::metrics::RelayMetrics;
use crate::policy::record_classifier::Event;
use crate::policy::send_scheduler::Permission;
use crate::ports::{Deferral, EventKey, Generation, MarkOutcome, OutboxTable};
use crate::routes::QueueRef;

/// Event that is to be marked as deferred.
#[derive(Debug)]
pub(super) struct DeferredEvent {
    key: EventKey,
    generation: Generation,
    queue: QueueRef,
}

/// Writes the marks of deferred events. Their number is bounded by the buffer budget that each of
/// them holds.
pub(super) struct DeferralWriter {
    table: Arc<dyn OutboxTable>,
    clock: fn() -> Timestamp,
    metrics: RelayMetrics,
    writer: BatchWriter<DeferredEvent>,
    /// Acknowledgements of the events that wait or are in flight. One request must not name an
    /// item twice.
    acks: HashMap<EventKey, Vec<Ack>>,
}

pub(super) type DeferralAnswer = WriteAnswer<DeferredEvent>;

impl DeferralWriter {
    pub(super) fn new(
        table: Arc<dyn OutboxTable>,
        clock: fn() -> Timestamp,
        metrics: RelayMetrics,
        monitor: OperationMonitor,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            table,
            clock,
            metrics: metrics.clone(),
            writer: BatchWriter::new("defer", metrics, monitor, random),
            acks: HashMap::new(),
        }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, event: &Event, acks: Vec<Ack>) {
        match self.acks.entry(event.key.clone()) {
            Entry::Occupied(known) => known.into_mut().extend(acks),
            Entry::Vacant(unknown) => {
                unknown.insert(acks);
                self.writer.push(DeferredEvent {
                    key: event.key.clone(),
                    generation: event.generation.clone(),
                    queue: event.queue.clone(),
                });
            }
        }
    }

    /// Returns `true` if the event waits for its mark, or a request for it is in flight.
    pub(super) fn contains(&self, key: &EventKey) -> bool {
        self.acks.contains_key(key)
    }

    /// Returns `true` if no request is in flight. Waiting events do not count: a stop does not
    /// wait for a table that is unavailable.
    pub(super) fn is_idle(&self) -> bool {
        self.writer.is_idle()
    }

    /// Returns the next instant at which delayed writes may continue.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.writer.queue().next_due(now)
    }

    /// Forgets the waiting events of closed shards: the next owner reads them again.
    pub(super) fn remove_lost(&mut self, now: Instant) {
        let all_acks = &mut self.acks;
        self.writer.retain(|event| {
            let acks = all_acks.get(&event.key).map_or(&[][..], Vec::as_slice);
            let is_lost = in_flight::permission(acks, now) == Permission::Never;
            if is_lost {
                all_acks.remove(&event.key);
            }
            !is_lost
        });
    }

    /// Starts the requests that are possible now.
    pub(super) fn start_requests(&mut self, now: Instant) {
        let deferred_at = (self.clock)();
        let table = &self.table;
        self.writer.start_requests(now, |events| {
            let deferrals: Vec<_> = events
                .into_iter()
                .map(|event| Deferral {
                    key: event.key.clone(),
                    generation: event.generation.clone(),
                    deferred_at,
                })
                .collect();
            let table = Arc::clone(table);
            async move { table.defer(&deferrals).await }
        });
    }

    /// Waits for the end of a request; returns `None` if none is in flight.
    pub(super) async fn next_answer(&mut self) -> Option<Result<DeferralAnswer, JoinError>> {
        self.writer.next_answer().await
    }

    /// Processes the end of a request: settles the records of the events that are deferred, or no
    /// longer pending.
    pub(super) fn process(&mut self, answer: Result<DeferralAnswer, JoinError>, now: Instant) {
        for (event, outcome) in self.writer.process(answer, now) {
            match outcome {
                MarkOutcome::Marked => self.metrics.record_deferred(&event.queue),
                // It is pending and beyond the checkpoint: the sweeper publishes it when all
                // readers are past it.
                MarkOutcome::Impossible => tracing::warn!(
                    aggregate_id = event.key.aggregate_id,
                    sequence = event.key.sequence,
                    "event is left to the sweeper, as its item rejects the mark of a deferred event"
                ),
                MarkOutcome::NotPending | MarkOutcome::TryAgain => {}
            }
            let acks = self.acks.remove(&event.key).unwrap_or_default();
            for ack in acks {
                // A gate that has read the event from the table before must not dispatch it now.
                ack.dispatched_by(&event.key.aggregate_id).forget();
                ack.settle();
            }
        }
    }
}
