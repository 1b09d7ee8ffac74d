//! Causes of a lost lease.

use super::super::history::{CloudService, Fault, FaultKind, History, LogLine};
use super::fault_windows::Span;

/// Returns `true` for a pause in which a relay can lose its lease: when it is frozen, as little as
/// half of the lease duration may remain until the lease expires.
pub(crate) fn is_long_pause(fault: &Fault, lease_duration_ms: u64) -> bool {
    fault.kind == FaultKind::Stop && 2 * fault.lasted_ms() >= lease_duration_ms
}

/// Returns `true` if a fault or a restart explains the lost lease that `line` reports. The relay
/// notices the loss at its next heartbeat after another relay took over, so the cause is within the
/// two lease durations before.
pub(crate) fn is_loss_explained(history: &History, line: &LogLine) -> bool {
    let lease = history.settings.lease_duration_ms;
    let before = Span::new(line.at.saturating_sub(2 * lease), line.at);
    let fault = |fault: &Fault| {
        fault.hits(&line.process)
            && Span::of(fault).touches(before)
            && match fault.kind {
                FaultKind::Stop => is_long_pause(fault, lease),
                kind if kind.is_of_processes() || kind.fails_no_request() => false,
                _ => fault.concerns(CloudService::Dynamodb) && !fault.is_short_latency(),
            }
    };
    // Its lease may have expired for the others before it renewed it for the first time.
    let just_started = |started: u64| before.touches(Span::new(started, started));
    history.faults.iter().any(fault)
        || history
            .lives
            .iter()
            .any(|life| life.process == line.process && just_started(life.started))
}
