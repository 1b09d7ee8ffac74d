//! Marker: marks sent events in the outbox table.

use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::crash;
use crate::engine::health::table_health::OperationMonitor;
use crate::engine::metrics::RelayMetrics;
use crate::policy::backoff;
use crate::policy::mark_queue::{Mark, MarkQueue};
use crate::policy::recent_map::RecentMap;
use crate::policy::send_scheduler::EventRef;
use crate::ports::{EventKey, MarkOutcome, OutboxTable, Published, TableError};

/// Number of marked events that are remembered at least.
const REMEMBERED: usize = 2_000;

/// Owns the marks that wait and the requests that write them.
pub(crate) struct Marker {
    table: Arc<dyn OutboxTable>,
    /// Time for which published events are kept.
    retention: Duration,
    clock: fn() -> Timestamp,
    metrics: RelayMetrics,
    monitor: OperationMonitor,
    random: fastrand::Rng,
    queue: MarkQueue,
    requests: JoinSet<MarkAnswer>,
    /// Events that were marked recently. An event may be read twice within moments: from the
    /// table, because a later one waited for it, and then from the stream. A look-up between the
    /// two may be older than the mark.
    marked: RecentMap<EventKey, ()>,
}

/// Request that has ended.
pub(crate) struct MarkAnswer {
    marks: Vec<Mark>,
    answer: Result<Vec<MarkOutcome>, TableError>,
}

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
            metrics,
            monitor,
            random,
            queue: MarkQueue::default(),
            requests: JoinSet::new(),
            marked: RecentMap::new(REMEMBERED),
        }
    }

    /// Returns `true` if sending must wait for marks.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Returns `true` if every mark is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.requests.is_empty()
    }

    /// Returns `true` if the event was marked recently.
    pub(crate) fn was_marked(&self, key: &EventKey) -> bool {
        self.marked.get(key).is_some()
    }

    pub(crate) fn push(&mut self, mark: Mark) {
        self.queue.push(mark);
    }

    /// Returns the next instant at which delayed marks may continue.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.queue.next_due(now)
    }

    /// Starts the requests that are possible now.
    pub(crate) fn start_requests(&mut self, now: Instant) {
        while let Some(marks) = self.queue.next_request(now) {
            let wall = (self.clock)();
            let retention = i64::try_from(self.retention.as_secs()).unwrap_or(i64::MAX);
            let published: Vec<_> = marks
                .iter()
                .map(|mark| Published {
                    key: mark.key.clone(),
                    generation: mark.generation.clone(),
                    message_id: mark.message_id.clone(),
                    published_at: mark.sent_at,
                    expires_at: wall.as_seconds().saturating_add(retention),
                })
                .collect();
            let table = Arc::clone(&self.table);
            self.requests.spawn(async move {
                let answer = table.mark(&published).await;
                MarkAnswer { marks, answer }
            });
        }
    }

    /// Waits for the end of a request; returns `None` if none is in flight.
    pub(crate) async fn next_answer(&mut self) -> Option<Result<MarkAnswer, JoinError>> {
        self.requests.join_next().await
    }

    /// Processes the end of a request, and returns the events that are settled by it: marked, or no
    /// longer there to be marked.
    pub(crate) fn process(
        &mut self,
        answer: Result<MarkAnswer, JoinError>,
        now: Instant,
    ) -> Vec<EventRef> {
        let MarkAnswer { marks, answer } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                crash(error);
                return Vec::new();
            }
        };
        let count = marks.len();
        let outcomes = self.outcomes(count, answer, now);
        let mut settled = Vec::new();
        let mut failed = Vec::new();
        for (mark, outcome) in marks.into_iter().zip(outcomes) {
            match outcome {
                MarkOutcome::TryAgain => failed.push(mark),
                MarkOutcome::Marked | MarkOutcome::NotPending | MarkOutcome::Impossible => {
                    if outcome == MarkOutcome::Impossible {
                        tracing::error!(
                            aggregate_id = mark.key.aggregate_id,
                            sequence = mark.key.sequence,
                            "event is published, but its item rejects the mark; it stays PENDING and may be sent again"
                        );
                    }
                    self.marked.insert(mark.key, ());
                    settled.push(mark.event);
                }
            }
        }
        let random = &mut self.random;
        self.queue.record_end(count, failed, now, |failures| {
            backoff::delay(failures, random.f64())
        });
        settled
    }

    /// Returns one outcome for each mark of a request, and reports the request to health.
    fn outcomes(
        &mut self,
        count: usize,
        answer: Result<Vec<MarkOutcome>, TableError>,
        now: Instant,
    ) -> impl Iterator<Item = MarkOutcome> + use<> {
        let outcomes = match answer {
            Ok(outcomes) => {
                // A missing permission is reported for each event, not for the request.
                let failed = |outcome: &MarkOutcome| *outcome == MarkOutcome::TryAgain;
                if outcomes.iter().all(failed) {
                    let reason = "no event could be marked; the log has the errors".to_owned();
                    self.monitor.record_failure(reason, now);
                } else {
                    self.monitor.record_success();
                }
                outcomes
            }
            Err(error) => {
                self.metrics.record_retries("mark", count as u64);
                self.monitor.record_failure(error.to_string(), now);
                tracing::warn!(%error, count, "published events could not be marked; retrying");
                Vec::new()
            }
        };
        outcomes
            .into_iter()
            .chain(std::iter::repeat(MarkOutcome::TryAgain))
    }
}
