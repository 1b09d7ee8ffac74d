//! Batch writer: writes to events of the outbox table in batches, and retries them until they are
//! written. The marker and the deferral writer use it.

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::crash;
use crate::engine::health::table_health::OperationMonitor;
use crate::engine::metrics::RelayMetrics;
use crate::policy::backoff;
use crate::policy::mark_queue::{Attempt, MarkQueue};
use crate::ports::{MarkOutcome, TableError};

/// Answer of the table: one outcome for each write of a request.
pub(super) type Outcomes = Result<Vec<MarkOutcome>, TableError>;

/// Owns the writes that wait and the requests in flight.
pub(super) struct BatchWriter<T> {
    /// Label of retries in metrics.
    kind: &'static str,
    metrics: RelayMetrics,
    monitor: OperationMonitor,
    random: fastrand::Rng,
    queue: MarkQueue<T>,
    requests: JoinSet<WriteAnswer<T>>,
}

/// Request that has ended.
pub(crate) struct WriteAnswer<T> {
    writes: Vec<Attempt<T>>,
    answer: Outcomes,
}

impl<T: Send + 'static> BatchWriter<T> {
    pub(super) fn new(
        kind: &'static str,
        metrics: RelayMetrics,
        monitor: OperationMonitor,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            kind,
            metrics,
            monitor,
            random,
            queue: MarkQueue::default(),
            requests: JoinSet::new(),
        }
    }

    pub(super) fn queue(&self) -> &MarkQueue<T> {
        &self.queue
    }

    pub(super) fn push(&mut self, item: T) {
        self.queue.push(item);
    }

    /// Returns `true` if no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Starts the requests that are possible now. `request` writes the given items.
    pub(super) fn start_requests<F>(&mut self, now: Instant, request: impl Fn(Vec<&T>) -> F)
    where
        F: Future<Output = Outcomes> + Send + 'static,
    {
        while let Some(writes) = self.queue.next_request(now) {
            let answer = request(writes.iter().map(|attempt| &attempt.item).collect());
            self.requests.spawn(async move {
                WriteAnswer {
                    writes,
                    answer: answer.await,
                }
            });
        }
    }

    /// Waits for the end of a request; returns `None` if none is in flight.
    pub(super) async fn next_answer(&mut self) -> Option<Result<WriteAnswer<T>, JoinError>> {
        self.requests.join_next().await
    }

    /// Processes the end of a request, and reports it to health. Returns the writes that are done,
    /// with their outcomes; the others are retried.
    pub(super) fn process(
        &mut self,
        answer: Result<WriteAnswer<T>, JoinError>,
        now: Instant,
    ) -> Vec<(T, MarkOutcome)> {
        let WriteAnswer { writes, answer } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                crash(error);
                return Vec::new();
            }
        };
        let count = writes.len();
        let random = &mut self.random;
        let delay = |failures| backoff::delay(failures, random.f64());
        let outcomes = match answer {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.metrics.record_retries(self.kind, count as u64);
                self.monitor.record_failure(error.to_string(), now);
                tracing::warn!(%error, count, kind = self.kind, "events could not be written to; retrying");
                self.queue.record_failure(writes, now, delay);
                return Vec::new();
            }
        };
        let outcomes = outcomes
            .into_iter()
            .chain(std::iter::repeat(MarkOutcome::TryAgain));
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for (attempt, outcome) in writes.into_iter().zip(outcomes) {
            match outcome {
                MarkOutcome::TryAgain => failed.push(attempt),
                outcome => done.push((attempt.item, outcome)),
            }
        }
        // A missing permission is reported for each event, not for the request.
        if done.is_empty() {
            let reason = "no event could be written to; the log has the errors".to_owned();
            self.monitor.record_failure(reason, now);
        } else {
            self.monitor.record_success();
        }
        self.metrics.record_retries(self.kind, failed.len() as u64);
        self.queue.record_answer(count, failed, now, delay);
        done
    }

    /// Removes the waiting writes for which `keep` returns `false`.
    pub(super) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.queue.retain(keep);
        if self.queue.is_empty() && self.requests.is_empty() {
            // Nothing is retried any more, so no success would end a reported failure.
            self.monitor.record_success();
        }
    }
}
