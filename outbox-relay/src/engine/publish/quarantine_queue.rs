//! Quarantine queue: quarantines events that can never be sent.
//!
//! Few requests are in flight at a time: a producer that writes only invalid events must not use
//! up the connections that valid ones need.

use std::collections::VecDeque;
use std::sync::Arc;

use outbox::timestamp::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::crash;
use crate::engine::health::status::EngineStatus;
use crate::engine::health::table_health::{OperationMonitor, TableOperation};
use crate::engine::in_flight::{self, Ack};
use crate::engine::metrics::RelayMetrics;
use crate::policy::backoff;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::policy::record_classifier::Rejected;
use crate::policy::send_scheduler::Permission;
use crate::ports::{MarkOutcome, OutboxTable, Quarantine, TableError};

/// Maximum number of requests in flight.
const MAX_REQUESTS: usize = 16;

/// Event to be quarantined, and the acknowledgements that wait for it.
#[derive(Debug)]
struct QuarantineEntry {
    request: Quarantine,
    rejected: Rejected,
    acks: Vec<Ack>,
}

/// Owns the events that wait for quarantine and the requests that write it. Its length is bounded
/// by the buffer budget that each of its events holds.
pub(crate) struct QuarantineQueue {
    table: Arc<dyn OutboxTable>,
    clock: fn() -> Timestamp,
    metrics: RelayMetrics,
    status: EngineStatus,
    monitor: OperationMonitor,
    random: fastrand::Rng,
    waiting: VecDeque<QuarantineEntry>,
    breaker: CircuitBreaker,
    requests: JoinSet<QuarantineAnswer>,
}

/// Request that has ended.
pub(crate) struct QuarantineAnswer {
    entry: QuarantineEntry,
    answer: Result<MarkOutcome, TableError>,
}

impl QuarantineQueue {
    pub(crate) fn new(
        table: Arc<dyn OutboxTable>,
        clock: fn() -> Timestamp,
        metrics: RelayMetrics,
        status: EngineStatus,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            table,
            clock,
            metrics,
            monitor: status.monitor(TableOperation::Quarantine),
            status,
            random,
            waiting: VecDeque::new(),
            breaker: CircuitBreaker::new(MAX_REQUESTS, 1),
            requests: JoinSet::new(),
        }
    }

    /// Adds an event. `attempts` is the number of its failed sends.
    pub(crate) fn push(&mut self, rejected: Rejected, acks: Vec<Ack>, attempts: u64) {
        let request = Quarantine {
            key: rejected.key.clone(),
            generation: rejected.generation.clone(),
            failed_at: (self.clock)(),
            failure: rejected.failure.clone(),
            attempts,
        };
        self.waiting.push_back(QuarantineEntry {
            request,
            rejected,
            acks,
        });
    }

    /// Returns `true` if no request is in flight. Waiting events do not count: a stop does not
    /// wait for a table that is unavailable.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the end of the current delay, if it is later than `now`.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.breaker.blocked_until(now)
    }

    /// Forgets events of closed shards: the next owner reads them again.
    pub(crate) fn remove_lost(&mut self, now: Instant) {
        self.waiting
            .retain(|entry| in_flight::permission(&entry.acks, now) != Permission::Never);
    }

    /// Starts the requests that are possible now.
    pub(crate) fn start_requests(&mut self, now: Instant) {
        while self.breaker.allows(now) {
            let Some(entry) = self.waiting.pop_front() else {
                if self.breaker.in_flight() == 0 {
                    self.monitor.record_success();
                }
                return;
            };
            if in_flight::permission(&entry.acks, now) == Permission::Never {
                continue;
            }
            self.breaker.record_start();
            let table = Arc::clone(&self.table);
            self.requests.spawn(async move {
                let answer = table.quarantine(&entry.request).await;
                QuarantineAnswer { entry, answer }
            });
        }
    }

    /// Waits for the end of a request; returns `None` if none is in flight.
    pub(crate) async fn next_answer(&mut self) -> Option<Result<QuarantineAnswer, JoinError>> {
        self.requests.join_next().await
    }

    /// Processes the end of a request: settles the event, or retries it. It is retried until it is
    /// written, as the checkpoint waits for it.
    pub(crate) fn process(&mut self, answer: Result<QuarantineAnswer, JoinError>, now: Instant) {
        let QuarantineAnswer { entry, answer } = match answer {
            Ok(answer) => answer,
            Err(error) => return crash(error),
        };
        match answer {
            Ok(outcome) => {
                self.breaker.record_success();
                self.monitor.record_success();
                self.report(&entry.rejected, outcome);
                entry.acks.into_iter().for_each(Ack::settle);
            }
            Err(error) => {
                self.metrics.record_retries("quarantine", 1);
                tracing::warn!(%error, "event could not be quarantined; retrying");
                self.monitor.record_failure(error.to_string(), now);
                let random = &mut self.random;
                self.breaker
                    .record_failure(now, |failures| backoff::delay(failures, random.f64()));
                self.waiting.push_front(entry);
            }
        }
    }

    fn report(&self, rejected: &Rejected, outcome: MarkOutcome) {
        let (aggregate_id, sequence) = (&rejected.key.aggregate_id, &rejected.key.sequence);
        match outcome {
            MarkOutcome::Marked => {
                self.metrics.record_quarantined(rejected.reason);
                self.status.record_quarantined((self.clock)());
                tracing::error!(
                    aggregate_id,
                    sequence,
                    reason = rejected.reason,
                    failure = rejected.failure,
                    trace_id = rejected.trace_id,
                    "event quarantined; correct the cause and retry it, or discard it"
                );
            }
            MarkOutcome::Impossible => tracing::error!(
                aggregate_id,
                sequence,
                reason = rejected.reason,
                failure = rejected.failure,
                trace_id = rejected.trace_id,
                "event could not be quarantined: its item rejects the update; it stays PENDING; correct or delete the item"
            ),
            // Usually the event was read a second time.
            MarkOutcome::NotPending | MarkOutcome::TryAgain => tracing::info!(
                aggregate_id,
                sequence,
                reason = rejected.reason,
                "quarantine skipped: the event is no longer PENDING"
            ),
        }
    }
}
