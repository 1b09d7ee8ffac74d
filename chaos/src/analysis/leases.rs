//! What can cost a relay its lease.

use super::super::history::{CloudService, Fault, FaultKind, History, LogLine};
use super::fault_windows::Span;

/// A pause in which a relay can miss its lease: it renews well before that runs
/// out, and what is left when it is frozen may be half of it.
pub(crate) fn is_long_pause(fault: &Fault, lease_duration_ms: u64) -> bool {
    fault.kind == FaultKind::Stop && 2 * fault.lasted_ms() >= lease_duration_ms
}

/// Whether something can have cost a relay the lease that `line` says it lost.
/// It is noticed at the next beat after another took over, so the cause lies
/// in the two lease durations before.
pub(crate) fn lost_for_a_reason(history: &History, line: &LogLine) -> bool {
    let lease = history.settings.lease_duration_ms;
    let before = Span::new(line.at.saturating_sub(2 * lease), line.at);
    let fault = |fault: &Fault| {
        fault.hits(&line.process)
            && Span::of(fault).touches(before)
            && match fault.kind {
                FaultKind::Stop => is_long_pause(fault, lease),
                kind if kind.is_of_processes() => false,
                _ => fault.concerns(CloudService::Dynamodb) && !fault.is_short_latency(),
            }
    };
    // It may have been taken for dead before it had renewed for the first time.
    let just_started = |started: u64| before.touches(Span::new(started, started));
    history.faults.iter().any(fault)
        || history
            .lives
            .iter()
            .any(|life| life.process == line.process && just_started(life.started))
}
