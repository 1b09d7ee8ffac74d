//! Processes one order: repeats attempts until one of them decides, by the kind of failure.
//!
//! - **DynamoDB is unavailable, throttles, or its response was lost**: the message stays in flight,
//!   its visibility timeout is extended, and the attempt is repeated with backoff until it decides.
//!   Releasing the message would only increment its receive count and move a healthy message
//!   towards the dead-letter queue. While DynamoDB is unavailable, polling pauses as well
//!   (`circuit_breaker`), and since every message in flight keeps its permit, a worker holds at
//!   most `WORKER_CONCURRENCY` of them.
//! - **A conflict** with another transaction is over in milliseconds. The attempt is repeated a
//!   bounded number of times with growing, jittered pauses. An item so contended that this does not
//!   help is relieved by releasing the message for later.
//! - **An order that no attempt can process** is not retried.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::order::OrderPlaced;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt_error::AttemptError;
use crate::circuit_breaker::CircuitBreaker;
use crate::config::MAX_VISIBILITY;
use crate::disposition::{DeadLetterReason, Disposition, ReleaseReason};
use crate::inventory_store::InventoryStore;
use crate::progress::Progress;

/// Pauses after conflicts, about 20 seconds in all. Jitter at most doubles a pause.
const CONFLICT_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(20))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(12);

/// Pauses while DynamoDB is unavailable or throttles. The longest one bounds how much later than
/// DynamoDB a message recovers.
const OUTAGE_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(4))
    .without_max_times();

/// Upper bound on the time that a message is held. SQS makes a message visible after 12 hours,
/// however often its timeout is extended; shortly before that its permit is better used for a new
/// receive.
const MAX_HOLD: Duration = Duration::from_secs(MAX_VISIBILITY.as_secs() - 30 * 60);

/// Processes orders, with retries.
#[derive(Debug)]
pub(crate) struct OrderProcessor {
    pub store: InventoryStore,
    pub breaker: CircuitBreaker,
    pub progress: Progress,
    /// Ends the retries while DynamoDB is unavailable: the outage may last longer than the process
    /// may take to stop.
    pub stop: CancellationToken,
}

impl OrderProcessor {
    /// Repeats attempts at `order` until one decides, cannot succeed, or the limits are reached.
    pub(crate) async fn process(&self, order: &OrderPlaced) -> Disposition {
        let deadline = Instant::now() + MAX_HOLD;
        let mut conflict_pauses = CONFLICT_BACKOFF.build();
        let mut outage_pauses = OUTAGE_BACKOFF.build();
        loop {
            let attempt = self.store.reserve_or_reject(order).await;
            self.progress.record();
            match &attempt {
                Err(AttemptError::Unavailable(reason)) => self.breaker.record_failure(reason),
                _ => self.breaker.record_success(),
            }
            let error = match attempt {
                Ok(disposition) => return disposition,
                Err(AttemptError::Unprocessable(reason)) => {
                    return Disposition::DeadLetter(DeadLetterReason::Unprocessable(reason));
                }
                Err(error) => error,
            };
            let (pause, exhausted) = match error {
                AttemptError::Conflict => (conflict_pauses.next(), ReleaseReason::Contention),
                _ => (outage_pauses.next(), ReleaseReason::HoldLimit),
            };
            let Some(pause) = pause else {
                return Disposition::Released(exhausted);
            };
            if Instant::now() + pause >= deadline {
                return Disposition::Released(ReleaseReason::HoldLimit);
            }
            tracing::debug!(
                order_id = %order.order_id,
                error.type = error.error_type(),
                reason = %error,
                pause_ms = pause.as_millis(),
                "attempt failed; retrying"
            );
            let unavailable = matches!(error, AttemptError::Unavailable(_));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled(), if unavailable => {
                    return Disposition::Released(ReleaseReason::Stopping);
                }
            }
        }
    }
}
