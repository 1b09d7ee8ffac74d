//! Model of the outbox table and its index.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Status;
use outbox::item::{bucket_name, pending_bucket};
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{EventKey, Item, PendingCursor, PendingPage};
use tokio::time::Instant;

use super::World;

/// Maximum number of items that a query of the index returns.
const PENDING_PAGE: usize = 5;

/// Flaw of an event that can never be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Its payload is not JSON.
    Malformed,
    /// The queue rejects it.
    Refused,
}

/// Model of an event in the outbox table.
#[derive(Clone, Debug)]
pub(crate) struct EventModel {
    pub(crate) status: Status,
    /// Time according to its writer.
    pub(crate) occurred_at: Timestamp,
    /// Time at which it was marked or quarantined.
    pub(crate) settled_at: Option<Instant>,
    /// Time from which the index contains the event as pending.
    pub(crate) indexed_at: Instant,
    /// Time from which the index no longer contains it.
    pub(crate) unindexed_at: Option<Instant>,
    /// Determines the queue.
    pub(crate) event_type: &'static str,
    pub(crate) flaw: Option<Flaw>,
    /// The item was removed.
    pub(crate) deleted: bool,
}

impl EventModel {
    pub(crate) fn is_pending(&self) -> bool {
        !self.deleted && self.status == Status::Pending
    }

    /// Returns `true` if the index contains it as pending.
    fn is_indexed(&self) -> bool {
        let now = Instant::now();
        self.indexed_at <= now && self.unindexed_at.is_none_or(|until| now < until)
    }
}

fn cursor_text(at: Timestamp, key: &EventKey) -> String {
    format!("{at}|{}|{:>20}", key.aggregate_id, key.sequence)
}

impl World {
    /// Queries the index, which lags behind the table.
    pub(crate) fn pending(&mut self, bucket: u32, after: Option<PendingCursor>) -> PendingPage {
        let name = bucket_name(bucket);
        let lags = |event: &EventModel| event.is_indexed() != event.is_pending();
        if self.events.values().any(lags) {
            self.faults.note("index lag");
        }
        let mut pending: Vec<_> = self
            .events
            .iter()
            .filter(|(key, event)| event.is_indexed() && pending_bucket(&key.aggregate_id) == name)
            .map(|(key, event)| (event.occurred_at, key))
            .collect();
        pending.sort_by_key(|(at, key)| cursor_text(*at, key));
        let skip = after.map_or(0, |PendingCursor(key)| {
            let last = &key["last"];
            let last = last.as_s().expect("a cursor made here");
            pending
                .iter()
                .position(|(at, key)| cursor_text(*at, key) > *last)
                .unwrap_or(pending.len())
        });
        let page: Vec<_> = pending.iter().skip(skip).take(PENDING_PAGE).collect();
        let more = skip + page.len() < pending.len();
        let next = page.last().filter(|_| more).map(|(at, key)| {
            let last = AttributeValue::S(cursor_text(*at, key));
            PendingCursor(HashMap::from([("last".to_owned(), last)]))
        });
        PendingPage {
            items: page.into_iter().map(|(_, key)| self.image(key)).collect(),
            next,
        }
    }

    pub(crate) fn pending_between(&self, aggregate_id: &str, first: u64, last: u64) -> Vec<Item> {
        let mut found: Vec<_> = self
            .events
            .iter()
            .filter(|(key, event)| key.aggregate_id == aggregate_id && event.is_pending())
            .filter_map(|(key, _)| Some((key.sequence.parse::<u64>().ok()?, key)))
            .filter(|(sequence, _)| (first..=last).contains(sequence))
            .collect();
        found.sort();
        found
            .into_iter()
            .take(PENDING_PAGE)
            .map(|(_, key)| self.image(key))
            .collect()
    }

    pub(super) fn image(&self, key: &EventKey) -> HashMap<String, AttributeValue> {
        let event = &self.events[key];
        let payload = match event.flaw {
            Some(Flaw::Malformed) => "{oops",
            Some(Flaw::Refused) | None => "{}",
        };
        let text = |value: &str| AttributeValue::S(value.to_owned());
        HashMap::from([
            ("aggregate_id".to_owned(), text(&key.aggregate_id)),
            (
                "sequence".to_owned(),
                AttributeValue::N(key.sequence.clone()),
            ),
            ("aggregate_type".to_owned(), text("order")),
            ("event_type".to_owned(), text(event.event_type)),
            ("payload".to_owned(), text(payload)),
            (
                "occurred_at".to_owned(),
                text(&event.occurred_at.to_string()),
            ),
            ("status".to_owned(), text("PENDING")),
        ])
    }

    /// Marks an event. Returns `false` if it was not pending.
    pub(crate) fn mark(&mut self, instance: &str, key: &EventKey) -> bool {
        self.settle(instance, key, Status::Published)
    }

    /// Quarantines an event, which must have a flaw. Returns `false` if it was not pending.
    pub(crate) fn quarantine(&mut self, instance: &str, key: &EventKey) -> bool {
        if self.events[key].flaw.is_none() {
            self.violations
                .push(format!("{instance} quarantined the valid event {key:?}"));
        }
        self.settle(instance, key, Status::Failed)
    }

    fn settle(&mut self, instance: &str, key: &EventKey, status: Status) -> bool {
        for unsettled in self.unsettled.values_mut() {
            unsettled.remove(key);
        }
        let unindexed_at = Instant::now() + self.lag();
        let Some(event) = self.events.get_mut(key) else {
            return false;
        };
        if !event.is_pending() {
            return false;
        }
        event.status = status;
        event.settled_at = Some(Instant::now());
        event.unindexed_at = Some(unindexed_at);
        self.log(format!(
            "{instance} marks {}:{} {status:?}",
            key.aggregate_id, key.sequence
        ));
        self.append(key, false);
        true
    }

    /// Returns `true` if the queue rejects this event.
    pub(crate) fn is_refused(&self, key: &EventKey) -> bool {
        self.events[key].flaw == Some(Flaw::Refused)
    }

    /// Removes a random item, whatever its status.
    pub(crate) fn delete_one(&mut self) {
        let unindexed_at = Instant::now() + self.lag();
        let at = self.random.usize(..self.events.len().max(1));
        let Some((key, event)) = self.events.iter_mut().nth(at) else {
            return;
        };
        event.deleted = true;
        event.unindexed_at.get_or_insert(unindexed_at);
        let key = key.clone();
        for unsettled in self.unsettled.values_mut() {
            unsettled.remove(&key);
        }
        self.faults.note("event deleted");
        self.log(format!("delete {}:{}", key.aggregate_id, key.sequence));
    }
}
