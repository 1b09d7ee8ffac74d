//! Disposition of a delivery: the label `outcome`, the span's `outbox.outcome` and what becomes of
//! the message.

use crate::message::Unreadable;

/// Final state of a delivery and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The stock was reserved and the order set PROCESSED. The message is deleted.
    Processed,
    /// The order was set REJECTED, with this stored reason. The message is deleted.
    Rejected(String),
    /// The order was PROCESSED or REJECTED before. The message is deleted.
    Duplicate,
    /// The event is of a type that this worker does not handle. The message is deleted.
    Ignored,
    /// The delivery had no effect; the message is redelivered.
    Released(ReleaseReason),
    /// No delivery of this message can have an effect. It is left in the queue, and moves to the
    /// dead-letter queue after the queue's number of receives.
    DeadLetter(DeadLetterReason),
}

/// Reason for releasing a message without an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReleaseReason {
    #[error("the worker is stopping")]
    Stopping,
    #[error("the message was in flight for as long as SQS allows")]
    HoldLimit,
    #[error("its processing ended without a result, by a defect of this program")]
    Interrupted,
}

/// Reason for leaving a message for the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeadLetterReason {
    #[error("{0}")]
    Unreadable(Unreadable),
    /// No attempt at the order can succeed.
    #[error("{0}")]
    Unprocessable(String),
}

impl Disposition {
    /// Every value of [`Disposition::label`].
    pub(crate) const LABELS: [&str; 6] = [
        "processed",
        "rejected",
        "duplicate",
        "ignored",
        "unreadable",
        "failed",
    ];

    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Rejected(_) => "rejected",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::DeadLetter(DeadLetterReason::Unreadable(_)) => "unreadable",
            Self::Released(_) | Self::DeadLetter(DeadLetterReason::Unprocessable(_)) => "failed",
        }
    }

    /// OpenTelemetry's `error.type`; `None` if the delivery did not fail.
    pub(crate) fn error_type(&self) -> Option<&'static str> {
        Some(match self {
            Self::Processed | Self::Rejected(_) | Self::Duplicate | Self::Ignored => return None,
            Self::Released(ReleaseReason::Stopping) => "stopping",
            Self::Released(ReleaseReason::HoldLimit) => "unavailable",
            Self::Released(ReleaseReason::Interrupted) => "internal",
            Self::DeadLetter(DeadLetterReason::Unreadable(_)) => "unreadable",
            Self::DeadLetter(DeadLetterReason::Unprocessable(_)) => "impossible",
        })
    }
}
