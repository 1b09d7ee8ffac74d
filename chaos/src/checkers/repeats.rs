//! Checks that events are sent again only for a cause, and that their number is bounded.

use super::super::analysis::first_marked_at;
use super::super::analysis::repeats::{Repeat, Repeats};
use super::super::history::{FaultKind, History};
use super::{Findings, Invariant};

/// Maximum time between the look-up of an event in the table and its send.
const LOOKUP_TO_SEND_MS: u64 = 1_000;

/// Checks that every repeat has a cause and precedes the mark of the event, and that no
/// interruption causes more repeats than events were in flight.
pub(super) fn repeats(history: &History, found: &mut Findings) {
    let repeats = Repeats::of(history);
    let marked = first_marked_at(history);
    for repeat in &repeats.repeats {
        let publish = repeat.publish;
        let marked = marked.get(&(publish.aggregate_id.as_str(), publish.sequence));
        let wrong = match marked {
            Some(&marked)
                if publish.requested_at > marked
                    && !races_with_mark(history, &repeats, repeat, marked) =>
            {
                let late = publish.requested_at - marked;
                format!("{late} ms after it was marked as published")
            }
            _ if repeat.cause.is_none() => {
                "and no lost response or interruption of a relay explains it".to_owned()
            }
            _ => continue,
        };
        found.add(
            Invariant::Repeats,
            publish.at,
            format!(
                "{} sent event {} again {wrong}",
                publish.relay, publish.event_id
            ),
        );
    }
    let design = history.settings.in_flight_bound;
    for (interruption, count) in repeats.interruptions.iter().zip(repeats.counts()) {
        let bound = interruption
            .in_flight
            .map_or(design, |seen| seen.min(design));
        if count.confirmed > bound {
            let relay = interruption.relay.unwrap_or("all relays");
            found.add(
                Invariant::Repeats,
                interruption.span.from,
                format!(
                    "{} events were sent again after: {} ({relay}); expected were at most the {bound} in flight",
                    count.confirmed,
                    interruption.kind.name(),
                ),
            );
        }
    }
}

/// Returns `true` if a relay that sent the event after the mark at `marked` may have found it
/// pending. Either the mark came from a relay that was dead, frozen or without its lease by then
/// and arrived between the look-up and the send, or the sender was frozen between them.
fn races_with_mark(
    history: &History,
    repeats: &Repeats<'_>,
    repeat: &Repeat<'_>,
    marked: u64,
) -> bool {
    let sent = repeat.publish.requested_at;
    let late_mark = || {
        let interruption = repeat.cause.and_then(|cause| cause.interruption());
        interruption.is_some_and(|index| repeats.interruptions[index].span.from <= marked)
            && sent <= marked + LOOKUP_TO_SEND_MS
    };
    let was_frozen = || {
        history.faults.iter().any(|fault| {
            let until = fault.until.unwrap_or(fault.at);
            fault.kind == FaultKind::Stop
                && fault.hits(&repeat.publish.relay)
                && (fault.at..=until).contains(&marked)
                && sent <= until + LOOKUP_TO_SEND_MS
        })
    };
    late_mark() || was_frozen()
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::fixture::{assert_valid, assert_violations, fault, publish, unmark, valid};
    use super::*;
    use crate::history::{
        CloudService, EndSignal, Ending, LogKind, LogLine, Publish, PublishedMark,
    };

    #[test]
    fn a_repeat_without_a_cause_is_detected() {
        assert_violations(Invariant::Repeats, 1, |history| {
            unmark(history, "o-2");
            history.publishes.push(publish("relay-2", 60_000, "o-2", 1));
        });
    }

    #[test]
    fn a_lost_response_explains_only_one_repeat() {
        assert_violations(Invariant::Repeats, 1, |history| {
            unmark(history, "steps");
            history
                .publishes
                .push(publish("relay-1", 3_300, "steps", 1));
        });
    }

    #[test]
    fn an_abandoned_request_that_arrives_last_counts_as_a_lost_response() {
        assert_valid(|history| {
            unmark(history, "o-2");
            history.posts[2].at = 58_900;
            history.publishes.extend([
                publish("relay-2", 60_000, "o-2", 1),
                Publish {
                    requested_at: 59_000,
                    response_delivered: false,
                    ..publish("relay-2", 61_000, "o-2", 1)
                },
            ]);
            // Removes the first of the three, which another relay sent long before.
            history
                .publishes
                .retain(|one| one.at >= 59_000 || one.aggregate_id != "o-2");
        });
    }

    #[test]
    fn more_repeats_after_a_kill_than_were_in_flight_are_detected() {
        let again = |id: &str| publish("relay-2", 13_500, id, 1);
        assert_valid(|history| {
            unmark(history, "o-1");
            history.publishes.push(again("o-1"));
        });
        assert_violations(Invariant::Repeats, 1, |history| {
            unmark(history, "o-1");
            unmark(history, "o-3");
            history.publishes.extend([again("o-1"), again("o-3")]);
        });
    }

    #[test]
    fn a_graceful_shutdown_does_not_explain_a_repeat() {
        assert_violations(Invariant::Repeats, 1, |history| {
            for life in &mut history.lives {
                if life.how == Some(Ending::Signalled(9)) {
                    life.how = Some(Ending::Exited(0));
                    life.told_by = Some(EndSignal::Term);
                }
            }
            // The limit for a stop is shorter than for a kill.
            for publish in &mut history.publishes {
                if publish.relay == "relay-2" {
                    publish.requested_at = 10_500;
                    publish.at = 10_500;
                    publish.answered_at = 10_505;
                }
            }
        });
    }

    #[test]
    fn a_relay_that_hung_after_sigterm_does_not_explain_a_repeat() {
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
    fn a_long_pause_a_lost_lease_and_a_table_outage_explain_repeats() {
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
        assert_valid(|history| {
            repeat(history);
            history.faults.push(pause("relay-2", 1_500));
        });
        assert_violations(Invariant::Repeats, 1, |history| {
            repeat(history);
            history.faults.push(pause("relay-2", 1_400));
        });
        let lost = LogLine {
            at: 65_000,
            process: "relay-2".to_owned(),
            kind: LogKind::LeaseLost,
            text: "lease lost: another instance has the shard".to_owned(),
        };
        assert_valid(|history| {
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
        // A lost lease without a cause is a violation and does not explain the repeat.
        let mut history = valid();
        repeat(&mut history);
        history.logs.push(lost);
        let found = check(&history);
        let invariants: Vec<_> = found.iter().map(|one| one.invariant).collect();
        assert_eq!(invariants, [Invariant::Repeats, Invariant::Logs]);

        let outage = |kind, service| {
            let mut outage = fault(60_000, kind, "", service);
            outage.process = None;
            outage.until = Some(63_900);
            outage
        };
        let dynamodb = CloudService::Dynamodb;
        for kind in [FaultKind::Outage, FaultKind::HotPartitions] {
            assert_valid(|history| {
                repeat(history);
                history.faults.push(outage(kind, dynamodb));
            });
        }
        for (kind, service) in [
            (FaultKind::Outage, CloudService::Sqs),
            (FaultKind::IndexDelay, dynamodb),
            (FaultKind::StreamDelay, CloudService::Streams),
            (FaultKind::SlowTransactions, dynamodb),
        ] {
            assert_violations(Invariant::Repeats, 1, |history| {
                repeat(history);
                history.faults.push(outage(kind, service));
            });
        }
    }

    #[test]
    fn an_event_sent_after_its_mark_is_detected() {
        let again = |history: &mut History, at: u64| {
            history.publishes.push(publish("relay-2", at, "o-4", 1));
        };
        // It was marked at 2.3 s; the kill at 10 s explains only repeats of unmarked events. One
        // event was in flight then, so this repeat also exceeds the bound.
        let found = assert_violations(Invariant::Repeats, 2, |history| again(history, 10_100));
        let what = &found[1].what;
        assert!(
            what.ends_with("expected were at most the 1 in flight"),
            "{what}"
        );
        assert_valid(|history| {
            unmark(history, "o-4");
            again(history, 13_500);
        });
        // Only the first mark counts.
        assert_violations(Invariant::Repeats, 2, |history| {
            again(history, 13_500);
            history.marks.push(PublishedMark {
                at: 13_510,
                aggregate_id: "o-4".to_owned(),
                sequence: 1,
            });
        });
    }

    #[test]
    fn a_mark_of_a_dead_relay_may_arrive_between_look_up_and_send() {
        let late_mark = |history: &mut History, marked: u64| {
            unmark(history, "o-4");
            history.marks.push(PublishedMark {
                at: marked,
                aggregate_id: "o-4".to_owned(),
                sequence: 1,
            });
            history.publishes.push(publish("relay-2", 13_500, "o-4", 1));
        };
        assert_valid(|history| late_mark(history, 12_500));
        assert_violations(Invariant::Repeats, 1, |history| late_mark(history, 12_499));
    }

    #[test]
    fn a_relay_frozen_between_look_up_and_send_may_send_a_marked_event() {
        let frozen = |history: &mut History, from: u64| {
            let mut pause = fault(from, FaultKind::Stop, "relay-2", CloudService::Sqs);
            pause.service = None;
            pause.until = Some(5_000);
            history.faults.push(pause);
            history.publishes.push(publish("relay-2", 5_900, "o-4", 1));
        };
        assert_valid(|history| frozen(history, 2_000));
        assert_violations(Invariant::Repeats, 1, |history| frozen(history, 3_000));
    }
}
