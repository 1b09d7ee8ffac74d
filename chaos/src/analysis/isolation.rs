//! Effects of the outage of one queue: the delay of the events of the other queues during it, and
//! the events that were deferred.

use super::super::history::{FaultKind, History, Program};
use super::event_timeline::{EventTimeline, event_timelines};
use super::fault_windows::{DisturbanceKind, Span, disturbed_times, processes};

/// Time after an outage within which a deferral is still counted: the counters are polled every
/// second.
const POLLED_WITHIN_MS: u64 = 2_000;

/// An outage of one queue.
#[derive(Debug)]
pub(crate) struct QueueOutage<'a> {
    pub queue: &'a str,
    pub span: Span,
    /// Number of its events that relays deferred.
    pub deferred: u64,
    /// Events of the other queues that were committed while the outage was the only disturbance of
    /// the relays, with the time from the commit to the acceptance.
    pub others: Vec<(EventTimeline<'a>, u64)>,
}

/// Returns the outages of one queue, in the order of time.
pub(crate) fn queue_outages(history: &History) -> Vec<QueueOutage<'_>> {
    let outages: Vec<(&str, Span)> = history
        .faults
        .iter()
        .filter(|fault| fault.kind == FaultKind::QueueOutage)
        .filter_map(|fault| Some((fault.queue.as_deref()?, Span::of(fault))))
        .collect();
    if outages.is_empty() {
        return Vec::new();
    }
    let relays = processes(history, Program::OutboxRelay);
    let disturbed = disturbed_times(history, |one| {
        one.kind != DisturbanceKind::Fault(FaultKind::QueueOutage)
            && one.process.is_none_or(|process| relays.contains(&process))
    });
    let events: Vec<_> = event_timelines(history)
        .into_iter()
        .filter_map(|event| Some((event, event.first?.answered_at)))
        .filter(|(event, accepted)| !disturbed.touch(Span::new(event.committed, *accepted)))
        .collect();
    let of = |(queue, span): (_, Span)| QueueOutage {
        queue,
        span,
        deferred: history
            .deferrals
            .iter()
            .filter(|deferral| deferral.queue == queue)
            .filter(|deferral| (span.from..=span.to + POLLED_WITHIN_MS).contains(&deferral.at))
            .map(|deferral| deferral.events)
            .sum(),
        others: events
            .iter()
            .filter(|(event, _)| (span.from..=span.to).contains(&event.committed))
            .filter(|(event, _)| event.first.is_some_and(|first| first.queue != queue))
            .map(|&(event, accepted)| (event, accepted.saturating_sub(event.committed)))
            .collect(),
    };
    outages.into_iter().map(of).collect()
}
