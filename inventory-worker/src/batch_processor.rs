//! Processes a batch: repeats attempts until each order is decided, or the rest is returned to the
//! planner.
//!
//! - **DynamoDB is unavailable or its response was lost**: the same transaction is sent again, with
//!   the same token, until its outcome is known. Releasing the messages would only increment their
//!   receive counts and move healthy messages towards the dead-letter queue. A batch that fails
//!   while DynamoDB is available is split: its orders are processed one by one, and an order that
//!   still fails does not hold back the others of its SKUs.
//! - **A conflict** with the transaction of another process is over in milliseconds. After a short
//!   pause the orders are planned again, together with those that arrived meanwhile. However long
//!   conflicts last, no message is released for them.
//! - **A cancelled transaction** decides some orders, and the others are sent again without them.
//! - **An order that no attempt can process** is not retried.
//!
//! While orders pause, their messages hold no admission permit and no request permit.

use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::attempt_error::AttemptError;
use crate::circuit_breaker::CircuitBreaker;
use crate::concurrency::ConcurrencyLimit;
use crate::disposition::{DeadLetterReason, Disposition, ReleaseReason};
use crate::inventory_store::{CommitError, InventoryStore};
use crate::job::OrderJob;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::transaction::Transaction;
use crate::transaction_outcome::{Interpretation, Verdict, interpret};

/// Failures in a row after which orders are processed alone, or without holding back others, if
/// DynamoDB is available.
const PATIENCE: usize = 3;

/// Processes batches; shared by their tasks.
#[derive(Debug)]
pub(crate) struct BatchProcessor {
    pub store: InventoryStore,
    pub breaker: CircuitBreaker,
    pub progress: Progress,
    pub metrics: Metrics,
    pub limit: ConcurrencyLimit,
    /// Ends the retries while DynamoDB is unavailable: the outage may last longer than the process
    /// may take to stop.
    pub stop: CancellationToken,
}

/// End of the processing of a batch.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Orders that are not decided.
    pub undecided: Vec<OrderJob>,
    /// The undecided orders are to be attempted after this pause, which is not to hold back
    /// others.
    pub pause: Option<Duration>,
    /// DynamoDB was unavailable when the process was to stop, so that no other order can be
    /// processed either.
    pub gave_up: bool,
}

/// Next step after a transaction.
enum Step {
    /// It took effect.
    Committed,
    /// It was cancelled. The orders for the next attempt, if any, can be sent at once.
    Continue,
    /// The orders are returned to the planner.
    End(Ended),
}

impl BatchProcessor {
    /// Processes the orders of a batch, given in the order of arrival.
    pub(crate) async fn process(&self, mut batch: Vec<OrderJob>) -> Ended {
        // Orders whose stock depends on those of the batch.
        let mut later = Vec::new();
        let mut ended = loop {
            if batch.is_empty() {
                break Ended::default();
            }
            match self.attempt(&mut batch, &mut later).await {
                Step::Committed => {
                    for job in batch.drain(..) {
                        job.finish(Disposition::Processed);
                    }
                }
                Step::Continue => {}
                Step::End(ended) => break ended,
            }
        };
        if ended.gave_up {
            release(&mut later);
        }
        ended.undecided.append(&mut batch);
        ended.undecided.append(&mut later);
        ended
    }

    /// Sends the transaction of `batch` until its outcome is known, and applies the outcome.
    async fn attempt(&self, batch: &mut Vec<OrderJob>, later: &mut Vec<OrderJob>) -> Step {
        let orders = batch.iter().map(OrderJob::transaction_order).collect();
        let mut transaction = Transaction::new(orders);
        let mut is_renewed = false;
        loop {
            let result = {
                let _permit = self.limit.request().await;
                self.store.commit(&transaction).await
            };
            self.progress.record();
            let error = match result {
                Ok(()) => {
                    self.breaker.record_success();
                    return Step::Committed;
                }
                Err(CommitError::TokenReused) if !is_renewed => {
                    transaction.renew_token();
                    is_renewed = true;
                    continue;
                }
                Err(CommitError::TokenReused) => {
                    let text = "DynamoDB reports that a new token belongs to another transaction";
                    AttemptError::Unavailable(text.to_owned())
                }
                Err(CommitError::Cancelled(reasons)) => {
                    let interpretation = interpret(&transaction, &reasons);
                    return self.apply(interpretation, batch, later).await;
                }
                Err(CommitError::Failed(AttemptError::Unprocessable(reason))) => {
                    self.breaker.record_success();
                    return reject_request(batch, reason);
                }
                Err(CommitError::Failed(error)) => error,
            };
            let pause = self.back_off(batch, &error);
            if batch.len() < transaction.orders.len() {
                return Step::End(Ended::default());
            }
            if self.breaker.is_closed() && failed_often(batch) {
                return isolate(batch, pause);
            }
            if self.pause(pause, &error).await.is_err() {
                release(batch);
                return Step::End(Ended {
                    gave_up: true,
                    ..Ended::default()
                });
            }
        }
    }

    /// Applies the outcome of a cancelled transaction: `batch` has the orders of the next attempt
    /// afterwards, and `later` those that are to wait for it.
    async fn apply(
        &self,
        interpretation: Interpretation,
        batch: &mut Vec<OrderJob>,
        later: &mut Vec<OrderJob>,
    ) -> Step {
        let mut rejections = Vec::new();
        let jobs = std::mem::take(batch);
        for (job, verdict) in jobs.into_iter().zip(interpretation.verdicts) {
            match verdict {
                Verdict::Duplicate => job.finish(Disposition::Duplicate),
                Verdict::Unprocessable(reason) => job.finish(unprocessable(reason)),
                Verdict::InsufficientStock(reason) => rejections.push((job, reason)),
                Verdict::Again(check) => batch.push(job.with_check(check)),
                Verdict::After => later.push(job),
            }
        }
        let mut wait_for = interpretation.wait_for;
        let rejected = rejections.into_iter().map(|(job, reason)| async {
            let order = job.transaction_order();
            let _permit = self.limit.request().await;
            (self.store.reject(&order, reason).await, job)
        });
        for (result, job) in join_all(rejected).await {
            match result {
                Ok(disposition) => job.finish(disposition),
                Err(AttemptError::Unprocessable(reason)) => job.finish(unprocessable(reason)),
                Err(error) => {
                    batch.push(job);
                    wait_for = Some(error);
                }
            }
        }
        // A rejection that failed is at the end.
        batch.sort_unstable_by_key(OrderJob::arrival);
        let Some(error) = wait_for.filter(|_| !batch.is_empty()) else {
            self.breaker.record_success();
            return Step::Continue;
        };
        let count = batch.len();
        let pause = self.back_off(batch, &error);
        if self.breaker.is_closed() && failed_often(batch) && batch.len() == count {
            return isolate(batch, pause);
        }
        if self.pause(pause, &error).await.is_err() {
            release(batch);
            return Step::End(Ended {
                gave_up: true,
                ..Ended::default()
            });
        }
        if later.is_empty() {
            Step::End(Ended::default())
        } else {
            // The planner would form the same batch, with the same shortage.
            Step::Continue
        }
    }

    /// Counts a failed attempt. Returns the pause before the next one. Releases the messages that
    /// cannot be held until then.
    fn back_off(&self, batch: &mut Vec<OrderJob>, error: &AttemptError) -> Duration {
        let is_first = batch.iter().all(|job| job.payload.failures.outages() == 0);
        match error {
            AttemptError::Unavailable(reason) => self.breaker.record_failure(reason, is_first),
            _ => self.breaker.record_success(),
        }
        self.metrics.record_retry(error);
        let pauses = batch.iter().map(|job| job.payload.failures.pause(error));
        let pause = pauses.max().unwrap_or_default();
        for mut job in std::mem::take(batch) {
            if job.payload.expires_within(pause) {
                job.finish(Disposition::Released(ReleaseReason::HoldLimit));
            } else {
                job.payload.record_failure(error);
                batch.push(job);
            }
        }
        tracing::debug!(
            order_id = batch.first().map(|job| tracing::field::display(job.order.order_id)),
            orders = batch.len(),
            error.type = error.kind(),
            reason = %error,
            pause_ms = pause.as_millis(),
            "attempt failed; retrying"
        );
        pause
    }

    /// Waits for `pause`. Fails if DynamoDB is unavailable and the process is to stop.
    async fn pause(&self, pause: Duration, error: &AttemptError) -> Result<(), Stopping> {
        let is_unavailable = matches!(error, AttemptError::Unavailable(_));
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.stop.cancelled(), if is_unavailable => Err(Stopping),
        }
    }
}

/// The process is to stop.
struct Stopping;

/// Ends all orders: their messages are released because the process stops.
pub(crate) fn release(jobs: &mut Vec<OrderJob>) {
    for job in jobs.drain(..) {
        job.finish(Disposition::Released(ReleaseReason::Stopping));
    }
}

/// Handles a request that DynamoDB rejected as a whole, without saying which order is at fault.
fn reject_request(batch: &mut Vec<OrderJob>, reason: String) -> Step {
    if batch.len() == 1 {
        for job in batch.drain(..) {
            job.finish(unprocessable(reason.clone()));
        }
    }
    for job in batch.iter_mut() {
        job.alone = true;
    }
    Step::End(Ended::default())
}

/// Returns `true` if the orders failed too often for an outage that ends by itself.
fn failed_often(batch: &[OrderJob]) -> bool {
    let mut jobs = batch.iter();
    jobs.any(|job| job.payload.failures.outages() >= PATIENCE)
}

/// Splits a batch that fails while DynamoDB is available. A single order is attempted again after
/// its pause, which holds back no other order.
fn isolate(batch: &mut [OrderJob], pause: Duration) -> Step {
    let is_single = batch.len() == 1;
    for job in batch {
        job.alone = true;
    }
    Step::End(Ended {
        pause: is_single.then_some(pause),
        ..Ended::default()
    })
}

fn unprocessable(reason: String) -> Disposition {
    Disposition::DeadLetter(DeadLetterReason::Unprocessable(reason))
}
