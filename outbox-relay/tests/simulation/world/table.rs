//! Model of the outbox table and its index.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use outbox::Status;
use outbox::item::{attribute, bucket_name};
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{
    Deferral, EarlierEvent, EventKey, Generation, Item, PendingCursor, PendingEntry, PendingPage,
    StoredStatus,
};
use tokio::time::Instant;

use super::{QUEUES, World};

/// Maximum number of items that a query of the index returns.
const PENDING_PAGE: usize = 5;

/// Flaw of an event that cannot be sent.
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
    /// Determines the queue.
    pub(crate) event_type: &'static str,
    pub(crate) flaw: Option<Flaw>,
    /// The relay left it to its table path.
    pub(crate) deferred: bool,
    /// Time of its deferral, by the clock of the instance that deferred it.
    pub(super) deferred_at: Option<String>,
    /// Time of its first deferral.
    pub(crate) deferred_since: Option<Instant>,
    /// Id that its writer chose.
    pub(crate) event_id: Option<String>,
    /// Its writer stored `state_bucket`.
    pub(crate) wrote_bucket: bool,
    /// It has `state_bucket`, so that the index contains it.
    pub(crate) has_bucket: bool,
    /// Value of `state_bucket` for its aggregate.
    pub(super) bucket: String,
    /// Its record was trimmed, and it is in no index.
    pub(crate) is_lost: bool,
    pub(crate) payload_bytes: usize,
    /// The item was removed.
    pub(crate) deleted: bool,
    /// Attributes that the relay and operators add.
    pub(crate) added: Added,
    /// Time from which the index contains the event as pending.
    pub(crate) indexed_at: Instant,
    /// Time from which the index no longer contains it.
    pub(crate) unindexed_at: Option<Instant>,
    /// Time at which it was last marked, quarantined or discarded.
    pub(crate) settled_at: Option<Instant>,
    /// Time of the publication of each generation, by the number of replays.
    pub(crate) published: BTreeMap<u64, Instant>,
    /// It was quarantined, so later events of its aggregate have passed it.
    pub(crate) was_failed: bool,
    pub(crate) was_discarded: bool,
    /// Number of times that an operator made it pending again.
    pub(crate) republished: u64,
}

/// Attributes that are added to an event after its writer stored it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Added {
    pub(crate) replays: u64,
    pub(crate) retried_at: Option<String>,
    pub(crate) replayed_at: Option<String>,
    pub(crate) failed_at: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) published_at: Option<String>,
    /// Epoch seconds.
    pub(crate) expires_at: Option<i64>,
}

impl Added {
    /// Adds the attributes to an item.
    fn add_to(&self, item: &mut Item) {
        for (name, value) in [
            (attribute::RETRIED_AT, &self.retried_at),
            (attribute::REPLAYED_AT, &self.replayed_at),
            (attribute::FAILED_AT, &self.failed_at),
            (attribute::MESSAGE_ID, &self.message_id),
            (attribute::PUBLISHED_AT, &self.published_at),
        ] {
            if let Some(value) = value {
                item.insert(name.to_owned(), text(value));
            }
        }
        if self.replays > 0 {
            let replays = AttributeValue::N(self.replays.to_string());
            item.insert(attribute::REPLAYS.to_owned(), replays);
        }
        if let Some(at) = self.expires_at {
            let expires_at = AttributeValue::N(at.to_string());
            item.insert(attribute::EXPIRES_AT.to_owned(), expires_at);
        }
    }
}

impl EventModel {
    pub(crate) fn is_pending(&self) -> bool {
        !self.deleted && self.status == Status::Pending
    }

    /// Returns `true` if it is quarantined, or pending and possibly held by one that is.
    pub(crate) fn is_held_up(&self) -> bool {
        let is_open = matches!(self.status, Status::Pending | Status::Failed);
        is_open && !self.deleted && !self.is_lost
    }

    /// Returns `true` if it is pending as its writer stored it: no checkpoint may be past it.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_pending() && self.settled_at.is_none() && !self.deferred
    }

    /// Returns `true` if it is pending and was not replayed since `generation` was read.
    pub(crate) fn is_pending_replay(&self, generation: &Generation) -> bool {
        self.is_pending() && self.added.replays == generation.replays.unwrap_or_default()
    }

    /// Returns the name of its queue in the setup.
    pub(crate) fn queue(&self) -> &'static str {
        if self.event_type.starts_with("order.") {
            QUEUES[0]
        } else {
            QUEUES[1]
        }
    }

    /// Returns `true` if the index contains it as pending.
    fn is_indexed(&self, now: Instant) -> bool {
        self.has_bucket
            && self.indexed_at <= now
            && self.unindexed_at.is_none_or(|until| now < until)
    }
}

/// Position of an event in a partition of the index.
type Position = (Timestamp, String, Option<u64>);

fn position_of(at: Timestamp, key: &EventKey) -> Position {
    (at, key.aggregate_id.clone(), key.sequence.parse().ok())
}

fn cursor_of((at, key): (Timestamp, &EventKey)) -> PendingCursor {
    PendingCursor(HashMap::from([
        (attribute::OCCURRED_AT.to_owned(), text(&at.to_string())),
        (attribute::AGGREGATE_ID.to_owned(), text(&key.aggregate_id)),
        (attribute::SEQUENCE.to_owned(), text(&key.sequence)),
    ]))
}

/// Returns the position of a cursor that [`cursor_of`] made.
fn position_of_cursor(PendingCursor(key): &PendingCursor) -> Position {
    let text = |name: &str| key[name].as_s().expect("text");
    let at = text(attribute::OCCURRED_AT).parse();
    (
        at.expect("a time"),
        text(attribute::AGGREGATE_ID).clone(),
        text(attribute::SEQUENCE).parse().ok(),
    )
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

impl World {
    /// Queries the index, which lags behind the table.
    pub(crate) fn pending(&mut self, bucket: u32, after: Option<PendingCursor>) -> PendingPage {
        let name = bucket_name(bucket);
        let now = Instant::now();
        let lags =
            |event: &EventModel| event.has_bucket && event.is_indexed(now) != event.is_pending();
        if self.events.values().any(lags) {
            self.faults.note("index lag");
        }
        let after = after.as_ref().map(position_of_cursor);
        let mut pending: Vec<_> = self
            .events
            .iter()
            .filter(|(_, event)| event.is_indexed(now) && event.bucket == name)
            .map(|(key, event)| (event.occurred_at, key))
            .filter(|(at, key)| {
                after
                    .as_ref()
                    .is_none_or(|after| position_of(*at, key) > *after)
            })
            .collect();
        pending.sort_by_cached_key(|(at, key)| position_of(*at, key));
        let more = pending.len() > PENDING_PAGE;
        pending.truncate(PENDING_PAGE);
        let next = pending.last().filter(|_| more).copied().map(cursor_of);
        PendingPage {
            entries: pending
                .into_iter()
                .filter_map(|(_, key)| PendingEntry::of(&self.pending_item(key)))
                .collect(),
            next,
        }
    }

    /// Returns the status of an event, or `None` if the item does not exist.
    pub(crate) fn status(&self, key: &EventKey) -> Option<StoredStatus> {
        let event = self.events.get(key).filter(|event| !event.deleted)?;
        Some(StoredStatus {
            status: event.status,
            is_deferred: event.deferred,
            replays: event.added.replays,
        })
    }

    /// Returns the item of an event with its status, or `None` if it does not exist.
    pub(crate) fn item(&self, key: &EventKey) -> Option<Item> {
        let stored = self.status(key)?;
        let mut item = self.pending_item(key);
        let mut set = |name: &str, value: &str| {
            item.insert(name.to_owned(), text(value));
        };
        set(attribute::STATUS, stored.status.as_str());
        if let Some(at) = &self.events[key].deferred_at {
            set(attribute::DEFERRED_AT, at);
        }
        if stored.status != Status::Pending {
            item.remove(attribute::STATE_BUCKET);
        }
        Some(item)
    }

    /// Returns the latest events of an aggregate before a sequence, the latest first.
    pub(crate) fn latest_before(
        &self,
        aggregate_id: &str,
        before: u64,
        limit: usize,
    ) -> Vec<EarlierEvent> {
        let first = EventKey {
            aggregate_id: aggregate_id.to_owned(),
            sequence: String::new(),
        };
        let keys = self.events.range(first..).map(|(key, _)| key);
        let mut found: Vec<_> = keys
            .take_while(|key| key.aggregate_id == aggregate_id)
            .filter_map(|key| Some((key.sequence.parse::<u64>().ok()?, key)))
            .filter(|(sequence, key)| *sequence < before && self.status(key).is_some())
            .collect();
        found.sort();
        found
            .into_iter()
            .rev()
            .take(limit)
            .map(|(_, key)| EarlierEvent {
                key: key.clone(),
                status: self.status(key),
            })
            .collect()
    }

    /// Defers an event. Returns `false` if it was not pending.
    pub(crate) fn defer(&mut self, instance: &str, deferral: &Deferral) -> bool {
        let Deferral {
            key,
            generation,
            deferred_at,
        } = deferral;
        for unsettled in self.unsettled.values_mut() {
            unsettled.remove(key);
        }
        let is_pending = |event: &&mut EventModel| event.is_pending_replay(generation);
        let Some(event) = self.events.get_mut(key).filter(is_pending) else {
            return false;
        };
        event.deferred = true;
        event.deferred_at = Some(deferred_at.to_string());
        event.deferred_since.get_or_insert_with(Instant::now);
        if !event.has_bucket {
            let violation = "deferral: an event that the index does not contain was deferred";
            self.violations.push(violation.to_owned());
        }
        self.log(format!(
            "{instance} defers {}:{}",
            key.aggregate_id, key.sequence
        ));
        self.append(key, false);
        true
    }

    /// Returns the item as it is pending now.
    fn pending_item(&self, key: &EventKey) -> Item {
        let mut item = self.image(key);
        let event = &self.events[key];
        event.added.add_to(&mut item);
        if event.has_bucket {
            item.insert(attribute::STATE_BUCKET.to_owned(), text(&event.bucket));
        }
        item
    }

    /// Returns the item as its writer stored it.
    pub(super) fn image(&self, key: &EventKey) -> Item {
        let event = &self.events[key];
        let payload = match event.flaw {
            Some(Flaw::Malformed) => "{oops".to_owned(),
            Some(Flaw::Refused) | None => format!("\"{}\"", "x".repeat(event.payload_bytes)),
        };
        let mut item = HashMap::from([
            (attribute::AGGREGATE_ID.to_owned(), text(&key.aggregate_id)),
            (
                attribute::SEQUENCE.to_owned(),
                AttributeValue::N(key.sequence.clone()),
            ),
            (attribute::AGGREGATE_TYPE.to_owned(), text("order")),
            (attribute::EVENT_TYPE.to_owned(), text(event.event_type)),
            (attribute::PAYLOAD.to_owned(), text(&payload)),
            (
                attribute::OCCURRED_AT.to_owned(),
                text(&event.occurred_at.to_string()),
            ),
            (attribute::STATUS.to_owned(), text("PENDING")),
        ]);
        if let Some(id) = &event.event_id {
            item.insert(attribute::EVENT_ID.to_owned(), text(id));
        }
        if event.wrote_bucket {
            item.insert(attribute::STATE_BUCKET.to_owned(), text(&event.bucket));
        }
        item
    }

    /// Returns `true` if the queue rejects this event.
    pub(crate) fn is_refused(&self, key: &EventKey) -> bool {
        self.events[key].flaw == Some(Flaw::Refused)
    }
}
