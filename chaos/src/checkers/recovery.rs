//! Checks the time to recovery after faults.

use std::collections::BTreeSet;

use super::super::analysis::recovery::{Trigger, recoveries};
use super::super::history::{FaultKind, History};
use super::{Findings, Invariant};

/// Checks that every recovery was within its limit.
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
            Some(other) => format!(" after the last disturbance, the first being {other}"),
            None => String::new(),
        };
        let took = match took {
            Some(took) => format!("events flowed again {took} ms{since}"),
            None => "the waiting events were not published before the end of the run".to_owned(),
        };
        found.add(
            Invariant::Recovery,
            recovery.at,
            format!(
                "{}{process}: {took}; the limit is {limit} ms",
                recovery.trigger.name()
            ),
        );
    }
}

/// Checks that at least one recovery was measured for each kind of fault that was injected in
/// isolation: a run in which every measurement was disturbed proves nothing.
pub(super) fn judged(history: &History, found: &mut Findings) {
    let lease = history.settings.lease_duration_ms;
    let isolated: BTreeSet<FaultKind> = history.settings.isolated.iter().copied().collect();
    let recoveries = recoveries(history);
    for trigger in isolated.into_iter().filter_map(Trigger::after) {
        let all = || recoveries.iter().filter(|one| one.trigger == trigger);
        if all().any(|one| one.is_judged(lease)) {
            continue;
        }
        let disturbed: Vec<String> = all()
            .filter_map(|one| {
                let by = one.disturbed_by.as_deref()?;
                Some(format!("at {} ms by {by}", one.at))
            })
            .collect();
        let disturbed = match disturbed.as_slice() {
            [] => "no recovery from this fault was observed".to_owned(),
            all => format!("each was disturbed: {}", all.join(", ")),
        };
        found.add(
            Invariant::RecoveryJudged,
            None,
            format!(
                "expected a recovery without other faults after {}, but {disturbed}",
                trigger.name()
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations, fault, publish, valid};
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
    fn a_slow_takeover_after_a_kill_is_detected() {
        assert_valid(|history| resume_at(history, 13_990));
        assert_violations(Invariant::Recovery, 1, |history| resume_at(history, 14_000));
    }

    #[test]
    fn a_missing_takeover_is_detected() {
        let mut history = valid();
        history
            .publishes
            .retain(|publish| publish.relay != "relay-2");
        let found = super::super::check(&history);
        let caught = |one: &&super::super::Violation| one.invariant == Invariant::Recovery;
        // The event is lost as well; that is a violation of another invariant.
        assert_eq!(found.iter().filter(caught).count(), 1, "{found:#?}");
    }

    #[test]
    fn a_run_in_which_every_measurement_was_disturbed_is_detected() {
        let isolated = |history: &mut History| {
            history.settings.isolated = vec![FaultKind::Kill, FaultKind::Kill];
        };
        assert_valid(isolated);
        let disturb = |history: &mut History| {
            let hit = fault(
                11_000,
                FaultKind::Throttle,
                "relay-2",
                CloudService::Dynamodb,
            );
            history.faults.push(hit);
        };
        assert_valid(disturb);
        let found = assert_violations(Invariant::RecoveryJudged, 1, |history| {
            isolated(history);
            disturb(history);
        });
        assert!(
            found[0].what.contains("by throttle of relay-2"),
            "{found:?}"
        );
        // A stop was injected in isolation, and no recovery from one was observed.
        assert_violations(Invariant::RecoveryJudged, 1, |history| {
            history.settings.isolated = vec![FaultKind::Term];
        });
    }

    #[test]
    fn the_time_limit_of_a_disturbed_takeover_starts_at_the_last_disturbance() {
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
            assert_valid(|history| {
                disturb(history);
                resume_at(history, 20_990);
            });
            assert_violations(Invariant::Recovery, 1, |history| {
                disturb(history);
                resume_at(history, 21_000);
            });
        }
    }

    #[test]
    fn a_short_latency_does_not_restart_the_time_limit() {
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
        assert_valid(held_up(1_000));
        assert_violations(Invariant::Recovery, 1, held_up(900));
    }

    #[test]
    fn faults_of_other_processes_do_not_explain_a_slow_takeover() {
        // Nor do faults of the next incarnation of the dead relay.
        for process in ["worker-1", "relay-1"] {
            assert_violations(Invariant::Recovery, 1, |history| {
                resume_at(history, 20_000);
                let throttle = FaultKind::Throttle;
                let elsewhere = fault(16_000, throttle, process, CloudService::Dynamodb);
                history.faults.push(elsewhere);
            });
        }
    }

    #[test]
    fn a_slow_takeover_after_sigterm_is_detected() {
        let stop = |history: &mut History| {
            for life in &mut history.lives {
                if life.how == Some(Ending::Signalled(9)) {
                    life.how = Some(Ending::Exited(0));
                    life.told_by = Some(EndSignal::Term);
                }
            }
            // It marked the events that it had sent, so none is repeated.
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
        assert_valid(|history| {
            stop(history);
            resume_at(history, 10_990);
        });
        assert_violations(Invariant::Recovery, 1, |history| {
            stop(history);
            resume_at(history, 11_000);
        });
    }

    #[test]
    fn a_slow_recovery_after_an_outage_is_detected() {
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
        assert_valid(|history| {
            outage(history, 40_000);
            publish(history, 71_990);
        });
        assert_violations(Invariant::Recovery, 1, |history| {
            outage(history, 40_000);
            publish(history, 72_000);
        });
    }
}
