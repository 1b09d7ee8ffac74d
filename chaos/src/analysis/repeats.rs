//! Events that a queue accepted more than once, with their causes.
//!
//! Delivery is at least once, so a repeat is permitted if it has a cause. Either the relay did not
//! receive the response that the queue had accepted the event, or it received it and could not mark
//! the event: it died, was frozen, lost its lease, or the table was unavailable. In the second case
//! the number of repeats is bounded by the events that the relay had sent and not marked: after a
//! death, those that the proxies had seen; otherwise, the most that a relay may have in flight.

use std::collections::HashMap;

use serde::Serialize;

use super::super::history::{
    CloudService, Ending, Fault, FaultKind, History, Life, LogKind, Program, Publish,
};
use super::fault_windows::{Span, processes};
use super::first_marked_at;
use super::leases::{is_long_pause, is_loss_explained};

/// Time after the death of a relay in which its requests can still reach the queue: the proxy
/// forwards those that it had received.
const AFTER_DEATH_MS: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Repeats<'a> {
    pub interruptions: Vec<Interruption<'a>>,
    pub repeats: Vec<Repeat<'a>>,
}

/// An interruption of a relay, after which its events may be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interruption<'a> {
    pub kind: InterruptionKind,
    pub span: Span,
    /// Affected relay; `None` for all relays.
    pub relay: Option<&'a str>,
    /// Set for a death.
    incarnation: Option<u32>,
    /// For a death, the number of sends of the relay that had passed the proxy and whose events
    /// were not marked: only these may be repeated.
    pub in_flight: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InterruptionKind {
    Killed,
    /// After SIGTERM it could not mark the events that it had sent: the table was unavailable.
    StoppedInOutage,
    Paused,
    LeaseLost,
    TableOutage,
}

impl InterruptionKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Killed => "relay killed",
            Self::StoppedInOutage => "relay stopped during an outage",
            Self::Paused => "relay paused",
            Self::LeaseLost => "lease lost",
            Self::TableOutage => "table outage",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Repeat<'a> {
    pub publish: &'a Publish,
    pub cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The response to an earlier send was lost; with the index of the interruption if the relay
    /// died at that time.
    LostResponse(Option<usize>),
    /// An interruption, by its index.
    Interruption(usize),
}

impl Cause {
    pub(crate) const fn interruption(self) -> Option<usize> {
        match self {
            Self::LostResponse(index) => index,
            Self::Interruption(index) => Some(index),
        }
    }
}

impl<'a> Repeats<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        let interruptions = interruptions(history);
        let deaths: HashMap<(&str, u32), u64> = history
            .lives
            .iter()
            .filter_map(|life| Some(((life.process.as_str(), life.incarnation), life.ended?)))
            .collect();
        let mut by_event: HashMap<&str, Vec<&Publish>> = HashMap::new();
        for publish in &history.publishes {
            by_event.entry(&publish.event_id).or_default().push(publish);
        }
        let mut repeats: Vec<Repeat<'_>> = Vec::new();
        for mut publishes in by_event.into_values().filter(|all| all.len() > 1) {
            publishes.sort_by_key(|publish| (publish.requested_at, publish.at));
            // Each lost response explains one repeat.
            let mut unconfirmed = Vec::new();
            for (nth, publish) in publishes.iter().enumerate() {
                if nth > 0 {
                    let before = publishes[nth - 1];
                    let cause = match unconfirmed.pop() {
                        Some(lost) => Some(Cause::LostResponse(
                            find(&interruptions, lost, publish)
                                .filter(|&index| interruptions[index].incarnation.is_some()),
                        )),
                        None => find(&interruptions, before, publish).map(Cause::Interruption),
                    };
                    repeats.push(Repeat { publish, cause });
                }
                let died = deaths.get(&(publish.relay.as_str(), publish.incarnation));
                if !publish.response_delivered
                    || died.is_some_and(|&died| died <= publish.answered_at)
                {
                    unconfirmed.push(publish);
                }
            }
        }
        repeats.sort_by_key(|repeat| repeat.publish.at);
        Self {
            interruptions,
            repeats,
        }
    }

    /// Returns the number of repeats after each interruption: all of them, and those of events
    /// whose acceptance had been confirmed to the relay.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let mut counts = vec![Count::default(); self.interruptions.len()];
        for cause in self.repeats.iter().filter_map(|repeat| repeat.cause) {
            if let Some(index) = cause.interruption() {
                counts[index].all += 1;
                if matches!(cause, Cause::Interruption(_)) {
                    counts[index].confirmed += 1;
                }
            }
        }
        counts
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub all: usize,
    pub confirmed: usize,
}

fn interruptions(history: &History) -> Vec<Interruption<'_>> {
    let lease = history.settings.lease_duration_ms;
    let relays = history
        .lives
        .iter()
        .filter(|life| life.program == Program::OutboxRelay);
    let marked = first_marked_at(history);
    let mut all: Vec<_> = relays
        .filter_map(|life| death(history, life, &marked))
        .collect();
    let relays = processes(history, Program::OutboxRelay);
    for fault in &history.faults {
        let of_relay = || {
            fault
                .process
                .as_deref()
                .is_none_or(|name| relays.contains(&name))
        };
        let (kind, span) = match fault.kind {
            // After a shorter one the relay still owns its lease and continues.
            FaultKind::Stop if of_relay() && is_long_pause(fault, lease) => {
                (InterruptionKind::Paused, Span::of(fault))
            }
            // No relay could renew its lease, so any relay may acquire it afterwards.
            FaultKind::Outage | FaultKind::HotPartitions if is_table_outage(fault) => (
                InterruptionKind::TableOutage,
                Span::of(fault).and_after(lease),
            ),
            _ => continue,
        };
        all.push(Interruption {
            kind,
            span,
            relay: fault.process.as_deref(),
            incarnation: None,
            in_flight: None,
        });
    }
    for line in &history.logs {
        // A lost lease without a cause is a violation and does not explain a repeat.
        if line.kind == LogKind::LeaseLost && is_loss_explained(history, line) {
            all.push(Interruption {
                kind: InterruptionKind::LeaseLost,
                // The relay notices the loss at its next heartbeat, after another relay took over.
                span: Span::new(line.at.saturating_sub(2 * lease), line.at),
                relay: Some(&line.process),
                incarnation: None,
                in_flight: None,
            });
        }
    }
    all.sort_by_key(|one| (one.span.from, one.kind));
    all
}

fn death<'a>(
    history: &History,
    life: &'a Life,
    marked: &HashMap<(&str, u64), u64>,
) -> Option<Interruption<'a>> {
    let (ended, signalled) = (life.ended?, life.told_to_end.or(life.ended)?);
    let kind = match life.how? {
        _ if life.was_killed() => InterruptionKind::Killed,
        // It hung or crashed, which does not explain a repeat.
        Ending::Signalled(_) => return None,
        // A relay that stops gracefully marks all events that it has sent.
        Ending::Exited(_) if table_unavailable(history, Span::new(signalled, ended)) => {
            InterruptionKind::StoppedInOutage
        }
        Ending::Exited(_) => return None,
    };
    let from = signalled.min(ended);
    let unmarked = history.publishes.iter().filter(|publish| {
        let key = (publish.aggregate_id.as_str(), publish.sequence);
        (&publish.relay, publish.incarnation) == (&life.process, life.incarnation)
            && marked.get(&key).is_none_or(|&at| at >= from)
    });
    Some(Interruption {
        kind,
        span: Span::new(from, ended).and_after(AFTER_DEATH_MS),
        relay: Some(&life.process),
        incarnation: Some(life.incarnation),
        in_flight: Some(unmarked.count()),
    })
}

fn table_unavailable(history: &History, span: Span) -> bool {
    let mut faults = history.faults.iter();
    faults.any(|fault| is_table_outage(fault) && Span::of(fault).touches(span))
}

/// Returns `true` if relays could not write to their tables. All leases of a consumer group have
/// one partition key.
fn is_table_outage(fault: &Fault) -> bool {
    let fails = matches!(fault.kind, FaultKind::Outage | FaultKind::HotPartitions);
    fails && fault.concerns(CloudService::Dynamodb)
}

/// Returns the first interruption between `before` and `again` that affected the relay that sent
/// `before`, or that froze the relay that sent `again` while the other relay sent the event.
fn find(interruptions: &[Interruption<'_>], before: &Publish, again: &Publish) -> Option<usize> {
    let between = Span::new(before.at, again.at);
    let of = |one: &Interruption<'_>, publish: &Publish| {
        one.relay.is_none_or(|relay| relay == publish.relay)
            && one.incarnation.is_none_or(|n| n == publish.incarnation)
    };
    interruptions.iter().position(|one| {
        one.span.touches(between)
            && (of(one, before) || (one.incarnation.is_none() && of(one, again)))
    })
}
