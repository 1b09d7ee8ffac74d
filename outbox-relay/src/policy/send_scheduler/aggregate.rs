//! Events of one aggregate, of which at most one is being sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::policy::record_classifier::Event;

#[derive(Debug)]
pub(super) struct Aggregate<A> {
    /// By sequence.
    pub(super) events: BTreeMap<u64, ScheduledEvent<A>>,
    pub(super) state: AggregateState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateState {
    /// No event is waiting.
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
    /// Number of sends so far.
    pub(super) attempts: u64,
    /// Its batch was refused without naming the entry at fault, so it is sent in a batch of its
    /// own.
    pub(super) isolated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventState {
    Waiting,
    Sending,
    /// In its queue and not yet marked.
    Sent,
}

impl<A> Aggregate<A> {
    pub(super) const fn new() -> Self {
        Self {
            events: BTreeMap::new(),
            state: AggregateState::Idle,
        }
    }

    /// Adds an event. An event that was read twice is kept once, with both acknowledgements.
    pub(super) fn push(&mut self, event: Arc<Event>, ack: A) {
        let scheduled = self
            .events
            .entry(event.sequence)
            .or_insert_with(|| ScheduledEvent {
                event,
                acks: Vec::new(),
                state: EventState::Waiting,
                attempts: 0,
                isolated: false,
            });
        scheduled.acks.push(ack);
    }

    /// Returns the waiting event with the lowest sequence.
    pub(super) fn first_waiting(&mut self) -> Option<&mut ScheduledEvent<A>> {
        self.events
            .values_mut()
            .find(|scheduled| scheduled.state == EventState::Waiting)
    }
}
