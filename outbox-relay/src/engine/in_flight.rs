//! Events in flight: dispatched and not yet settled.

use std::sync::Arc;

use tokio::time::Instant;

use super::buffer_budget::EventReservation;
use super::shard_state::ShardState;
use crate::policy::checkpoint_tracker::RecordNumber;
use crate::policy::event_source::EventSource;
use crate::policy::send_scheduler::Permission;
use crate::ports::{EventKey, SequenceNumber, ShardId};

/// Stream record of an event.
#[derive(Clone, Debug)]
pub(crate) struct RecordRef {
    pub(crate) number: RecordNumber,
    pub(crate) position: SequenceNumber,
}

/// Acknowledgement of one event in flight. It holds the event's share of the buffer budget until
/// it is settled or dropped; dropping it forgets the event, which its next reader reads again.
#[derive(Debug)]
pub(crate) struct Ack {
    shard: Arc<ShardState>,
    source: EventSource,
    /// Record that settling it settles; `None` for an event that was read from the table.
    record: Option<RecordNumber>,
    /// Key of an event that was read from the table.
    table_key: Option<EventKey>,
    _budget: EventReservation,
}

impl Ack {
    /// Records that an event of `shard` is in flight. `record` is `None` if it was read from the
    /// table.
    pub(crate) fn new(
        shard: &Arc<ShardState>,
        key: &EventKey,
        record: Option<RecordRef>,
        budget: EventReservation,
    ) -> Self {
        let table_key = record.is_none().then(|| key.clone());
        shard.begin_flight(table_key.as_ref());
        let (source, record) = match record {
            Some(RecordRef { number, position }) => {
                let shard = shard.id.clone();
                (EventSource::Stream { shard, position }, Some(number))
            }
            None => (EventSource::Table, None),
        };
        Self {
            shard: Arc::clone(shard),
            source,
            record,
            table_key,
            _budget: budget,
        }
    }

    pub(crate) const fn source(&self) -> &EventSource {
        &self.source
    }

    /// Returns `true` if the event was read from the stream.
    pub(crate) const fn is_of_record(&self) -> bool {
        self.record.is_some()
    }

    /// Returns `true` if the gate of a shard dispatched the event, and not a sweeper.
    pub(crate) fn is_of_shard(&self) -> bool {
        self.shard.id.is_shard()
    }

    /// Returns `true` if the event was read from the stream of the shard.
    pub(crate) fn is_of_record_in(&self, shard: &ShardId) -> bool {
        self.is_of_record() && self.shard.id == *shard
    }

    /// Returns the shard whose gate dispatched the event, an event of this aggregate.
    pub(crate) fn dispatched_by(&self, aggregate_id: &str) -> DispatchedBy {
        DispatchedBy {
            shard: Arc::clone(&self.shard),
            aggregate_id: aggregate_id.to_owned(),
        }
    }

    /// Records that the event is about to be quarantined: it no longer counts as dispatched.
    pub(crate) fn record_rejected(&self) {
        if let Some(key) = &self.table_key {
            self.shard.record_rejected(key);
        }
    }

    /// Settles the event: it is published and marked, quarantined, deferred, or was settled before.
    pub(crate) fn settle(self) {
        if let Some(number) = self.record {
            self.shard.tracker().settle(number);
        }
    }
}

/// Shard whose gate dispatched events of an aggregate.
#[derive(Debug)]
pub(crate) struct DispatchedBy {
    shard: Arc<ShardState>,
    aggregate_id: String,
}

impl DispatchedBy {
    /// Returns the address of the shard's state and the aggregate's id: unique as long as this
    /// value exists. Two leases of one shard have different states.
    pub(crate) fn identity(&self) -> (usize, String) {
        let shard = Arc::as_ptr(&self.shard).addr();
        (shard, self.aggregate_id.clone())
    }

    /// Makes the gate forget which events of the aggregate it dispatched, so that it looks up the
    /// predecessor of the next one in the table.
    pub(crate) fn forget(&self) {
        self.shard.sequences().forget(&self.aggregate_id);
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        self.shard.end_flight(self.table_key.as_ref());
    }
}

/// Returns the permission to send an event with these acknowledgements: the most permissive one,
/// since an event that was read from two shards may be sent by the lease of either.
pub(crate) fn permission(acks: &[Ack], now: Instant) -> Permission {
    acks.iter()
        .map(|ack| ack.shard.permission(now))
        .reduce(|one, other| match (one, other) {
            (Permission::Send, _) | (_, Permission::Send) => Permission::Send,
            (Permission::Later(at), _) | (_, Permission::Later(at)) => Permission::Later(at),
            (Permission::Never, Permission::Never) => Permission::Never,
        })
        .unwrap_or(Permission::Never)
}
