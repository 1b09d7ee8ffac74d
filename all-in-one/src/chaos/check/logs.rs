//! What processes logged: nothing at level ERROR but the few lines that a fault
//! makes them write, each with the fault that makes it.

use std::collections::HashMap;

use super::super::history::{CloudService, Fault, FaultKind, History, LogKind, LogLine};
use super::super::measure::leases::lost_for_a_reason;
use super::super::measure::spans::{Span, Spans};
use super::{Findings, Invariant};

/// A line that is allowed after its cause.
struct Known {
    message: &'static str,
    cause: fn(&Fault) -> bool,
}

/// How a relay says that it met a gap.
pub(super) const STREAM_GAP: &str = "stream gap: records were trimmed before they were read; pending events among them are still in the table";

const KNOWN: [Known; 3] = [
    Known {
        message: STREAM_GAP,
        cause: |fault| fault.kind == FaultKind::TrimmedIterator,
    },
    Known {
        message: "an order was not confirmed",
        cause: fails_a_write,
    },
    Known {
        message: "an order was not confirmed in time",
        cause: fails_a_write,
    },
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
    let mut causes: HashMap<(&str, &str), Spans> = HashMap::new();
    for line in &history.logs {
        let process = line.process.as_str();
        let explained = match line.kind {
            LogKind::Panic => false,
            LogKind::LeaseLost => lost_for_a_reason(history, line),
            LogKind::Error => known(line).is_some_and(|known| {
                causes
                    .entry((known.message, process))
                    .or_insert_with(|| causes_of(known, process, history))
                    .touch(Span::new(line.at, line.at))
            }),
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

fn known(line: &LogLine) -> Option<&'static Known> {
    // The text is a JSON object, cut off when it is very long.
    let says = |known: &&Known| {
        line.text
            .contains(&format!("\"message\":\"{}\"", known.message))
    };
    KNOWN.iter().find(says)
}

fn causes_of(known: &Known, process: &str, history: &History) -> Spans {
    history
        .faults
        .iter()
        .filter(|fault| fault.hits(process) && (known.cause)(fault))
        .map(|fault| Span::of(fault).and_after(REPORTED_WITHIN_MS))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, error, fault};
    use super::*;

    const NOT_CONFIRMED: &str = "an order was not confirmed";

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
                history.logs.push(error(at, process, NOT_CONFIRMED));
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
                history.logs.push(error(at, "order-api", NOT_CONFIRMED));
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
    fn a_gap_in_the_stream_is_explained_by_a_trimmed_iterator_only() {
        let gap = || error(12_000, "relay-1", KNOWN[0].message);
        let trimmed = |at| {
            fault(
                at,
                FaultKind::TrimmedIterator,
                "relay-1",
                CloudService::Streams,
            )
        };
        caught(Invariant::Logs, 1, |history| history.logs.push(gap()));
        caught(Invariant::Logs, 1, |history| {
            history.faults.push(trimmed(8_000));
            history.logs.push(gap());
        });
        allowed(|history| {
            history.faults.push(trimmed(11_000));
            history.logs.push(gap());
        });
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
