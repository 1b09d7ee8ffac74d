//! Events of one aggregate, of which at most one is being sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::EventRef;
use crate::policy::record_classifier::Event;

#[derive(Debug)]
pub(super) struct Aggregate<A> {
    /// Number of aggregates that arrived before it.
    pub(super) arrival: u64,
    pub(super) events: BTreeMap<Slot, ScheduledEvent<A>>,
    pub(super) state: AggregateState,
    /// Time of the last failure of a send of it.
    pub(super) last_failure: Option<Instant>,
}

/// Publication of one event. A replay has a slot of its own: were it merged into that of an earlier
/// publication, the mark of that one would settle it unsent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) sequence: u64,
    pub(super) replay: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateState {
    /// No event can be sent.
    Idle,
    /// Ready in a queue, or delayed after a failure.
    Queued,
    /// One event is being sent.
    Sending,
}

#[derive(Debug)]
pub(super) struct ScheduledEvent<A> {
    pub(super) event: Arc<Event>,
    pub(super) acks: Vec<A>,
    pub(super) state: EventState,
    /// It was read from the table and not from the stream.
    pub(super) is_from_table: bool,
    /// Number of sends so far.
    pub(super) attempts: u64,
    /// Its batch was refused without naming the entry at fault, so it is sent in a batch of its
    /// own.
    pub(super) isolated: bool,
    /// Time of the first failure of its own.
    pub(super) failing_since: Option<Instant>,
    /// Time at which it was last dispatched or looked up.
    pub(super) known_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventState {
    Waiting,
    Sending,
    /// In its queue and not yet marked.
    Sent,
}

impl Slot {
    pub(super) const FIRST: Self = Self {
        sequence: 0,
        replay: None,
    };

    pub(super) fn of(event: &EventRef) -> Self {
        Self {
            sequence: event.sequence,
            replay: event.replay,
        }
    }
}

impl<A> ScheduledEvent<A> {
    pub(super) fn new(event: Arc<Event>, ack: A, is_from_table: bool, now: Instant) -> Self {
        Self {
            event,
            acks: vec![ack],
            state: EventState::Waiting,
            is_from_table,
            attempts: 0,
            isolated: false,
            failing_since: None,
            known_at: now,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.state == EventState::Waiting
    }

    /// Returns `true` if the event may leave the buffer, since the table returns it.
    pub(super) fn may_be_shed(&self) -> bool {
        self.is_from_table || self.event.is_deferrable
    }
}

impl<A> Aggregate<A> {
    pub(super) const fn new(arrival: u64) -> Self {
        Self {
            arrival,
            events: BTreeMap::new(),
            state: AggregateState::Idle,
            last_failure: None,
        }
    }

    /// Returns the slot of the next event to send: the waiting one with the lowest sequence. A
    /// replay waits until an earlier publication of the same event is marked.
    pub(super) fn next_slot(&self) -> Option<Slot> {
        let mut unmarked = None;
        for (slot, scheduled) in &self.events {
            if !scheduled.is_waiting() {
                unmarked = Some(slot.sequence);
            } else if unmarked != Some(slot.sequence) {
                return Some(*slot);
            }
        }
        None
    }

    pub(super) fn next_event(&mut self) -> Option<&mut ScheduledEvent<A>> {
        let slot = self.next_slot()?;
        self.events.get_mut(&slot)
    }

    /// Returns the waiting events from `slot` on.
    pub(super) fn waiting_from(
        &self,
        slot: Slot,
    ) -> impl Iterator<Item = (Slot, &ScheduledEvent<A>)> {
        self.events
            .range(slot..)
            .filter(|(_, scheduled)| scheduled.is_waiting())
            .map(|(slot, scheduled)| (*slot, scheduled))
    }
}
