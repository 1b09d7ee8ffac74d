//! What relays sent again, and whether they had to.

use super::super::analysis::first_marked_at;
use super::super::analysis::repeats::{Repeat, Repeats};
use super::super::history::{FaultKind, History};
use super::{Findings, Invariant};

/// From looking an event up in the table to sending it.
const LOOKED_UP_MS: u64 = 1_000;

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
    let design = history.settings.in_flight_bound;
    for (interruption, count) in repeats.interruptions.iter().zip(repeats.counts()) {
        let bound = interruption
            .in_flight
            .map_or(design, |seen| seen.min(design));
        if count.told > bound {
            let relay = interruption.relay.unwrap_or("all relays");
            found.add(
                Invariant::Repeats,
                interruption.span.from,
                format!(
                    "{} events were sent again after {} ({relay}), and {bound} at most were in flight",
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
    use super::super::fixture::{allowed, caught, fault, publish, unmark, valid};
    use super::*;
    use crate::history::{
        CloudService, EndSignal, Ending, LogKind, LogLine, Publish, PublishedMark,
    };

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
            history.posts[2].at = 58_900;
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
        // One event was in flight then, so this one is one too many as well.
        let found = caught(Invariant::Repeats, 2, |history| again(history, 10_100));
        let what = &found[1].what;
        assert!(what.ends_with("and 1 at most were in flight"), "{what}");
        allowed(|history| {
            unmark(history, "o-4");
            again(history, 13_500);
        });
        // The first mark is the one that counts.
        caught(Invariant::Repeats, 2, |history| {
            again(history, 13_500);
            history.marks.push(PublishedMark {
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
            history.marks.push(PublishedMark {
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
