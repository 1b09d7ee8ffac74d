//! What this instance published lately and how fast, for whoever looks.
//!
//! Bounded, in memory, and written only when something happens: it costs
//! nothing while the relay is idle. An event of a few hundred bytes takes as
//! much here; [`MAX_TEXT`] bounds what a strange one takes.

use std::collections::VecDeque;
use std::sync::Arc;

use outbox::item::attribute;
use outbox::timestamp::Timestamp;
use serde::Serialize;

use crate::engine::shard_state::Path;
use crate::policy::record_classifier::Event;
use crate::ports::EventKey;

/// Published events that are remembered.
const KEPT: usize = 500;

/// The span of one [`Slot`].
pub const SLOT_SECONDS: i64 = 5;

/// Slots that are remembered: half an hour.
const SLOTS: usize = 360;

/// Bytes of a text that are remembered. DynamoDB's keys are bounded by 2,048;
/// an event type is not.
const MAX_TEXT: usize = 256;

/// An event that a queue took.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub key: EventKey,
    pub event_id: String,
    pub event_type: String,
    pub queue: String,
    /// `stream` or `sweep`.
    pub path: &'static str,
    pub occurred_at: Option<Timestamp>,
    pub published_at: Timestamp,
}

impl Sent {
    pub(crate) fn of(event: &Event, path: Path, at: Timestamp) -> Self {
        let event_type = event
            .message
            .attributes
            .iter()
            .find_map(|(name, value)| (*name == attribute::EVENT_TYPE).then(|| cut(value)));
        Self {
            key: event.key.clone(),
            event_id: event.event_id.clone(),
            event_type: event_type.unwrap_or_default(),
            queue: event.queue.name().to_owned(),
            path: path.as_str(),
            occurred_at: event.occurred_at,
            published_at: at,
        }
    }
}

/// What happened in [`SLOT_SECONDS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its beginning, in epoch seconds; a multiple of [`SLOT_SECONDS`].
    pub start: i64,
    pub published: u64,
    pub quarantined: u64,
    /// How long the published events took from `occurred_at`: the sum, and the
    /// longest, in milliseconds. Those whose time is not known are not in it.
    pub lag_count: u64,
    pub lag_total_ms: u64,
    pub lag_max_ms: u64,
    /// Pending events of the table, when they were counted last in this slot.
    pub pending: Option<u64>,
}

/// The last events and slots.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// The oldest first. The n-th event ever has number n, from 1.
    sent: VecDeque<Arc<Sent>>,
    numbered: u64,
    /// The oldest first; those in which nothing happened are left out.
    slots: VecDeque<Slot>,
}

impl Recent {
    pub(crate) fn published(&mut self, sent: Sent) {
        let lag = sent
            .occurred_at
            .map(|at| sent.published_at.as_millis() - at.as_millis());
        let slot = self.slot(sent.published_at);
        slot.published += 1;
        if let Some(lag) = lag {
            // Clocks of two machines differ: an event may seem to come early.
            let lag = u64::try_from(lag).unwrap_or(0);
            slot.lag_count += 1;
            slot.lag_total_ms = slot.lag_total_ms.saturating_add(lag);
            slot.lag_max_ms = slot.lag_max_ms.max(lag);
        }
        if self.sent.len() == KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(Arc::new(sent));
        self.numbered += 1;
    }

    pub(crate) fn quarantined(&mut self, at: Timestamp) {
        self.slot(at).quarantined += 1;
    }

    pub(crate) fn pending(&mut self, count: u64, at: Timestamp) {
        self.slot(at).pending = Some(count);
    }

    /// The remembered events after the `seen`-th, the oldest first, and the
    /// number of the last.
    pub(crate) fn after(&self, seen: u64) -> (Vec<Arc<Sent>>, u64) {
        let new = usize::try_from(self.numbered.saturating_sub(seen)).unwrap_or(usize::MAX);
        let known = self.sent.len().saturating_sub(new);
        (
            self.sent.iter().skip(known).cloned().collect(),
            self.numbered,
        )
    }

    /// The remembered slots that begin at `start` or later, the oldest first.
    pub(crate) fn slots_from(&self, start: i64) -> Vec<Slot> {
        let old = self.slots.partition_point(|slot| slot.start < start);
        self.slots.iter().skip(old).cloned().collect()
    }

    /// The slot of `at`. When the wall clock was set back, the latest one.
    fn slot(&mut self, at: Timestamp) -> &mut Slot {
        let start = at.as_seconds().div_euclid(SLOT_SECONDS) * SLOT_SECONDS;
        if self.slots.back().is_none_or(|last| last.start < start) {
            if self.slots.len() == SLOTS {
                self.slots.pop_front();
            }
            self.slots.push_back(Slot {
                start,
                ..Slot::default()
            });
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }
}

/// At most [`MAX_TEXT`] bytes of `text`.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(n: i64, lag_ms: i64) -> Sent {
        let published_at = Timestamp::from_millis(n * 1_000);
        Sent {
            key: EventKey {
                aggregate_id: format!("o-{n}"),
                sequence: "1".to_owned(),
            },
            event_id: format!("o-{n}:1"),
            event_type: "order.placed".to_owned(),
            queue: "q".to_owned(),
            path: "stream",
            occurred_at: Some(Timestamp::from_millis(n * 1_000 - lag_ms)),
            published_at,
        }
    }

    #[test]
    fn only_the_latest_events_and_slots_are_kept() {
        let mut recent = Recent::default();
        let count = 10_000;
        for n in 0..count {
            recent.published(sent(n, 10));
        }
        let (events, last) = recent.after(0);
        assert_eq!((events.len(), last), (KEPT, 10_000));
        assert_eq!(events[KEPT - 1].event_id, "o-9999:1");
        assert_eq!(recent.slots_from(0).len(), SLOTS);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("order.placed"), "order.placed");
        assert_eq!(cut(&format!("a{}", "é".repeat(500))).len(), MAX_TEXT - 1);
    }

    #[test]
    fn a_viewer_gets_what_it_has_not_seen() {
        let mut recent = Recent::default();
        recent.published(sent(1, 0));
        let (_, seen) = recent.after(0);
        recent.published(sent(2, 0));
        let (new, seen) = recent.after(seen);
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].event_id, "o-2:1");
        assert!(recent.after(seen).0.is_empty());
    }

    #[test]
    fn a_slot_adds_up_what_happened_in_it() {
        let mut recent = Recent::default();
        recent.published(sent(10, 40));
        recent.published(sent(14, 20));
        recent.published(sent(14, -5));
        recent.quarantined(Timestamp::from_millis(14_999));
        recent.pending(7, Timestamp::from_millis(15_000));
        let slots = recent.slots_from(10);
        assert_eq!(
            slots,
            [
                Slot {
                    start: 10,
                    published: 3,
                    quarantined: 1,
                    lag_count: 3,
                    lag_total_ms: 60,
                    lag_max_ms: 40,
                    pending: None,
                },
                Slot {
                    start: 15,
                    pending: Some(7),
                    ..Slot::default()
                }
            ]
        );
        assert_eq!(recent.slots_from(15).len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_slot_out_of_order() {
        let mut recent = Recent::default();
        recent.quarantined(Timestamp::from_millis(20_000));
        recent.quarantined(Timestamp::from_millis(3_000));
        assert_eq!(recent.slots_from(0).len(), 1);
    }
}
