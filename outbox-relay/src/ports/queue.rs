//! The queues events are sent to.

use async_trait::async_trait;
use outbox::Message;

use crate::routes::QueueRef;

/// One message of a batch.
#[derive(Clone, Copy, Debug)]
pub struct SendEntry<'a> {
    pub message: &'a Message,
    /// Its aggregate: the message group on a FIFO queue.
    pub group: &'a str,
    /// Its event id: the deduplication id on a FIFO queue.
    pub deduplication: &'a str,
}

/// Why one entry of a batch was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// The service's code, such as `InternalError` or `InvalidMessageContents`.
    pub code: String,
    pub message: String,
    /// The service says the message, not the service, is at fault.
    pub sender_fault: bool,
}

/// Why a whole batch failed. Some of it may have been sent all the same,
/// unless the error is [`SendError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No answer, or one that says to try later.
    #[error("{message}")]
    Unavailable {
        /// A low-cardinality class: `timeout`, `connection`, or a service code.
        kind: String,
        message: String,
    },
    /// The service refused the request itself, with this code. Nothing was
    /// sent.
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
}

/// Sends batches.
///
/// Delivery: at least once. `Ok` entries are durably queued; a failed entry
/// was not queued; after [`SendError::Unavailable`] each entry may or may not
/// be. On a standard queue order is the caller's: only what was acknowledged
/// before the next send is before it.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends 1–10 messages of at most 1 MiB in total. The result has one
    /// outcome per entry, in order: the message id, or why not.
    async fn send(
        &self,
        queue: &QueueRef,
        entries: &[SendEntry<'_>],
    ) -> Result<Vec<Result<String, EntryFailure>>, SendError>;
}
