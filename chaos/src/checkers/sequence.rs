//! Checks the per-aggregate order: as relays send events, and as a FIFO queue delivers them.

use std::collections::{BTreeSet, HashMap};

use super::super::history::{History, Publish};
use super::{Findings, Invariant};

/// Checks the order in which relays first send events, and the order of first deliveries from a
/// FIFO queue.
pub(super) fn order(history: &History, found: &mut Findings) {
    sent_in_order(history, found);
    delivered_in_order(history, found);
}

/// Checks the order of sends. Several requests are in flight at once, so an event is late only if a
/// later event was accepted before the first send of the earlier one began.
fn sent_in_order(history: &History, found: &mut Findings) {
    let mut first: HashMap<&str, HashMap<u64, &Publish>> = HashMap::new();
    for publish in &history.publishes {
        let events = first.entry(&publish.aggregate_id).or_default();
        let earliest = events.entry(publish.sequence).or_insert(publish);
        if publish.at < earliest.at {
            *earliest = publish;
        }
    }
    for (aggregate_id, events) in first {
        let mut events: Vec<&Publish> = events.into_values().collect();
        events.sort_by_key(|publish| publish.sequence);
        // From the last to the first: the later event that was accepted first.
        let mut overtaking: Option<&Publish> = None;
        for publish in events.into_iter().rev() {
            if let Some(later) = overtaking
                && later.answered_at < publish.at
            {
                found.add(
                    Invariant::Order,
                    later.at,
                    format!(
                        "event {} of aggregate {aggregate_id} was sent at {} ms and accepted before event {} was first sent at {} ms; expected is the order of their sequence",
                        later.sequence, later.at, publish.sequence, publish.at
                    ),
                );
            }
            if overtaking.is_none_or(|later| publish.answered_at < later.answered_at) {
                overtaking = Some(publish);
            }
        }
    }
}

/// Checks the order of deliveries from FIFO queues.
fn delivered_in_order(history: &History, found: &mut Findings) {
    let fifo: HashMap<&str, &Publish> = history
        .publishes
        .iter()
        .filter(|publish| publish.queue.ends_with(".fifo"))
        .map(|publish| (publish.event_id.as_str(), publish))
        .collect();
    let mut seen: HashMap<&str, BTreeSet<u64>> = HashMap::new();
    for delivery in &history.deliveries {
        let Some(publish) = fifo.get(delivery.event_id.as_str()) else {
            continue;
        };
        let seen = seen.entry(&publish.aggregate_id).or_default();
        if seen.insert(publish.sequence)
            && let Some(&latest) = seen.last()
            && latest > publish.sequence
        {
            found.add(
                Invariant::Order,
                delivery.at,
                format!(
                    "expected event {1} of aggregate {0} before event {latest}, but it was first delivered after it",
                    publish.aggregate_id, publish.sequence
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations, publish, unmark};
    use super::*;

    #[test]
    fn a_later_event_sent_first_is_detected() {
        assert_violations(Invariant::Order, 1, |history| {
            for publish in &mut history.publishes {
                if publish.event_id == "steps:2" {
                    publish.at = 3_001;
                    publish.answered_at = 3_009;
                }
            }
        });
    }

    #[test]
    fn a_fifo_queue_that_delivers_events_in_another_order_is_detected() {
        let swap = |history: &mut History| {
            for delivery in &mut history.deliveries {
                delivery.event_id = match delivery.event_id.as_str() {
                    "steps:2" => "steps:3".to_owned(),
                    "steps:3" => "steps:2".to_owned(),
                    _ => continue,
                };
            }
        };
        assert_violations(Invariant::Order, 1, swap);
        assert_valid(|history| {
            swap(history);
            for publish in &mut history.publishes {
                publish.queue = "standard".to_owned();
            }
        });
    }

    #[test]
    fn overlapping_sends_are_in_order() {
        assert_valid(|history| {
            for publish in &mut history.publishes {
                if publish.event_id == "steps:2" {
                    publish.at = 3_001;
                    publish.answered_at = 3_010;
                }
            }
        });
    }

    #[test]
    fn a_late_repeat_of_an_earlier_event_is_in_order() {
        assert_valid(|history| {
            unmark(history, "steps");
            history
                .publishes
                .push(publish("relay-2", 13_500, "steps", 1));
            // The kill of the relay that sent it before is its cause.
        });
    }
}
