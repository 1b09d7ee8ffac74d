//! The events of one aggregate, one of which at most is being sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox::timestamp::Timestamp;

use crate::policy::record_classifier::Event;

#[derive(Debug)]
pub(super) struct Aggregate<A> {
    pub(super) events: BTreeMap<u64, Slot<A>>,
    pub(super) turn: Turn,
}

/// Whose turn it is in an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing waits.
    Idle,
    /// Stands in its lane, or among the delayed.
    Queued,
    /// One event is being sent.
    Sending,
}

#[derive(Debug)]
pub(super) struct Slot<A> {
    pub(super) event: Arc<Event>,
    pub(super) acks: Vec<A>,
    pub(super) state: State,
    /// Sends that were tried so far.
    pub(super) attempts: u64,
    /// Its batch was refused without saying why: it is sent by itself.
    pub(super) alone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Sending,
    Sent { message_id: String, at: Timestamp },
}

impl<A> Aggregate<A> {
    pub(super) fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            turn: Turn::Idle,
        }
    }

    /// The same event read twice is kept once, with both acknowledgements.
    pub(super) fn push(&mut self, event: Arc<Event>, ack: A) {
        let slot = self.events.entry(event.sequence).or_insert_with(|| Slot {
            event,
            acks: Vec::new(),
            state: State::Waiting,
            attempts: 0,
            alone: false,
        });
        slot.acks.push(ack);
    }

    pub(super) fn first_waiting(&mut self) -> Option<&mut Slot<A>> {
        self.events
            .values_mut()
            .find(|slot| slot.state == State::Waiting)
    }
}
