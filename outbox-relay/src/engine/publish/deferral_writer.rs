//! Deferral writer: marks events in the outbox table as deferred. They stay pending, and their
//! stream records are settled: the table path publishes them later (the "deferral" rule).

use std::collections::HashMap;
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

/// Event that is to be marked as deferred, and the acknowledgements that wait for it.
struct DeferredEvent {
    generation: Generation,
    queue: QueueRef,
    acks: Vec<Ack>,
}

/// Writes the marks of deferred events. Their number is bounded by the buffer budget that each of
/// them holds.
pub(super) struct DeferralWriter {
    table: Arc<dyn OutboxTable>,
    clock: fn() -> Timestamp,
    metrics: RelayMetrics,
    writer: BatchWriter<EventKey>,
    /// By key, since one request must not name an item twice.
    events: HashMap<EventKey, DeferredEvent>,
}

pub(super) type DeferralAnswer = WriteAnswer<EventKey>;

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
            events: HashMap::new(),
        }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, event: &Event, acks: Vec<Ack>) {
        if let Some(known) = self.events.get_mut(&event.key) {
            known.acks.extend(acks);
            return;
        }
        let deferred = DeferredEvent {
            generation: event.generation.clone(),
            queue: event.queue.clone(),
            acks,
        };
        self.events.insert(event.key.clone(), deferred);
        self.writer.push(event.key.clone());
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

    /// Forgets events of closed shards: the next owner reads them again.
    pub(super) fn remove_lost(&mut self, now: Instant) {
        let events = &mut self.events;
        let is_lost = |key: &EventKey| {
            events
                .get(key)
                .is_some_and(|event| in_flight::permission(&event.acks, now) == Permission::Never)
        };
        let mut lost = Vec::new();
        self.writer.retain(|key| !is_lost(key));
        lost.extend(events.keys().filter(|key| is_lost(key)).cloned());
        for key in lost {
            events.remove(&key);
        }
    }

    /// Starts the requests that are possible now.
    pub(super) fn start_requests(&mut self, now: Instant) {
        let deferred_at = (self.clock)();
        let (table, events) = (&self.table, &self.events);
        self.writer.start_requests(now, |keys| {
            let deferrals: Vec<_> = keys
                .into_iter()
                .map(|key| Deferral {
                    key: key.clone(),
                    generation: events
                        .get(key)
                        .map(|event| event.generation.clone())
                        .unwrap_or_default(),
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
        for (key, outcome) in self.writer.process(answer, now) {
            let Some(event) = self.events.remove(&key) else {
                continue;
            };
            match outcome {
                MarkOutcome::Marked => self.metrics.record_deferred(&event.queue),
                // It is pending and beyond the checkpoint: the sweeper publishes it when all
                // readers are past it.
                MarkOutcome::Impossible => tracing::warn!(
                    aggregate_id = key.aggregate_id,
                    sequence = key.sequence,
                    "event is left to the sweeper, as its item rejects the mark of a deferred event"
                ),
                MarkOutcome::NotPending | MarkOutcome::TryAgain => {}
            }
            event.acks.into_iter().for_each(Ack::settle);
        }
    }
}
