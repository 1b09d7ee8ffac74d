//! The outbox table, as the relay reads and writes it.

use async_trait::async_trait;
use outbox::Status;
use outbox::timestamp::Timestamp;

use crate::error::TableError;
use crate::item::{EventKey, Item};

/// Position in a list of pending events: a `LastEvaluatedKey`.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingCursor(pub Item);

/// One page of pending events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingPage {
    pub items: Vec<Item>,
    pub next: Option<PendingCursor>,
}

/// Publication of an event: it changes when an operator replays or retries the event. A write that
/// is conditional on it cannot settle a later publication of the same event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Number of the replay, from 1; `None` for a first publication.
    pub replays: Option<u64>,
    /// Time of the last retry of a quarantined event, as stored.
    pub retried_at: Option<String>,
}

/// Values that are stored in an event that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub key: EventKey,
    pub message_id: String,
    pub published_at: Timestamp,
    /// Epoch seconds at which DynamoDB may delete the item.
    pub expires_at: i64,
}

/// Values that are stored in an event that can never be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub key: EventKey,
    pub failed_at: Timestamp,
    /// Reason, for an operator.
    pub failure: String,
    /// Number of failed sends; 0 if it was never sent.
    pub attempts: u64,
}

/// Outcome of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkOutcome {
    Marked,
    /// The item is deleted or no longer pending; nothing was written.
    NotPending,
    /// The write failed for now; retry.
    TryAgain,
    /// The item cannot be written, for example because it is too large for the added attributes.
    Impossible,
}

/// Records the outcome of events, and reads pending ones.
///
/// Every write is conditional on the item existing and being pending, so that repeating one after
/// an unknown outcome is harmless, and a deleted item is never created again.
#[async_trait]
pub trait OutboxTable: Send + Sync {
    /// Marks 1–25 different events as published. Returns one outcome each, in order.
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError>;

    /// Quarantines one event; its payload is kept. Never returns [`MarkOutcome::TryAgain`].
    /// Repeated with the same `failed_at` after a lost response, it returns
    /// [`MarkOutcome::Marked`] again. For an item that is too large for more, only the status
    /// is written.
    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError>;

    /// Returns the status of 1–100 different events, in order; `None` if the item does not exist or
    /// its status is malformed. Strongly consistent.
    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError>;

    /// Returns up to 100 items that are pending in `bucket` (from 0) according to the index, the
    /// oldest first, after `after`. The index lags behind the table.
    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError>;

    /// Returns up to 100 pending items of one aggregate with sequences from `first` to `last`, in
    /// order. Strongly consistent.
    async fn pending_between(
        &self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<Item>, TableError>;

    /// Counts the events that are pending according to the index. The result is a lower bound if
    /// there are more than about 10,000.
    async fn count_pending(&self) -> Result<u64, TableError>;

    /// Counts the events that are quarantined according to the index, within one request: those of
    /// the oldest 1 MB.
    async fn count_failed(&self) -> Result<u64, TableError>;
}
