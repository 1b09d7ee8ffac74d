//! One order from its submission to its disposition.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use crate::attempt_error::AttemptError;
use crate::batch_planner::Job;
use crate::concurrency::Permit;
use crate::config::MAX_VISIBILITY;
use crate::disposition::Disposition;
use crate::retry::Failures;
use crate::transaction::{LinesCheck, TransactionOrder};

/// Upper bound on the time that a message is held. SQS makes a message visible after 12 hours,
/// however often its timeout is extended; shortly before that its permit is better used for a new
/// receive.
const MAX_HOLD: Duration = Duration::from_secs(MAX_VISIBILITY.as_secs() - 30 * 60);

/// An order with everything that its processing needs.
pub(crate) type OrderJob = Job<Submission>;

/// The disposition of an order, with the permit of its message.
pub(crate) type Decided = (Disposition, Permit);

/// The part of a job that belongs to the message.
#[derive(Debug)]
pub(crate) struct Submission {
    /// CONSUMER span of the message.
    pub span: Span,
    pub failures: Failures,
    permit: Permit,
    check: LinesCheck,
    deadline: Instant,
    decided: oneshot::Sender<Decided>,
}

impl Submission {
    /// Returns the submission of a message, and the receiver of its disposition. The receiver fails
    /// if processing ends without one, which happens only when the process stops or after a panic.
    pub(crate) fn new(permit: Permit, span: Span) -> (Self, oneshot::Receiver<Decided>) {
        let (decided, disposition) = oneshot::channel();
        let submission = Self {
            span,
            failures: Failures::default(),
            permit,
            check: LinesCheck::Digest,
            deadline: Instant::now() + MAX_HOLD,
            decided,
        };
        (submission, disposition)
    }

    /// Exchanges the admission permit for a parking permit, if one is available, so that other
    /// messages are received while the order waits.
    pub(crate) fn park(&mut self) {
        self.permit.park();
    }

    /// Returns `true` if the message cannot be held for another `pause`.
    pub(crate) fn expires_within(&self, pause: Duration) -> bool {
        Instant::now() + pause >= self.deadline
    }

    /// Counts a failure, and parks the message during the pause after it.
    pub(crate) fn record_failure(&mut self, error: &AttemptError) {
        self.failures.record(error);
        self.park();
    }
}

impl OrderJob {
    pub(crate) fn transaction_order(&self) -> TransactionOrder {
        TransactionOrder {
            order: Arc::clone(&self.order),
            check: self.payload.check,
        }
    }

    pub(crate) fn with_check(mut self, check: LinesCheck) -> Self {
        self.payload.check = check;
        self
    }

    /// Ends the processing of the order.
    pub(crate) fn finish(self, disposition: Disposition) {
        let Submission {
            decided, permit, ..
        } = self.payload;
        // Fails if the message was released meanwhile because the process stops.
        let _ = decided.send((disposition, permit));
    }
}
