//! Takeover filter: looks up the events that the previous owner of the shard may have published
//! (the "takeover" rule).

use crate::engine::outbox_reader::{EventStatuses, OutboxReader};
use crate::engine::shard::read_event::ReadEvent;
use crate::policy::takeover_dedup::TakeoverDedup;

/// Events of a page, with the statuses of those that were looked up.
pub(super) struct CheckedEvents {
    pub(super) events: Vec<ReadEvent>,
    pub(super) statuses: EventStatuses,
}

pub(super) struct TakeoverFilter {
    pub(super) dedup: TakeoverDedup,
    pub(super) outbox: OutboxReader,
}

impl TakeoverFilter {
    /// Looks up the events within the takeover window. Events that wait for a predecessor are
    /// looked up again each time, since the previous owner may have settled them meanwhile.
    pub(super) async fn check(&mut self, events: Vec<ReadEvent>) -> CheckedEvents {
        let keys = events
            .iter()
            .filter(|read| read.in_takeover_window)
            .map(|read| read.event.key.clone())
            .collect();
        let statuses = self.outbox.statuses(keys).await;
        let pending = events
            .iter()
            .filter(|read| read.in_takeover_window && read.look_ups.is_first())
            .filter(|read| !statuses.is_settled(&read.event))
            .count();
        self.dedup.record_pending(pending);
        CheckedEvents { events, statuses }
    }
}
