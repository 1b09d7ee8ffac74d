//! What relays sent: in order, and again only for a reason.

use std::collections::{BTreeSet, HashMap};

use super::super::history::{FaultKind, History, Publish};
use super::super::measure::repeats::Repeats;
use super::super::measure::spans::{Span, Spans};
use super::{Findings, Invariant};

/// How long an event can wait in a relay before it is sent, while the queue is
/// there: the whole buffer, behind a few requests that fail.
const WAITS_MS: u64 = 10_000;

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

pub(super) fn repeats(history: &History, found: &mut Findings) {
    let repeats = Repeats::of(history);
    sent_after_its_mark(history, &repeats, found);
    for repeat in &repeats.repeats {
        if repeat.cause.is_none() {
            let publish = repeat.publish;
            found.add(
                Invariant::Repeats,
                publish.at,
                format!(
                    "{} sent event {} again without a cause",
                    publish.relay, publish.event_id
                ),
            );
        }
    }
    let bound = history.settings.in_flight_bound;
    for (interruption, count) in repeats.interruptions.iter().zip(repeats.counts()) {
        if count.told > bound {
            let relay = interruption.relay.unwrap_or("all relays");
            found.add(
                Invariant::Repeats,
                interruption.span.from,
                format!(
                    "{} events were sent again after {} ({relay}), and at most {bound} can have been in flight",
                    count.told,
                    interruption.kind.name(),
                ),
            );
        }
    }
}

/// What is marked is not sent again, but for an event that a relay looked up
/// before its mark and sent after it: one that woke up late marked it.
fn sent_after_its_mark(history: &History, repeats: &Repeats<'_>, found: &mut Findings) {
    let outages: Spans = history
        .faults
        .iter()
        .filter(|fault| fault.kind == FaultKind::Outage)
        .map(|fault| Span::new(fault.at, fault.until.unwrap_or(fault.at)))
        .collect();
    let marks: HashMap<(&str, u64), u64> = history
        .marks
        .iter()
        .map(|mark| ((mark.aggregate_id.as_str(), mark.sequence), mark.at))
        .collect();
    for publish in repeats.repeats.iter().map(|repeat| repeat.publish) {
        let marked = marks.get(&(publish.aggregate_id.as_str(), publish.sequence));
        if let Some(&marked) = marked
            && publish.at > marked + WAITS_MS
            && !outages.touch(Span::new(marked, publish.at))
        {
            found.add(
                Invariant::Repeats,
                publish.at,
                format!(
                    "{} sent event {} again, {} ms after it was marked as published",
                    publish.relay,
                    publish.event_id,
                    publish.at - marked
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, fault, publish};
    use super::*;
    use crate::chaos::history::{CloudService, Ending, LogKind, LogLine};

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
            history
                .publishes
                .push(publish("relay-2", 13_500, "steps", 1));
            // Sent before by the relay that was killed: its cause.
        });
    }

    #[test]
    fn a_repeat_without_a_cause_is_caught() {
        caught(Invariant::Repeats, 1, |history| {
            history.publishes.push(publish("relay-2", 60_000, "o-2", 1));
        });
    }

    #[test]
    fn a_lost_answer_explains_one_repeat_and_no_more() {
        caught(Invariant::Repeats, 1, |history| {
            history
                .publishes
                .push(publish("relay-1", 3_300, "steps", 1));
        });
    }

    #[test]
    fn a_request_that_was_given_up_and_came_last_is_a_lost_answer() {
        allowed(|history| {
            history.publishes.extend([
                publish("relay-2", 60_000, "o-2", 1),
                Publish {
                    asked_at: 59_000,
                    told: false,
                    ..publish("relay-2", 61_000, "o-2", 1)
                },
            ]);
            // The first of the three was another relay's, long before.
            history
                .publishes
                .retain(|one| one.at >= 59_000 || one.aggregate_id != "o-2");
        });
    }

    #[test]
    fn more_repeats_after_a_kill_than_were_in_flight_are_caught() {
        let again = |id: &str| publish("relay-2", 13_500, id, 1);
        allowed(|history| history.publishes.push(again("o-1")));
        caught(Invariant::Repeats, 1, |history| {
            history.publishes.extend([again("o-1"), again("o-3")]);
        });
    }

    #[test]
    fn a_relay_that_stopped_in_order_explains_no_repeat() {
        caught(Invariant::Repeats, 1, |history| {
            for life in &mut history.lives {
                if life.how == Some(Ending::Signalled(9)) {
                    life.how = Some(Ending::Exited(0));
                }
            }
            // The limit for a stop is shorter than for a kill.
            for publish in &mut history.publishes {
                if publish.relay == "relay-2" {
                    publish.at = 10_500;
                    publish.answered_at = 10_505;
                }
            }
        });
    }

    #[test]
    fn a_pause_a_lost_lease_and_an_outage_of_the_table_explain_repeats() {
        let repeat = || publish("relay-1", 64_000, "o-2", 1);
        allowed(|history| {
            history.publishes.push(repeat());
            let mut pause = fault(60_000, FaultKind::Stop, "relay-2", CloudService::Sqs);
            pause.service = None;
            pause.until = Some(63_500);
            history.faults.push(pause);
        });
        allowed(|history| {
            history.publishes.push(repeat());
            history.logs.push(LogLine {
                at: 65_000,
                process: "relay-2".to_owned(),
                kind: LogKind::LeaseLost,
                text: "lease lost: another instance has the shard".to_owned(),
            });
        });
        let outage = |service| {
            let mut outage = fault(60_000, FaultKind::Outage, "", service);
            outage.process = None;
            outage.until = Some(63_900);
            outage
        };
        allowed(|history| {
            history.publishes.push(repeat());
            history.faults.push(outage(CloudService::Dynamodb));
        });
        caught(Invariant::Repeats, 1, |history| {
            history.publishes.push(repeat());
            history.faults.push(outage(CloudService::Sqs));
        });
    }

    #[test]
    fn an_event_that_is_sent_long_after_its_mark_is_caught() {
        let repeat = |history: &mut History, at: u64| {
            history.publishes.push(publish("relay-2", at, "o-4", 1));
        };
        // Marked at 2.3 s; the kill at 10 s is what would explain it.
        allowed(|history| repeat(history, 12_200));
        caught(Invariant::Repeats, 1, |history| repeat(history, 12_400));
        allowed(|history| {
            history.marks.clear();
            repeat(history, 13_500);
        });
        allowed(|history| {
            let mut outage = fault(5_000, FaultKind::Outage, "", CloudService::Sqs);
            outage.process = None;
            outage.until = Some(6_000);
            history.faults.push(outage);
            repeat(history, 13_500);
        });
    }
}
