//! Times in which the system was disturbed, with the affected processes.

use super::super::history::{CloudService, Fault, FaultKind, History, Life, Program};

/// Interval in milliseconds since the start of the run, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub from: u64,
    pub to: u64,
}

impl Span {
    pub(crate) const fn new(from: u64, to: u64) -> Self {
        Self { from, to }
    }

    pub(crate) fn of(fault: &Fault) -> Self {
        Self::new(fault.at, fault.until.unwrap_or(fault.at))
    }

    pub(crate) const fn touches(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    /// Returns the span with its end moved by `millis`: the effects of a fault outlast it.
    pub(crate) const fn and_after(self, millis: u64) -> Self {
        Self::new(self.from, self.to.saturating_add(millis))
    }
}

/// Set of spans, merged, so that a query is a binary search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Vec<Span>);

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut sorted: Vec<Span> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => merged.push(span),
            }
        }
        Self(merged)
    }
}

impl Spans {
    pub(crate) fn touch(&self, span: Span) -> bool {
        // Merged spans do not overlap: of those that begin before the end, the last one ends last.
        let after = self.0.partition_point(|one| one.from <= span.to);
        after > 0 && self.0[after - 1].touches(span)
    }
}

/// A fault, or the downtime of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disturbance<'a> {
    pub span: Span,
    /// Affected process; `None` for all processes.
    pub process: Option<&'a str>,
    pub service: Option<CloudService>,
    pub kind: DisturbanceKind,
    /// Result of [`Fault::is_short_latency`].
    pub is_short_latency: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DisturbanceKind {
    Fault(FaultKind),
    /// From the signal until the next incarnation is ready.
    Down,
}

impl DisturbanceKind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Fault(kind) => kind.name(),
            Self::Down => "restart".to_owned(),
        }
    }

    /// Returns `true` if no error can be due to it.
    pub(crate) fn fails_no_request(self) -> bool {
        match self {
            Self::Fault(kind) => kind.fails_no_request(),
            Self::Down => false,
        }
    }

    /// Returns `true` if it affects a single request only.
    pub(crate) fn is_of_one_request(self) -> bool {
        match self {
            Self::Fault(kind) => !kind.is_of_processes() && !kind.is_of_cloud(),
            Self::Down => false,
        }
    }
}

/// Returns all disturbances: the faults, and the downtimes of killed and stopped processes.
pub(crate) fn disturbances(history: &History) -> Vec<Disturbance<'_>> {
    let faults = history.faults.iter().map(|fault| Disturbance {
        span: Span::of(fault),
        process: fault.process.as_deref(),
        service: fault.service,
        kind: DisturbanceKind::Fault(fault.kind),
        is_short_latency: fault.is_short_latency(),
    });
    let downtimes = history.lives.iter().filter_map(|life| {
        Some(Disturbance {
            span: Span::new(life.told_to_end?, ready_again(history, life)),
            process: Some(&life.process),
            service: None,
            kind: DisturbanceKind::Down,
            is_short_latency: false,
        })
    });
    faults.chain(downtimes).collect()
}

/// Time after a fault of a request in which its effects last: retries back off by up to two
/// seconds.
const AFTER_REQUEST_MS: u64 = 3_000;
/// Time after the lease of a dead relay in which the effects last: its successor publishes the
/// backlog.
const AFTER_PROCESS_MS: u64 = 3_000;

/// Returns the times in which a disturbance that satisfies `matters` was active or its effects
/// lasted.
pub(crate) fn disturbed_times(
    history: &History,
    matters: impl Fn(&Disturbance<'_>) -> bool,
) -> Spans {
    let lease = history.settings.lease_duration_ms;
    disturbances(history)
        .iter()
        .filter(|one| matters(one))
        .map(|one| {
            one.span.and_after(if one.kind.is_of_one_request() {
                AFTER_REQUEST_MS
            } else {
                lease + AFTER_PROCESS_MS
            })
        })
        .collect()
}

/// Returns the time at which the next incarnation was ready; `u64::MAX` if none was.
fn ready_again(history: &History, life: &Life) -> u64 {
    history
        .lives
        .iter()
        .filter(|next| next.process == life.process && next.incarnation > life.incarnation)
        .filter_map(|next| next.ready)
        .min()
        .unwrap_or(u64::MAX)
}

/// Returns the distinct names of the processes that run `program`.
pub(crate) fn processes(history: &History, program: Program) -> Vec<&str> {
    let mut names: Vec<&str> = history
        .lives
        .iter()
        .filter(|life| life.program == program)
        .map(|life| life.process.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_spans_are_merged() {
        let spans: Spans = [(50, 60), (10, 20), (15, 30), (12, 13)]
            .map(|(from, to)| Span::new(from, to))
            .into_iter()
            .collect();
        assert_eq!(spans.0, [Span::new(10, 30), Span::new(50, 60)]);
        for (from, to, touch) in [
            (0, 9, false),
            (0, 10, true),
            (30, 31, true),
            (31, 49, false),
            (31, 99, true),
            (61, 99, false),
        ] {
            assert_eq!(spans.touch(Span::new(from, to)), touch, "{from}-{to}");
        }
    }
}
