//! How fast events flow again.

use std::collections::BTreeSet;

use super::super::analysis::recovery::{Trigger, recoveries};
use super::super::history::{FaultKind, History};
use super::{Findings, Invariant};

pub(super) fn recovery(history: &History, found: &mut Findings) {
    for recovery in recoveries(history) {
        let Some((limit, took)) = recovery.late(history.settings.lease_duration_ms) else {
            continue;
        };
        let process = recovery
            .process
            .map(|name| format!(" ({name})"))
            .unwrap_or_default();
        let since = match &recovery.disturbed_by {
            Some(other) => format!(" after {other} and whatever followed"),
            None => String::new(),
        };
        let took = match took {
            Some(took) => format!("events flowed again {took} ms{since}"),
            None => "what had waited was not published any more".to_owned(),
        };
        found.add(
            Invariant::Recovery,
            recovery.at,
            format!(
                "{}{process}: {took}, {limit} ms are allowed",
                recovery.trigger.name()
            ),
        );
    }
}

/// A run that was to measure how fast events flow again must have done so: one
/// in which every measurement was spoilt proves nothing.
pub(super) fn judged(history: &History, found: &mut Findings) {
    let lease = history.settings.lease_duration_ms;
    let isolated: BTreeSet<FaultKind> = history.settings.isolated.iter().copied().collect();
    let recoveries = recoveries(history);
    for trigger in isolated.into_iter().filter_map(Trigger::after) {
        let all = || recoveries.iter().filter(|one| one.trigger == trigger);
        if all().any(|one| one.is_judged(lease)) {
            continue;
        }
        let spoilt: Vec<String> = all()
            .filter_map(|one| {
                let by = one.disturbed_by.as_deref()?;
                Some(format!("at {} ms by {by}", one.at))
            })
            .collect();
        let spoilt = match spoilt.as_slice() {
            [] => "there was none".to_owned(),
            all => format!("disturbed {}", all.join(", ")),
        };
        found.add(
            Invariant::RecoveryJudged,
            None,
            format!(
                "no recovery could be judged after: {}; {spoilt}",
                trigger.name()
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, fault, publish, valid};
    use super::*;
    use crate::history::{CloudService, EndSignal, Ending};

    fn resume_at(history: &mut History, at: u64) {
        for publish in &mut history.publishes {
            if publish.relay == "relay-2" {
                publish.at = at;
                publish.answered_at = at + 5;
            }
        }
    }

    #[test]
    fn a_slow_takeover_after_a_kill_is_caught() {
        allowed(|history| resume_at(history, 13_990));
        caught(Invariant::Recovery, 1, |history| resume_at(history, 14_000));
    }

    #[test]
    fn a_takeover_that_never_comes_is_caught() {
        let mut history = valid();
        history
            .publishes
            .retain(|publish| publish.relay != "relay-2");
        let found = super::super::check(&history);
        let caught = |one: &&super::super::Violation| one.invariant == Invariant::Recovery;
        // The event is lost as well, which is another matter.
        assert_eq!(found.iter().filter(caught).count(), 1, "{found:#?}");
    }

    #[test]
    fn a_run_whose_measurements_were_all_spoilt_is_caught() {
        let isolated = |history: &mut History| {
            history.settings.isolated = vec![FaultKind::Kill, FaultKind::Kill];
        };
        allowed(isolated);
        let spoil = |history: &mut History| {
            let hit = fault(
                11_000,
                FaultKind::Throttle,
                "relay-2",
                CloudService::Dynamodb,
            );
            history.faults.push(hit);
        };
        allowed(spoil);
        let found = caught(Invariant::RecoveryJudged, 1, |history| {
            isolated(history);
            spoil(history);
        });
        assert!(
            found[0].what.contains("by throttle of relay-2"),
            "{found:?}"
        );
        // A stop was to be measured, and there was none.
        caught(Invariant::RecoveryJudged, 1, |history| {
            history.settings.isolated = vec![FaultKind::Term];
        });
    }

    #[test]
    fn a_takeover_that_was_disturbed_has_its_time_from_the_last_disturbance_on() {
        for (kind, process) in [
            (FaultKind::Throttle, "relay-2"),
            (FaultKind::Stop, "relay-2"),
        ] {
            let disturb = |history: &mut History| {
                let hit = fault(11_000, kind, process, CloudService::Dynamodb);
                history.faults.push(hit);
                let later = fault(16_000, kind, process, CloudService::Dynamodb);
                history.faults.push(later);
            };
            allowed(|history| {
                disturb(history);
                resume_at(history, 20_990);
            });
            caught(Invariant::Recovery, 1, |history| {
                disturb(history);
                resume_at(history, 21_000);
            });
        }
    }

    #[test]
    fn a_short_latency_does_not_start_the_time_again() {
        let held_up = |lasted: u64| {
            move |history: &mut History| {
                resume_at(history, 18_000);
                let disturbed = FaultKind::Throttle;
                let service = CloudService::Dynamodb;
                history
                    .faults
                    .push(fault(11_000, disturbed, "relay-2", service));
                let mut held_up = fault(
                    16_000,
                    FaultKind::Latency,
                    "relay-2",
                    CloudService::Dynamodb,
                );
                held_up.until = Some(16_000 + lasted);
                history.faults.push(held_up);
            }
        };
        allowed(held_up(1_000));
        caught(Invariant::Recovery, 1, held_up(900));
    }

    #[test]
    fn what_befalls_others_excuses_no_slow_takeover() {
        // The dead relay's next incarnation has no part in it either.
        for process in ["worker-1", "relay-1"] {
            caught(Invariant::Recovery, 1, |history| {
                resume_at(history, 20_000);
                let throttle = FaultKind::Throttle;
                let elsewhere = fault(16_000, throttle, process, CloudService::Dynamodb);
                history.faults.push(elsewhere);
            });
        }
    }

    #[test]
    fn a_slow_handover_after_sigterm_is_caught() {
        let stop = |history: &mut History| {
            for life in &mut history.lives {
                if life.how == Some(Ending::Signalled(9)) {
                    life.how = Some(Ending::Exited(0));
                    life.told_by = Some(EndSignal::Term);
                }
            }
            // It marked what it had sent, so nothing is repeated.
            history
                .publishes
                .retain(|one| one.event_id != "o-2:1" || one.relay == "relay-2");
            history.steps[1].at = 9_950;
            let mut last = publish("relay-1", 9_960, "o-2", 1);
            last.event_id = "steps:2".to_owned();
            last.aggregate_id = "steps".to_owned();
            last.sequence = 2;
            history.publishes.retain(|one| one.event_id != "steps:2");
            history.publishes.push(last);
            history.publishes.sort_by_key(|one| one.at);
        };
        allowed(|history| {
            stop(history);
            resume_at(history, 10_990);
        });
        caught(Invariant::Recovery, 1, |history| {
            stop(history);
            resume_at(history, 11_000);
        });
    }

    #[test]
    fn a_slow_recovery_after_an_outage_is_caught() {
        let outage = |history: &mut History, from: u64| {
            let mut outage = fault(from, FaultKind::Outage, "", CloudService::Sqs);
            outage.process = None;
            outage.until = Some(from + 30_000);
            history.faults.push(outage);
            let order = &mut history.end.orders[3];
            order.created_at = from + 10_000;
            order.updated_at = from + 34_000;
        };
        let publish = |history: &mut History, at: u64| {
            for publish in &mut history.publishes {
                if publish.event_id == "o-4:1" {
                    publish.at = at;
                    publish.answered_at = at + 5;
                    publish.relay = "relay-2".to_owned();
                }
            }
            history.publishes.sort_by_key(|one| one.at);
        };
        allowed(|history| {
            outage(history, 40_000);
            publish(history, 71_990);
        });
        caught(Invariant::Recovery, 1, |history| {
            outage(history, 40_000);
            publish(history, 72_000);
        });
    }
}
