//! Marker: marks sent events in the outbox table.

use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::batch_writer::{BatchWriter, WriteAnswer};
use crate::engine::health::table_health::OperationMonitor;
use crate::engine::metrics::RelayMetrics;
use crate::policy::recent_map::RecentMap;
use crate::policy::record_classifier::Event;
use crate::policy::send_scheduler::EventRef;
use crate::ports::{EventKey, Generation, MarkOutcome, OutboxTable, Published};

/// Number of marked events that are remembered at least.
const REMEMBERED: usize = 2_000;

/// Time for which a read of the table may be older than a mark.
const STALE_READ: Duration = Duration::from_secs(10);

/// Mark of one sent event.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) event: EventRef,
    pub(crate) key: EventKey,
    pub(crate) generation: Generation,
    pub(crate) message_id: String,
    /// Time at which the queue accepted the message.
    pub(crate) sent_at: Timestamp,
}

/// Writes the marks of sent events.
pub(crate) struct Marker {
    table: Arc<dyn OutboxTable>,
    /// Time for which published events are kept.
    retention: Duration,
    clock: fn() -> Timestamp,
    writer: BatchWriter<Mark>,
    /// Events that were marked recently. An event may be read twice within moments, from the table
    /// and from the stream or twice from the table, and a read may be older than the mark.
    marked: RecentMap<EventKey, (Generation, Instant)>,
}

pub(crate) type MarkAnswer = WriteAnswer<Mark>;

impl Marker {
    pub(crate) fn new(
        table: Arc<dyn OutboxTable>,
        retention: Duration,
        clock: fn() -> Timestamp,
        metrics: RelayMetrics,
        monitor: OperationMonitor,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            table,
            retention,
            clock,
            writer: BatchWriter::new("mark", metrics, monitor, random),
            marked: RecentMap::new(REMEMBERED),
        }
    }

    /// Returns `true` if sending must wait for marks.
    pub(crate) fn is_full(&self) -> bool {
        self.writer.queue().is_full()
    }

    /// Returns `true` if every mark is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.writer.queue().is_empty()
    }

    /// Returns `true` if the event was marked recently. An event of the table may have become
    /// pending again since: in another generation, or without one if its item was edited.
    pub(crate) fn was_marked(&self, event: &Event, is_from_table: bool, now: Instant) -> bool {
        self.marked.get(&event.key).is_some_and(|(generation, at)| {
            !is_from_table || (*generation == event.generation && now < *at + STALE_READ)
        })
    }

    pub(crate) fn push(&mut self, mark: Mark) {
        self.writer.push(mark);
    }

    /// Returns the next instant at which delayed marks may continue.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.writer.queue().next_due(now)
    }

    /// Starts the requests that are possible now.
    pub(crate) fn start_requests(&mut self, now: Instant) {
        let retention = i64::try_from(self.retention.as_secs()).unwrap_or(i64::MAX);
        let expires_at = (self.clock)().as_seconds().saturating_add(retention);
        let table = &self.table;
        self.writer.start_requests(now, |marks| {
            let published: Vec<_> = marks
                .into_iter()
                .map(|mark| Published {
                    key: mark.key.clone(),
                    generation: mark.generation.clone(),
                    message_id: mark.message_id.clone(),
                    published_at: mark.sent_at,
                    expires_at,
                })
                .collect();
            let table = Arc::clone(table);
            async move { table.mark(&published).await }
        });
    }

    /// Waits for the end of a request; returns `None` if none is in flight.
    pub(crate) async fn next_answer(&mut self) -> Option<Result<MarkAnswer, JoinError>> {
        self.writer.next_answer().await
    }

    /// Processes the end of a request, and returns the events that are settled by it: marked, or no
    /// longer there to be marked.
    pub(crate) fn process(
        &mut self,
        answer: Result<MarkAnswer, JoinError>,
        now: Instant,
    ) -> Vec<EventRef> {
        let mut settled = Vec::new();
        for (mark, outcome) in self.writer.process(answer, now) {
            if outcome == MarkOutcome::Impossible {
                tracing::error!(
                    aggregate_id = mark.key.aggregate_id,
                    sequence = mark.key.sequence,
                    "event is published, but its item rejects the mark; it stays PENDING and may be sent again"
                );
            }
            self.marked.insert(mark.key, (mark.generation, now));
            settled.push(mark.event);
        }
        settled
    }
}
