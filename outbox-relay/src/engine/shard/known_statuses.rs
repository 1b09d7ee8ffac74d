//! Statuses of the events before those of a page, by which the sequence gate decides (the
//! "per-aggregate order" rule).

use std::collections::HashSet;

use outbox::Status;

use crate::engine::order_gate::{NearestEarlier, predecessor};
use crate::engine::outbox_reader::EventStatuses;
use crate::policy::record_classifier::Event;
use crate::ports::{EventKey, StoredStatus};

/// Assumed status of a predecessor whose look-up is not due.
pub(super) const PENDING: StoredStatus = StoredStatus {
    status: Status::Pending,
    is_deferred: false,
    replays: 0,
};

/// Statuses of earlier events, as they were looked up for the events of one page.
pub(super) struct KnownStatuses {
    pub(super) statuses: EventStatuses,
    pub(super) nearest: NearestEarlier,
    /// Events of the page that wait for a deferred one, directly or indirectly.
    pub(super) behind_deferred: HashSet<EventKey>,
}

impl KnownStatuses {
    /// Returns the status by which the event with this key decides about the next one.
    pub(super) fn status_of(&self, key: &EventKey) -> Option<StoredStatus> {
        if self.statuses.contains(key) && !self.behind_deferred.contains(key) {
            return self.statuses.of(key);
        }
        // The event with this key waits here as well, or its next look-up is not due: the next
        // event waits until then.
        Some(StoredStatus {
            is_deferred: self.behind_deferred.contains(key),
            ..PENDING
        })
    }

    /// Records that an event of the page waits for its predecessor.
    pub(super) fn record_waiting(&mut self, event: &Event) {
        let key = predecessor(event);
        if self.statuses.is_deferred(&key) || self.behind_deferred.contains(&key) {
            self.behind_deferred.insert(event.key.clone());
        }
    }
}
