//! Events of one aggregate keep their order: as relays send them, and as a FIFO
//! queue hands them out.

use std::collections::{BTreeSet, HashMap};

use super::super::history::{History, Publish};
use super::{Findings, Invariant};

/// Order is promised for what relays send, and of a FIFO queue for what it
/// hands out.
pub(super) fn order(history: &History, found: &mut Findings) {
    sent_in_order(history, found);
    delivered_in_order(history, found);
}

/// Several requests are under way at once, so an event is late only when a
/// later one's was answered before its own was sent for the first time.
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
        // From the last to the first: of the later ones, the one answered first.
        let mut overtaking: Option<&Publish> = None;
        for publish in events.into_iter().rev() {
            if let Some(later) = overtaking
                && later.answered_at < publish.at
            {
                found.add(
                    Invariant::Order,
                    later.at,
                    format!(
                        "of {aggregate_id} event {} was sent at {} ms, before event {} at {} ms",
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
                    "of {} event {} was delivered first after event {latest}",
                    publish.aggregate_id, publish.sequence
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, publish, unmark};
    use super::*;

    #[test]
    fn a_later_event_that_was_sent_first_is_caught() {
        caught(Invariant::Order, 1, |history| {
            for publish in &mut history.publishes {
                if publish.event_id == "steps:2" {
                    publish.at = 3_001;
                    publish.answered_at = 3_009;
                }
            }
        });
    }

    #[test]
    fn a_fifo_queue_that_hands_events_out_in_another_order_is_caught() {
        let swap = |history: &mut History| {
            for delivery in &mut history.deliveries {
                delivery.event_id = match delivery.event_id.as_str() {
                    "steps:2" => "steps:3".to_owned(),
                    "steps:3" => "steps:2".to_owned(),
                    _ => continue,
                };
            }
        };
        caught(Invariant::Order, 1, swap);
        allowed(|history| {
            swap(history);
            for publish in &mut history.publishes {
                publish.queue = "standard".to_owned();
            }
        });
    }

    #[test]
    fn sends_that_overlap_are_in_order() {
        allowed(|history| {
            for publish in &mut history.publishes {
                if publish.event_id == "steps:2" {
                    publish.at = 3_001;
                    publish.answered_at = 3_010;
                }
            }
        });
    }

    #[test]
    fn an_earlier_event_that_is_only_repeated_late_is_in_order() {
        allowed(|history| {
            unmark(history, "steps");
            history
                .publishes
                .push(publish("relay-2", 13_500, "steps", 1));
            // Sent before by the relay that was killed: its cause.
        });
    }
}
