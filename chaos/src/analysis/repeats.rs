//! Events that a queue took more than once, and why.
//!
//! Delivery is at least once, so a repeat is allowed when something explains
//! it. Either its relay never learned that the queue had taken the event
//! before, or it learned it and could not mark it any more: it died, was
//! frozen, lost its lease, or the table was away. In the second case no more
//! events may be repeated than the relay had sent and not marked: after a death
//! as many as the proxies had seen, else as many as a relay may have.

use std::collections::HashMap;

use serde::Serialize;

use super::super::history::{
    CloudService, Ending, Fault, FaultKind, History, Life, LogKind, Program, Publish,
};
use super::fault_windows::{Span, processes};
use super::first_marked_at;
use super::leases::{is_long_pause, lost_for_a_reason};

/// How long after a relay's death its requests can still reach the queue: what
/// the proxy had received, it forwards.
const AFTER_DEATH_MS: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Repeats<'a> {
    pub interruptions: Vec<Interruption<'a>>,
    pub repeats: Vec<Repeat<'a>>,
}

/// Something after which a relay's events may be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interruption<'a> {
    pub kind: InterruptionKind,
    pub span: Span,
    /// `None`: all relays.
    pub relay: Option<&'a str>,
    /// Of a death.
    incarnation: Option<u32>,
    /// At a death, the sends of the relay that had passed the proxy without a
    /// mark of theirs: only these may be repeated.
    pub in_flight: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InterruptionKind {
    Killed,
    /// Told to stop, it could not mark what it had sent: the table was away.
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
    /// The answer to an earlier send of it was lost; when the relay died of
    /// the same, with the index of that interruption.
    LostAnswer(Option<usize>),
    /// The index of the interruption.
    Interruption(usize),
}

impl Cause {
    pub(crate) const fn interruption(self) -> Option<usize> {
        match self {
            Self::LostAnswer(index) => index,
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
            publishes.sort_by_key(|publish| (publish.asked_at, publish.at));
            // Each lost answer explains one repeat.
            let mut unheard = Vec::new();
            for (nth, publish) in publishes.iter().enumerate() {
                if nth > 0 {
                    let before = publishes[nth - 1];
                    let cause = match unheard.pop() {
                        Some(lost) => Some(Cause::LostAnswer(
                            find(&interruptions, lost, publish)
                                .filter(|&index| interruptions[index].incarnation.is_some()),
                        )),
                        None => find(&interruptions, before, publish).map(Cause::Interruption),
                    };
                    repeats.push(Repeat { publish, cause });
                }
                let died = deaths.get(&(publish.relay.as_str(), publish.incarnation));
                if !publish.told || died.is_some_and(|&died| died <= publish.answered_at) {
                    unheard.push(publish);
                }
            }
        }
        repeats.sort_by_key(|repeat| repeat.publish.at);
        Self {
            interruptions,
            repeats,
        }
    }

    /// How many repeats followed each interruption: all of them, and of those
    /// the ones whose relay had been told that the queue took the event.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let mut counts = vec![Count::default(); self.interruptions.len()];
        for cause in self.repeats.iter().filter_map(|repeat| repeat.cause) {
            if let Some(index) = cause.interruption() {
                counts[index].all += 1;
                if matches!(cause, Cause::Interruption(_)) {
                    counts[index].told += 1;
                }
            }
        }
        counts
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub all: usize,
    pub told: usize,
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
            // A shorter one loses nothing: the relay goes on where it was.
            FaultKind::Stop if of_relay() && is_long_pause(fault, lease) => {
                (InterruptionKind::Paused, Span::of(fault))
            }
            // Nobody could renew a lease: whoever comes first takes it.
            FaultKind::Outage if is_table_outage(fault) => (
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
        // One that was lost for no reason is an error, and excuses none.
        if line.kind == LogKind::LeaseLost && lost_for_a_reason(history, line) {
            all.push(Interruption {
                kind: InterruptionKind::LeaseLost,
                // It is noticed at the next beat, after the other took over.
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
    let (ended, told) = (life.ended?, life.told_to_end.or(life.ended)?);
    let kind = match life.how? {
        _ if life.was_killed() => InterruptionKind::Killed,
        // It hung, or crashed: no end that excuses anything.
        Ending::Signalled(_) => return None,
        // A relay that stops in order marks all that it has sent.
        Ending::Exited(_) if table_away(history, Span::new(told, ended)) => {
            InterruptionKind::StoppedInOutage
        }
        Ending::Exited(_) => return None,
    };
    let from = told.min(ended);
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

fn table_away(history: &History, span: Span) -> bool {
    let mut faults = history.faults.iter();
    faults.any(|fault| is_table_outage(fault) && Span::of(fault).touches(span))
}

fn is_table_outage(fault: &Fault) -> bool {
    fault.kind == FaultKind::Outage && fault.concerns(CloudService::Dynamodb)
}

/// The first interruption of the relay that sent `before`, between that and
/// `again`; or one of the relay that sent `again`, which slept through the
/// other's send.
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
