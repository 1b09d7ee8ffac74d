//! The queues that events are sent to.

use async_trait::async_trait;
use outbox::Message;

use crate::routes::QueueRef;

/// One message of a batch.
#[derive(Clone, Copy, Debug)]
pub struct SendEntry<'a> {
    pub message: &'a Message,
    /// Message group id on a FIFO queue: the aggregate's id.
    pub group: &'a str,
    /// Message deduplication id on a FIFO queue: the event id.
    pub deduplication: &'a str,
}

/// Failure of one entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// The service's code, such as `InternalError` or `InvalidMessageContents`.
    pub code: String,
    pub message: String,
    /// `true` if the message caused the failure, `false` if the service did.
    pub sender_fault: bool,
}

/// Failure of a whole batch. Entries of it may have been sent in spite of it, unless the error is
/// [`SendError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue did not answer, or the error may be transient.
    #[error("{message}")]
    Unavailable {
        /// Class of the failure, of low cardinality: `timeout`, `connection`, or a service code.
        kind: String,
        message: String,
    },
    /// The service rejected the request with this code. Nothing was sent.
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
}

/// Sends batches.
///
/// Delivery: at least once. An `Ok` entry is durably queued and a failed entry is not; after
/// [`SendError::Unavailable`] each entry may or may not be. On a standard queue the caller is
/// responsible for order: a message precedes another only if its send was acknowledged before the
/// other was sent.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends 1–10 messages of at most 1 MiB in total. Returns one outcome per entry, in order: the
    /// message id or the failure.
    async fn send(
        &self,
        queue: &QueueRef,
        entries: &[SendEntry<'_>],
    ) -> Result<Vec<Result<String, EntryFailure>>, SendError>;
}
