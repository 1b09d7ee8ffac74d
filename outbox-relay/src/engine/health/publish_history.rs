//! Recently published events and publishing rates of this instance, for the console.
//!
//! The history is bounded, kept in memory, and written only when an event is published, quarantined
//! or counted, so it costs nothing while the relay is idle. An entry takes a few hundred bytes;
//! [`MAX_TEXT`] bounds an unusually large one.

use std::collections::VecDeque;
use std::sync::Arc;

use outbox::item::attribute;
use outbox::timestamp::Timestamp;
use serde::Serialize;

use crate::policy::record_classifier::Event;
use crate::ports::EventKey;

/// Maximum number of published events in the history.
const MAX_RECORDS: usize = 500;

/// Duration of one [`HistorySlot`].
pub const SLOT_SECONDS: i64 = 5;

/// Maximum number of slots in the history: half an hour.
const MAX_SLOTS: usize = 360;

/// Maximum length of an event type in the history, in bytes. DynamoDB limits keys to 2,048 bytes;
/// it does not limit an event type.
const MAX_TEXT: usize = 256;

/// Published event in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishRecord {
    pub key: EventKey,
    pub event_id: String,
    pub event_type: String,
    pub queue: String,
    /// `stream` or `sweep`.
    pub path: &'static str,
    pub occurred_at: Option<Timestamp>,
    pub published_at: Timestamp,
}

impl PublishRecord {
    pub(crate) fn of(event: &Event, path: &'static str, at: Timestamp) -> Self {
        let event_type =
            event.message.attributes.iter().find_map(|(name, value)| {
                (*name == attribute::EVENT_TYPE).then(|| truncate(value))
            });
        Self {
            key: event.key.clone(),
            event_id: event.event_id.clone(),
            event_type: event_type.unwrap_or_default(),
            queue: event.queue.name().to_owned(),
            path,
            occurred_at: event.occurred_at,
            published_at: at,
        }
    }
}

/// Counts of one time slot of [`SLOT_SECONDS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HistorySlot {
    /// Start in epoch seconds, a multiple of [`SLOT_SECONDS`].
    pub start: i64,
    pub published: u64,
    pub quarantined: u64,
    /// Publish lag of the published events whose `occurred_at` is known: their number, the sum of
    /// their lags, and the longest lag.
    pub lag_count: u64,
    pub lag_total_ms: u64,
    pub lag_max_ms: u64,
    /// Pending events of the table at the last count in this slot.
    pub pending: Option<u64>,
}

/// Most recent events and slots.
#[derive(Debug, Default)]
pub(crate) struct PublishHistory {
    /// Oldest first. The n-th event since the start has number n, from 1.
    records: VecDeque<Arc<PublishRecord>>,
    count: u64,
    /// Oldest first, without slots in which nothing was recorded.
    slots: VecDeque<HistorySlot>,
}

impl PublishHistory {
    pub(crate) fn record_published(&mut self, record: PublishRecord) {
        let lag = record
            .occurred_at
            .map(|at| record.published_at.as_millis() - at.as_millis());
        let slot = self.slot(record.published_at);
        slot.published += 1;
        if let Some(lag) = lag {
            // The clocks of two machines differ, so a lag may be negative.
            let lag = u64::try_from(lag).unwrap_or(0);
            slot.lag_count += 1;
            slot.lag_total_ms = slot.lag_total_ms.saturating_add(lag);
            slot.lag_max_ms = slot.lag_max_ms.max(lag);
        }
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(Arc::new(record));
        self.count += 1;
    }

    pub(crate) fn record_quarantined(&mut self, at: Timestamp) {
        self.slot(at).quarantined += 1;
    }

    pub(crate) fn record_pending(&mut self, count: u64, at: Timestamp) {
        self.slot(at).pending = Some(count);
    }

    /// Returns the events after number `seen` that are still in the history, oldest first, and the
    /// number of the last event.
    pub(crate) fn after(&self, seen: u64) -> (Vec<Arc<PublishRecord>>, u64) {
        let new = usize::try_from(self.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let known = self.records.len().saturating_sub(new);
        (
            self.records.iter().skip(known).cloned().collect(),
            self.count,
        )
    }

    /// Returns the slots that start at `start` or later, oldest first.
    pub(crate) fn slots_from(&self, start: i64) -> Vec<HistorySlot> {
        let old = self.slots.partition_point(|slot| slot.start < start);
        self.slots.iter().skip(old).cloned().collect()
    }

    /// Returns the slot of `at`, or the latest slot if the wall clock was set back.
    fn slot(&mut self, at: Timestamp) -> &mut HistorySlot {
        let start = at.as_seconds().div_euclid(SLOT_SECONDS) * SLOT_SECONDS;
        if self.slots.back().is_none_or(|last| last.start < start) {
            if self.slots.len() == MAX_SLOTS {
                self.slots.pop_front();
            }
            self.slots.push_back(HistorySlot {
                start,
                ..HistorySlot::default()
            });
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }
}

/// Returns the first [`MAX_TEXT`] bytes of `text`, or fewer to end between characters.
fn truncate(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: i64, lag_ms: i64) -> PublishRecord {
        let published_at = Timestamp::from_millis(n * 1_000);
        PublishRecord {
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
        let mut history = PublishHistory::default();
        let count = 10_000;
        for n in 0..count {
            history.record_published(record(n, 10));
        }
        let (events, last) = history.after(0);
        assert_eq!((events.len(), last), (MAX_RECORDS, 10_000));
        assert_eq!(events[MAX_RECORDS - 1].event_id, "o-9999:1");
        assert_eq!(history.slots_from(0).len(), MAX_SLOTS);
    }

    #[test]
    fn a_long_text_is_truncated_between_characters() {
        assert_eq!(truncate("order.placed"), "order.placed");
        assert_eq!(
            truncate(&format!("a{}", "é".repeat(500))).len(),
            MAX_TEXT - 1
        );
    }

    #[test]
    fn only_events_after_the_last_seen_one_are_returned() {
        let mut history = PublishHistory::default();
        history.record_published(record(1, 0));
        let (_, seen) = history.after(0);
        history.record_published(record(2, 0));
        let (new, seen) = history.after(seen);
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].event_id, "o-2:1");
        assert!(history.after(seen).0.is_empty());
    }

    #[test]
    fn a_slot_sums_the_events_of_its_time() {
        let mut history = PublishHistory::default();
        history.record_published(record(10, 40));
        history.record_published(record(14, 20));
        history.record_published(record(14, -5));
        history.record_quarantined(Timestamp::from_millis(14_999));
        history.record_pending(7, Timestamp::from_millis(15_000));
        let slots = history.slots_from(10);
        assert_eq!(
            slots,
            [
                HistorySlot {
                    start: 10,
                    published: 3,
                    quarantined: 1,
                    lag_count: 3,
                    lag_total_ms: 60,
                    lag_max_ms: 40,
                    pending: None,
                },
                HistorySlot {
                    start: 15,
                    pending: Some(7),
                    ..HistorySlot::default()
                }
            ]
        );
        assert_eq!(history.slots_from(15).len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_slots_in_order() {
        let mut history = PublishHistory::default();
        history.record_quarantined(Timestamp::from_millis(20_000));
        history.record_quarantined(Timestamp::from_millis(3_000));
        assert_eq!(history.slots_from(0).len(), 1);
    }
}
