//! The outbox table, as the relay writes it.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Status;
use outbox::timestamp::Timestamp;

/// The primary key of an outbox item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub aggregate_id: String,
    /// The number as it is stored: a malformed item may have any.
    pub sequence: String,
}

/// A stored item.
pub type Item = HashMap<String, AttributeValue>;

/// Where a look at the pending events goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingCursor(pub Item);

/// Some pending events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingPage {
    pub items: Vec<Item>,
    pub next: Option<PendingCursor>,
}

/// What is noted on an event that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub key: EventKey,
    pub message_id: String,
    pub published_at: Timestamp,
    /// Epoch seconds at which DynamoDB may delete the item.
    pub expires_at: i64,
}

/// What is noted on an event that can never be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub key: EventKey,
    pub failed_at: Timestamp,
    /// For an operator: what is wrong.
    pub failure: String,
    /// How often it was sent in vain; 0 when it was never tried.
    pub attempts: u64,
}

/// What became of one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkOutcome {
    Marked,
    /// The item is gone or no longer pending; nothing was written.
    NotPending,
    /// Not now; try again.
    TryAgain,
    /// Never: the item can not be written any more, such as one so large that
    /// the mark does not fit.
    Impossible,
}

/// The request as a whole failed; what it wrote is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TableError(pub String);

/// Notes what became of events.
///
/// Every write is conditional on the item being there and pending, so that
/// repeating one after an unknown outcome is harmless, and a deleted item
/// never comes back.
#[async_trait]
pub trait OutboxTable: Send + Sync {
    /// Marks 1–25 different events as published; one outcome each, in order.
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError>;

    /// Quarantines one event, payload and all. Never says
    /// [`MarkOutcome::TryAgain`]. Repeated with the same `failed_at` after a
    /// lost answer, it says [`MarkOutcome::Marked`] again. An item that has no
    /// room for anything more gets its status only.
    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError>;

    /// The status of 1–100 different events, in order; `None` where there is
    /// no such item or none that is understood. Strongly consistent.
    async fn states(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError>;

    /// Up to 100 items that the index shows as pending in `bucket` (from 0),
    /// the oldest first, from `after` on. The index lags behind the table.
    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError>;

    /// Up to 100 pending items of one aggregate with sequences from `first` to
    /// `last`, in order. Strongly consistent.
    async fn pending_between(
        &self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<Item>, TableError>;

    /// How many events the index shows as pending; at least so many, when there
    /// are more than some 10,000.
    async fn count_pending(&self) -> Result<u64, TableError>;

    /// How many events the index shows as quarantined, as far as one request
    /// tells: those of the oldest 1 MB.
    async fn count_failed(&self) -> Result<u64, TableError>;
}
