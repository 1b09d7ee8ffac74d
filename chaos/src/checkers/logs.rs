//! Checks the logs: the only lines at level ERROR are the few that a fault causes, each with its
//! fault.

use std::collections::HashMap;

use super::super::analysis::fault_windows::{Span, Spans};
use super::super::analysis::leases::is_loss_explained;
use super::super::history::{CloudService, Fault, FaultKind, History, LogKind};
use super::{Findings, Invariant, gaps};

/// Messages of the API for a failed write.
const NOT_CONFIRMED: [&str; 2] = [
    "an order was not confirmed",
    "an order was not confirmed in time",
];

/// Time between the end of a fault and the line that reports it: the line is written when the last
/// attempt has failed, and attempts follow each other faster.
const REPORTED_WITHIN_MS: u64 = 3_000;

/// Returns `true` if the fault can cause a write of the API to fail.
fn fails_a_write(fault: &Fault) -> bool {
    // A frozen API exceeds its time limit.
    fault.kind == FaultKind::Stop
        || !fault.kind.is_of_processes()
            && fault.concerns(CloudService::Dynamodb)
            && !fault.is_short_latency()
            && !fault.kind.fails_no_request()
}

/// Checks that a fault explains every logged error and every lost lease.
pub(super) fn logs(history: &History, found: &mut Findings) {
    // For each process that logged a failed write.
    let mut failed_writes: HashMap<&str, Spans> = HashMap::new();
    for line in &history.logs {
        let process = line.process.as_str();
        let explained = match line.kind {
            LogKind::Panic => false,
            LogKind::LeaseLost => is_loss_explained(history, line),
            LogKind::Error if line.has_message(gaps::STREAM_GAP) => {
                gaps::is_explained(history, line)
            }
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
                format!("expected no such line without a fault that causes it, but {process} logged: {}", line.text),
            );
        }
    }
}

/// Returns the times in which a fault explains a failed write of the process.
fn faults_of_writes(process: &str, history: &History) -> Spans {
    let faults = history.faults.iter();
    faults
        .filter(|fault| fault.hits(process) && fails_a_write(fault))
        .map(|fault| Span::of(fault).and_after(REPORTED_WITHIN_MS))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations, error, fault};
    use super::*;
    use crate::history::LogLine;

    #[test]
    fn a_panic_is_detected_during_faults() {
        assert_violations(Invariant::Logs, 1, |history| {
            history.logs.push(LogLine {
                kind: LogKind::Panic,
                ..error(1_020, "order-api", "panicked at")
            });
        });
    }

    #[test]
    fn an_error_without_a_fault_before_it_is_detected() {
        for (at, process) in [
            (60_000, "order-api"),
            (1_005, "order-api"),
            (1_020, "worker-1"),
        ] {
            assert_violations(Invariant::Logs, 1, |history| {
                history.logs.push(error(at, process, NOT_CONFIRMED[0]));
            });
        }
    }

    #[test]
    fn an_error_that_no_fault_causes_is_detected_during_faults() {
        for message in [
            "an event can never be published and is set aside",
            "an order was not confirmed, and more",
            "a stored order is malformed",
            "stream gap: the outbox table has another stream",
        ] {
            assert_violations(Invariant::Logs, 1, |history| {
                history.logs.push(error(1_020, "order-api", message));
            });
        }
    }

    #[test]
    fn only_a_fault_that_fails_writes_explains_an_unconfirmed_order() {
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
        assert_valid(with(FaultKind::Outage, 10_000, dynamodb));
        assert_valid(with(FaultKind::TransactionConflict, 0, dynamodb));
        assert_valid(with(FaultKind::Latency, 1_000, dynamodb));
        assert_violations(Invariant::Logs, 1, with(FaultKind::Latency, 999, dynamodb));
        let sqs = CloudService::Sqs;
        assert_violations(Invariant::Logs, 1, with(FaultKind::Outage, 10_000, sqs));
        assert_violations(Invariant::Logs, 1, with(FaultKind::Kill, 0, dynamodb));
        let index_delay = with(FaultKind::IndexDelay, 10_000, dynamodb);
        assert_violations(Invariant::Logs, 1, index_delay);
    }

    #[test]
    fn a_lost_lease_without_a_cause_is_detected() {
        let lost = |history: &mut History| {
            history.logs.push(LogLine {
                kind: LogKind::LeaseLost,
                ..error(65_000, "relay-2", "lease lost")
            });
        };
        assert_violations(Invariant::Logs, 1, lost);
        let with = |kind, at: u64, lasted: u64| {
            move |history: &mut History| {
                lost(history);
                let mut hit = fault(at, kind, "relay-2", CloudService::Dynamodb);
                hit.until = Some(at + lasted);
                history.faults.push(hit);
            }
        };
        assert_valid(with(FaultKind::Stop, 62_000, 1_500));
        assert_violations(Invariant::Logs, 1, with(FaultKind::Stop, 62_000, 1_499));
        assert_valid(with(FaultKind::Throttle, 59_000, 0));
        assert_violations(Invariant::Logs, 1, with(FaultKind::Throttle, 58_999, 0));
        assert_violations(Invariant::Logs, 1, with(FaultKind::Latency, 62_000, 300));
        assert_valid(with(FaultKind::HotPartitions, 62_000, 2_000));
        let index_delay = with(FaultKind::IndexDelay, 62_000, 2_000);
        assert_violations(Invariant::Logs, 1, index_delay);
    }
}
