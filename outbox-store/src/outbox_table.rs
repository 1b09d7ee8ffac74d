//! The outbox table, as the relay reads and writes it.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Status;
use outbox::item::attribute;
use outbox::timestamp::Timestamp;

use crate::TableError;
use crate::stored_event::text;

/// The primary key of an outbox item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub aggregate_id: String,
    /// The number as stored: the sequence of a malformed item may be any number.
    pub sequence: String,
}

/// Characters of a number that may be a sequence.
const MAX_NUMBER: usize = 40;

/// Digits that DynamoDB keeps of a number.
const MAX_DIGITS: usize = 38;

impl EventKey {
    /// Returns the primary key of an item, or `None` if it has none.
    pub(crate) fn of(item: &Item) -> Option<Self> {
        Some(Self {
            aggregate_id: text(item, attribute::AGGREGATE_ID)?,
            sequence: item.get(attribute::SEQUENCE)?.as_n().ok()?.clone(),
        })
    }

    /// Returns the key that a default event id, `<aggregate id>:<sequence>`, contains.
    pub fn of_default_event_id(event_id: &str) -> Option<Self> {
        let (aggregate_id, sequence) = event_id.rsplit_once(':')?;
        (is_number(sequence) && !aggregate_id.is_empty()).then(|| Self {
            aggregate_id: aggregate_id.to_owned(),
            sequence: sequence.to_owned(),
        })
    }
}

/// Returns `true` if DynamoDB accepts `text` as a number in a key. It need not be a whole number:
/// the sequence may be what is malformed about an event.
pub fn is_number(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_digit() || matches!(c, b'-' | b'+' | b'.' | b'e' | b'E');
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let mut digits = mantissa.bytes().filter(u8::is_ascii_digit);
    text.len() <= MAX_NUMBER
        && text.bytes().all(plain)
        && digits.clone().count() <= MAX_DIGITS
        && text.parse::<f64>().is_ok_and(|number| {
            // The range of magnitudes of DynamoDB's numbers.
            (1e-130..1e125).contains(&number.abs()) || digits.all(|digit| digit == b'0')
        })
}

/// A stored item.
pub type Item = HashMap<String, AttributeValue>;

/// Position in a list of pending events: a `LastEvaluatedKey`.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingCursor(pub Item);

/// One page of pending events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingPage {
    pub items: Vec<Item>,
    pub next: Option<PendingCursor>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_event_id_contains_its_key() {
        let key = EventKey::of_default_event_id("a:b:7").unwrap();
        assert_eq!(
            (key.aggregate_id.as_str(), key.sequence.as_str()),
            ("a:b", "7")
        );
        let key = EventKey::of_default_event_id("a:1.5").unwrap();
        assert_eq!(key.sequence, "1.5");
        for other in ["a", "a:", ":7", "a:7x", "a:inf", "a:1E200"] {
            assert_eq!(EventKey::of_default_event_id(other), None, "{other}");
        }
    }

    #[test]
    fn only_numbers_within_the_limits_of_dynamodb_are_accepted() {
        let digits = "9".repeat(MAX_DIGITS);
        for number in ["0", "-1.5", "0.00", "1e124", "1e-130", &digits] {
            assert!(is_number(number), "{number}");
        }
        let more = "9".repeat(MAX_DIGITS + 1);
        for other in ["", "NaN", "1e200", "1e-131", "1e-400", "0e", &more] {
            assert!(!is_number(other), "{other}");
        }
    }
}
