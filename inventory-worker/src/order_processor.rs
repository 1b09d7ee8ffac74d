//! How long an order is tried, by what stands in its way.
//!
//! - **DynamoDB is away, throttles, or its answer was lost**: the message stays in hand, its
//!   visibility extended, and is tried with backoff until it is settled. Giving it back would only
//!   make it come again, one receipt nearer to the dead-letter queue, through no fault of its own.
//!   When DynamoDB is away altogether, receiving pauses too (`gate`), and since every message in
//!   hand keeps its slot, a worker holds at most `WORKER_CONCURRENCY` of them.
//! - **A conflict** with another transaction is over in milliseconds. It is tried a bounded number
//!   of times with growing, jittered pauses; an item so contended that this does not help gets
//!   relief by the message coming back later.
//! - **What can never work** is not tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::order::OrderPlaced;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt_error::AttemptError;
use crate::circuit_breaker::CircuitBreaker;
use crate::config::MAX_VISIBILITY;
use crate::health::Progress;
use crate::inventory_store::InventoryStore;
use crate::transaction_outcome::Outcome;

/// Up to some 20 seconds in all; the jitter doubles a pause at most.
const CONFLICT: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(20))
    .with_max_delay(Duration::from_secs(2))
    .with_max_times(12);

/// The longest pause is how much later than DynamoDB a message comes back.
const AWAY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(4))
    .without_max_times();

/// SQS takes a message back after 12 hours, however often it is extended: then
/// its slot is better used for a new receipt.
const MAX_HOLD: Duration = Duration::from_secs(MAX_VISIBILITY.as_secs() - 30 * 60);

/// Why a message is given up without an effect.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsettled {
    /// The conflicts did not end.
    #[error("other transactions kept holding an item of this order")]
    Contended,
    /// The process stops.
    #[error("the worker stops")]
    Stopping,
    /// It was held for as long as SQS allows.
    #[error("it was tried for as long as SQS lends a message")]
    HeldTooLong,
    /// It can never be settled; the reason.
    #[error("{0}")]
    Impossible(String),
}

impl Unsettled {
    /// The class, for OpenTelemetry's `error.type`.
    pub(crate) fn error_type(&self) -> &'static str {
        match self {
            Self::Contended => "transaction_conflict",
            Self::Stopping => "stopping",
            Self::HeldTooLong => "unavailable",
            Self::Impossible(_) => "impossible",
        }
    }
}

/// Settles orders, patiently.
#[derive(Debug)]
pub(crate) struct OrderProcessor {
    pub tables: InventoryStore,
    pub gate: CircuitBreaker,
    pub progress: Progress,
    /// Ends the waiting for a DynamoDB that is away: it may well be away for
    /// longer than the process may take to stop.
    pub stop: CancellationToken,
}

impl OrderProcessor {
    /// Tries `order` until it is settled or one of [`Unsettled`] holds.
    pub(crate) async fn settle(&self, order: &OrderPlaced) -> Result<Outcome, Unsettled> {
        let give_up_at = Instant::now() + MAX_HOLD;
        let mut conflicts = CONFLICT.build();
        let mut away = AWAY.build();
        loop {
            let attempt = self.tables.settle(order).await;
            self.progress.made();
            match &attempt {
                Err(AttemptError::Unavailable(reason)) => self.gate.unanswered(reason),
                _ => self.gate.answered(),
            }
            let trouble = match attempt {
                Ok(outcome) => return Ok(outcome),
                Err(AttemptError::Impossible(reason)) => return Err(Unsettled::Impossible(reason)),
                Err(trouble) => trouble,
            };
            tracing::debug!(
                order_id = %order.order_id,
                error.type = trouble.error_type(),
                reason = %trouble,
                "order is tried again"
            );
            let pause = match trouble {
                AttemptError::Conflict => conflicts.next().ok_or(Unsettled::Contended)?,
                _ => away.next().ok_or(Unsettled::HeldTooLong)?,
            };
            if Instant::now() + pause >= give_up_at {
                return Err(Unsettled::HeldTooLong);
            }
            let unavailable = matches!(trouble, AttemptError::Unavailable(_));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled(), if unavailable => return Err(Unsettled::Stopping),
            }
        }
    }
}
