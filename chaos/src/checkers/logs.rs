//! What processes logged: nothing at level ERROR but the few lines that a fault
//! makes them write, each with the fault that makes it.

use std::collections::HashMap;

use super::super::analysis::fault_windows::{Span, Spans};
use super::super::analysis::leases::lost_for_a_reason;
use super::super::history::{CloudService, Fault, FaultKind, History, LogKind};
use super::{Findings, Invariant, gaps};

/// How the API says that a write of its failed.
const NOT_CONFIRMED: [&str; 2] = [
    "an order was not confirmed",
    "an order was not confirmed in time",
];

/// A line is written when the last attempt has failed, and attempts follow
/// each other faster than this.
const REPORTED_WITHIN_MS: u64 = 3_000;

fn fails_a_write(fault: &Fault) -> bool {
    // A frozen API runs into its time limit.
    fault.kind == FaultKind::Stop
        || !fault.kind.is_of_processes()
            && fault.concerns(CloudService::Dynamodb)
            && !fault.is_short_latency()
}

pub(super) fn logs(history: &History, found: &mut Findings) {
    // Of each process that logs one.
    let mut failed_writes: HashMap<&str, Spans> = HashMap::new();
    for line in &history.logs {
        let process = line.process.as_str();
        let explained = match line.kind {
            LogKind::Panic => false,
            LogKind::LeaseLost => lost_for_a_reason(history, line),
            LogKind::Error if line.has_message(gaps::STREAM_GAP) => gaps::was_met(history, line),
            LogKind::Error
                if NOT_CONFIRMED
                    .iter()
                    .any(|message| line.has_message(message)) =>
            {
                failed_writes
                    .entry(process)
                    .or_insert_with(|| faults_of_writes(process, history))
                    .touch(Span::new(line.at, line.at))
            }
            LogKind::Error => false,
        };
        if !explained {
            found.add(
                Invariant::Logs,
                line.at,
                format!("{process} logged: {}", line.text),
            );
        }
    }
}

fn faults_of_writes(process: &str, history: &History) -> Spans {
    let faults = history.faults.iter();
    faults
        .filter(|fault| fault.hits(process) && fails_a_write(fault))
        .map(|fault| Span::of(fault).and_after(REPORTED_WITHIN_MS))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, error, fault};
    use super::*;
    use crate::history::LogLine;

    #[test]
    fn a_panic_is_caught_whatever_was_done_to_the_process() {
        caught(Invariant::Logs, 1, |history| {
            history.logs.push(LogLine {
                kind: LogKind::Panic,
                ..error(1_020, "order-api", "panicked at")
            });
        });
    }

    #[test]
    fn an_error_without_a_fault_before_it_is_caught() {
        for (at, process) in [
            (60_000, "order-api"),
            (1_005, "order-api"),
            (1_020, "worker-1"),
        ] {
            caught(Invariant::Logs, 1, |history| {
                history.logs.push(error(at, process, NOT_CONFIRMED[0]));
            });
        }
    }

    #[test]
    fn an_error_that_no_fault_makes_is_caught_during_faults_too() {
        for message in [
            "an event can never be published and is set aside",
            "an order was not confirmed, and more",
            "a stored order is malformed",
            "stream gap: the outbox table has another stream",
        ] {
            caught(Invariant::Logs, 1, |history| {
                history.logs.push(error(1_020, "order-api", message));
            });
        }
    }

    #[test]
    fn only_what_fails_a_write_explains_an_order_that_is_not_confirmed() {
        let with = |kind, lasted: u64, service| {
            move |history: &mut History| {
                let mut hit = fault(60_000, kind, "order-api", service);
                hit.until = Some(60_000 + lasted);
                history.faults.push(hit);
                let at = 60_000 + lasted + REPORTED_WITHIN_MS;
                history.logs.push(error(at, "order-api", NOT_CONFIRMED[0]));
            }
        };
        let dynamodb = CloudService::Dynamodb;
        allowed(with(FaultKind::Outage, 10_000, dynamodb));
        allowed(with(FaultKind::TransactionConflict, 0, dynamodb));
        allowed(with(FaultKind::Latency, 1_000, dynamodb));
        caught(Invariant::Logs, 1, with(FaultKind::Latency, 999, dynamodb));
        let sqs = CloudService::Sqs;
        caught(Invariant::Logs, 1, with(FaultKind::Outage, 10_000, sqs));
        caught(Invariant::Logs, 1, with(FaultKind::Kill, 0, dynamodb));
    }

    #[test]
    fn a_lost_lease_needs_something_that_cost_it() {
        let lost = |history: &mut History| {
            history.logs.push(LogLine {
                kind: LogKind::LeaseLost,
                ..error(65_000, "relay-2", "lease lost")
            });
        };
        caught(Invariant::Logs, 1, lost);
        let with = |kind, at: u64, lasted: u64| {
            move |history: &mut History| {
                lost(history);
                let mut hit = fault(at, kind, "relay-2", CloudService::Dynamodb);
                hit.until = Some(at + lasted);
                history.faults.push(hit);
            }
        };
        allowed(with(FaultKind::Stop, 62_000, 1_500));
        caught(Invariant::Logs, 1, with(FaultKind::Stop, 62_000, 1_499));
        allowed(with(FaultKind::Throttle, 59_000, 0));
        caught(Invariant::Logs, 1, with(FaultKind::Throttle, 58_999, 0));
        caught(Invariant::Logs, 1, with(FaultKind::Latency, 62_000, 300));
    }
}
