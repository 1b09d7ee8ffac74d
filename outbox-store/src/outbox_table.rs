//! The outbox table, as the relay reads and writes it.

use async_trait::async_trait;
use outbox::Status;
use outbox::item::attribute;
use outbox::timestamp::Timestamp;

use crate::error::TableError;
use crate::item::{EventKey, Item, number, text};

/// Position in a list of pending events: a `LastEvaluatedKey`.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingCursor(pub Item);

/// One page of pending events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingPage {
    pub entries: Vec<PendingEntry>,
    pub next: Option<PendingCursor>,
}

/// Pending event according to the index, which has neither its payload nor its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    pub key: EventKey,
    /// `None` if it is missing or not a string; the event is malformed then.
    pub event_type: Option<String>,
    /// `None` if it is not an RFC 3339 time.
    pub occurred_at: Option<Timestamp>,
    /// An operator made it pending again: the stream delivered it before and does not deliver it
    /// again.
    pub is_republished: bool,
}

impl PendingEntry {
    /// Reads an item of the index. Returns `None` if it has no key, which DynamoDB rules out.
    pub fn of(item: &Item) -> Option<Self> {
        Some(Self {
            key: EventKey::of(item)?,
            event_type: text(item, attribute::EVENT_TYPE),
            occurred_at: text(item, attribute::OCCURRED_AT).and_then(|at| at.parse().ok()),
            is_republished: [attribute::RETRIED_AT, attribute::REPLAYED_AT]
                .iter()
                .any(|name| item.contains_key(*name)),
        })
    }
}

/// Status of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStatus {
    pub status: Status,
    /// The relay deferred it: while it is pending, the relay's table path publishes it.
    pub is_deferred: bool,
    /// Number of times that an operator replayed it: made it pending again after it was published.
    pub replays: u64,
}

impl StoredStatus {
    /// Reads an item. Returns `None` if its status is malformed.
    pub fn of(item: &Item) -> Option<Self> {
        Some(Self {
            status: Status::parse(&text(item, attribute::STATUS)?)?,
            is_deferred: item.contains_key(attribute::DEFERRED_AT),
            replays: number(item, attribute::REPLAYS).unwrap_or_default(),
        })
    }
}

/// An earlier event of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierEvent {
    pub key: EventKey,
    /// `None` if its status is malformed.
    pub status: Option<StoredStatus>,
}

/// Publication of an event: it changes when an operator replays or retries the event. A write that
/// is conditional on it cannot settle a later publication of the same event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Number of the replay, from 1; `None` for a first publication.
    pub replays: Option<u64>,
    /// Time of the last retry of a quarantined event, as stored.
    pub retried_at: Option<String>,
    /// The number of replays in the item is malformed. Such an event can only be quarantined.
    pub is_malformed: bool,
}

impl Generation {
    /// Reads an item.
    pub fn of(item: &Item) -> Self {
        let replays = number(item, attribute::REPLAYS);
        Self {
            replays,
            is_malformed: replays.is_none() && item.contains_key(attribute::REPLAYS),
            retried_at: text(item, attribute::RETRIED_AT),
        }
    }
}

/// Values that are stored in an event that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub key: EventKey,
    pub generation: Generation,
    pub message_id: String,
    pub published_at: Timestamp,
    /// Epoch seconds at which DynamoDB may delete the item.
    pub expires_at: i64,
}

/// Values that are stored in an event that can never be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub key: EventKey,
    pub generation: Generation,
    pub failed_at: Timestamp,
    /// Reason, for an operator.
    pub failure: String,
    /// Number of failed sends; 0 if it was never sent.
    pub attempts: u64,
}

/// Values that are stored in a deferred event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    pub key: EventKey,
    pub generation: Generation,
    pub deferred_at: Timestamp,
}

/// Outcome of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkOutcome {
    Marked,
    /// The item is deleted, no longer pending, or pending in another generation; nothing was
    /// written.
    NotPending,
    /// The write failed for now; retry.
    TryAgain,
    /// The item cannot be written, for example because it is too large for the added attributes.
    Impossible,
}

/// Records the outcome of events, and reads pending ones.
///
/// Every write is conditional on the item existing, being pending and being of the given
/// generation, so that repeating one after an unknown outcome is harmless, a deleted item is never
/// created again, and a late write cannot end a replay.
#[async_trait]
pub trait OutboxTable: Send + Sync {
    /// Marks 1–25 different events as published. Returns one outcome each, in order. Only the
    /// replays of the generation count: an event that was sent is published, retried or not.
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError>;

    /// Defers 1–25 different events: they stay pending with the time of the deferral. Returns one
    /// outcome each, in order. Only the replays of the generation count.
    async fn defer(&self, deferrals: &[Deferral]) -> Result<Vec<MarkOutcome>, TableError>;

    /// Quarantines one event; its payload is kept. Never returns [`MarkOutcome::TryAgain`].
    /// Repeated with the same `failed_at` after a lost response, it returns
    /// [`MarkOutcome::Marked`] again. For an item that is too large for more, only the status
    /// is written.
    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError>;

    /// Returns the status of 1–100 different events, in order; `None` if the item does not exist or
    /// its status is malformed. Strongly consistent.
    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<StoredStatus>>, TableError>;

    /// Returns 1–100 different items, in order; `None` if an item does not exist. Strongly
    /// consistent.
    async fn items(&self, keys: &[EventKey]) -> Result<Vec<Option<Item>>, TableError>;

    /// Returns the next page of events that are pending in `bucket` (from 0) according to the
    /// index, the oldest first, after `after`: several hundred entries. The index lags behind the
    /// table.
    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError>;

    /// Returns up to `limit` events of one aggregate before `sequence`, the latest first, whatever
    /// their status; fewer only if there are no more. Strongly consistent.
    async fn latest_before(
        &self,
        aggregate_id: &str,
        sequence: &str,
        limit: usize,
    ) -> Result<Vec<EarlierEvent>, TableError>;

    /// Counts the events that are pending according to the index, in the first 5 MB of each
    /// bucket. The result is a lower bound if a bucket has more.
    async fn count_pending(&self) -> Result<u64, TableError>;

    /// Counts the events that are quarantined according to the index, within one request: those of
    /// the oldest 1 MB.
    async fn count_failed(&self) -> Result<u64, TableError>;
}
