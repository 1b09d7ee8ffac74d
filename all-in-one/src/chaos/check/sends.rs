//! What relays sent: in order, and again only for a reason.

use std::collections::{BTreeSet, HashMap};

use super::super::history::{FaultKind, History, Publish};
use super::super::measure::first_marked_at;
use super::super::measure::repeats::{Repeat, Repeats};
use super::{Findings, Invariant};

/// From looking an event up in the table to sending it.
const LOOKED_UP_MS: u64 = 1_000;

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
    let marked = first_marked_at(history);
    for repeat in &repeats.repeats {
        let publish = repeat.publish;
        let marked = marked.get(&(publish.aggregate_id.as_str(), publish.sequence));
        let wrong = match marked {
            Some(&marked)
                if publish.asked_at > marked && !overtaken(history, &repeats, repeat, marked) =>
            {
                let late = publish.asked_at - marked;
                format!("{late} ms after it was marked as published")
            }
            _ if repeat.cause.is_none() => "without a cause".to_owned(),
            _ => continue,
        };
        found.add(
            Invariant::Repeats,
            publish.at,
            format!(
                "{} sent event {} again, {wrong}",
                publish.relay, publish.event_id
            ),
        );
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

/// Whether a relay may have found the event pending, though it was marked at
/// `marked`, when it sent it again after that. Either the mark of a relay that
/// was dead, frozen or without its lease by then arrived between the look and
/// the send; or the sender was frozen between them.
fn overtaken(history: &History, repeats: &Repeats<'_>, repeat: &Repeat<'_>, marked: u64) -> bool {
    let sent = repeat.publish.asked_at;
    let late_mark = || {
        let interruption = repeat.cause.and_then(|cause| cause.interruption());
        interruption.is_some_and(|index| repeats.interruptions[index].span.from <= marked)
            && sent <= marked + LOOKED_UP_MS
    };
    let slept = || {
        history.faults.iter().any(|fault| {
            let until = fault.until.unwrap_or(fault.at);
            fault.kind == FaultKind::Stop
                && fault.hits(&repeat.publish.relay)
                && (fault.at..=until).contains(&marked)
                && sent <= until + LOOKED_UP_MS
        })
    };
    late_mark() || slept()
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::fixture::{allowed, caught, fault, publish, valid};
    use super::*;
    use crate::chaos::history::{CloudService, EndSignal, Ending, LogKind, LogLine, Mark};

    /// The relay has not marked it.
    fn unmark(history: &mut History, aggregate_id: &str) {
        history
            .marks
            .retain(|mark| mark.aggregate_id != aggregate_id);
    }

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

    #[test]
    fn a_repeat_without_a_cause_is_caught() {
        caught(Invariant::Repeats, 1, |history| {
            unmark(history, "o-2");
            history.publishes.push(publish("relay-2", 60_000, "o-2", 1));
        });
    }

    #[test]
    fn a_lost_answer_explains_one_repeat_and_no_more() {
        caught(Invariant::Repeats, 1, |history| {
            unmark(history, "steps");
            history
                .publishes
                .push(publish("relay-1", 3_300, "steps", 1));
        });
    }

    #[test]
    fn a_request_that_was_given_up_and_came_last_is_a_lost_answer() {
        allowed(|history| {
            unmark(history, "o-2");
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
        allowed(|history| {
            unmark(history, "o-1");
            history.publishes.push(again("o-1"));
        });
        caught(Invariant::Repeats, 1, |history| {
            unmark(history, "o-1");
            unmark(history, "o-3");
            history.publishes.extend([again("o-1"), again("o-3")]);
        });
    }

    #[test]
    fn a_relay_that_stopped_in_order_explains_no_repeat() {
        caught(Invariant::Repeats, 1, |history| {
            for life in &mut history.lives {
                if life.how == Some(Ending::Signalled(9)) {
                    life.how = Some(Ending::Exited(0));
                    life.told_by = Some(EndSignal::Term);
                }
            }
            // The limit for a stop is shorter than for a kill.
            for publish in &mut history.publishes {
                if publish.relay == "relay-2" {
                    publish.asked_at = 10_500;
                    publish.at = 10_500;
                    publish.answered_at = 10_505;
                }
            }
        });
    }

    #[test]
    fn a_relay_that_hung_when_it_was_told_to_stop_explains_no_repeat() {
        let mut history = valid();
        for life in &mut history.lives {
            if life.how == Some(Ending::Signalled(9)) {
                life.told_by = Some(EndSignal::Term);
            }
        }
        let found = check(&history);
        let invariants: Vec<_> = found.iter().map(|one| one.invariant).collect();
        let expected = [Invariant::Repeats, Invariant::Endings, Invariant::Recovery];
        assert_eq!(invariants, expected, "{found:#?}");
    }

    #[test]
    fn a_long_pause_a_lost_lease_and_an_outage_of_the_table_explain_repeats() {
        let repeat = |history: &mut History| {
            unmark(history, "o-2");
            history.publishes.push(publish("relay-1", 64_000, "o-2", 1));
        };
        let pause = |process, lasted: u64| {
            let mut pause = fault(60_000, FaultKind::Stop, process, CloudService::Sqs);
            pause.service = None;
            pause.until = Some(60_000 + lasted);
            pause
        };
        allowed(|history| {
            repeat(history);
            history.faults.push(pause("relay-2", 1_500));
        });
        caught(Invariant::Repeats, 1, |history| {
            repeat(history);
            history.faults.push(pause("relay-2", 1_400));
        });
        let lost = LogLine {
            at: 65_000,
            process: "relay-2".to_owned(),
            kind: LogKind::LeaseLost,
            text: "lease lost: another instance has the shard".to_owned(),
        };
        allowed(|history| {
            repeat(history);
            history.logs.push(lost.clone());
            let cause = fault(
                62_000,
                FaultKind::Throttle,
                "relay-2",
                CloudService::Dynamodb,
            );
            history.faults.push(cause);
        });
        // Neither is the loss excused, nor does it excuse.
        let mut history = valid();
        repeat(&mut history);
        history.logs.push(lost);
        let found = check(&history);
        let invariants: Vec<_> = found.iter().map(|one| one.invariant).collect();
        assert_eq!(invariants, [Invariant::Repeats, Invariant::Logs]);

        let outage = |service| {
            let mut outage = fault(60_000, FaultKind::Outage, "", service);
            outage.process = None;
            outage.until = Some(63_900);
            outage
        };
        allowed(|history| {
            repeat(history);
            history.faults.push(outage(CloudService::Dynamodb));
        });
        caught(Invariant::Repeats, 1, |history| {
            repeat(history);
            history.faults.push(outage(CloudService::Sqs));
        });
    }

    #[test]
    fn an_event_that_is_sent_after_its_mark_is_caught() {
        let again = |history: &mut History, at: u64| {
            history.publishes.push(publish("relay-2", at, "o-4", 1));
        };
        // Marked at 2.3 s; the kill at 10 s explains a repeat of what was not.
        caught(Invariant::Repeats, 1, |history| again(history, 10_100));
        allowed(|history| {
            unmark(history, "o-4");
            again(history, 13_500);
        });
        // The first mark is the one that counts.
        caught(Invariant::Repeats, 1, |history| {
            again(history, 13_500);
            history.marks.push(Mark {
                at: 13_510,
                aggregate_id: "o-4".to_owned(),
                sequence: 1,
            });
        });
    }

    #[test]
    fn a_mark_that_arrives_after_its_relay_died_can_come_between_look_and_send() {
        let late_mark = |history: &mut History, marked: u64| {
            unmark(history, "o-4");
            history.marks.push(Mark {
                at: marked,
                aggregate_id: "o-4".to_owned(),
                sequence: 1,
            });
            history.publishes.push(publish("relay-2", 13_500, "o-4", 1));
        };
        allowed(|history| late_mark(history, 12_500));
        caught(Invariant::Repeats, 1, |history| late_mark(history, 12_499));
    }

    #[test]
    fn a_relay_that_was_frozen_between_look_and_send_may_send_what_it_found() {
        let slept = |history: &mut History, from: u64| {
            let mut pause = fault(from, FaultKind::Stop, "relay-2", CloudService::Sqs);
            pause.service = None;
            pause.until = Some(5_000);
            history.faults.push(pause);
            history.publishes.push(publish("relay-2", 5_900, "o-4", 1));
        };
        allowed(|history| slept(history, 2_000));
        caught(Invariant::Repeats, 1, |history| slept(history, 3_000));
    }
}
