//! Backlog and throughput over the run, in equal steps.

use std::collections::HashSet;

use serde::Serialize;

use super::super::history::History;
use super::committed_at;
use super::fault_windows::DisturbanceKind;

/// Upper bound on the number of steps: more would be narrower than a pixel or two.
const MAX_STEPS: u64 = 300;
/// Lower bound on the length of a step: shorter ones show mostly the rhythm of the load generator.
const MIN_STEP_MS: u64 = 200;

#[derive(Debug, Serialize)]
pub(crate) struct Timeline {
    pub step_ms: u64,
    pub steps: Vec<TimelineStep>,
}

/// Number of events, orders and faults in one step, and the backlog at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TimelineStep {
    pub committed: u64,
    /// Events that a queue accepted for the first time.
    pub published: u64,
    pub repeated: u64,
    /// Orders that were settled.
    pub settled: u64,
    /// Faults of single requests.
    pub request_faults: u64,
    /// Committed and not yet published.
    pub backlog: u64,
}

pub(crate) fn timeline(history: &History) -> Timeline {
    let committed = committed_at(history);
    let settled = || {
        let orders = history.end.orders.iter();
        orders
            .filter(|order| order.version > 1)
            .map(|order| order.updated_at)
    };
    let last = committed
        .values()
        .copied()
        .chain(history.publishes.iter().map(|publish| publish.answered_at))
        .chain(settled())
        .chain([history.settings.duration_ms])
        .max()
        .unwrap_or_default();
    let step_ms = (last / MAX_STEPS + 1)
        .next_multiple_of(MIN_STEP_MS)
        .max(MIN_STEP_MS);
    let index = |at: u64| usize::try_from(at / step_ms).unwrap_or(usize::MAX);
    let mut steps = vec![TimelineStep::default(); index(last) + 1];
    for at in committed.into_values() {
        steps[index(at)].committed += 1;
    }
    for at in settled() {
        steps[index(at)].settled += 1;
    }
    for fault in &history.faults {
        if DisturbanceKind::Fault(fault.kind).is_of_one_request() {
            let step = index(fault.at).min(steps.len() - 1);
            steps[step].request_faults += 1;
        }
    }
    let mut seen = HashSet::new();
    for publish in &history.publishes {
        let step = &mut steps[index(publish.answered_at)];
        if seen.insert(publish.event_id.as_str()) {
            step.published += 1;
        } else {
            step.repeated += 1;
        }
    }
    let (mut committed, mut published) = (0_u64, 0);
    for step in &mut steps {
        committed += step.committed;
        published += step.published;
        // The clocks differ slightly: at the edge of a step a publish may appear to precede its
        // commit.
        step.backlog = committed.saturating_sub(published);
    }
    Timeline { step_ms, steps }
}

#[cfg(test)]
mod tests {
    use super::super::super::checkers::fixture;
    use super::*;

    #[test]
    fn the_backlog_grows_while_the_shard_has_no_owner() {
        let timeline = timeline(&fixture::valid());
        // The run lasts two minutes.
        assert_eq!(timeline.step_ms, 600);
        assert!(timeline.steps.len() as u64 <= MAX_STEPS + 1);
        let at = |millis: usize| timeline.steps[millis / 600];
        assert_eq!(at(3_000).committed, 2);
        assert_eq!(at(3_000).published, 2);
        assert_eq!(at(3_000).repeated, 1);
        assert_eq!(at(3_000).request_faults, 1);
        assert_eq!(at(9_000).backlog, 0);
        assert_eq!(at(10_200).backlog, 1);
        assert_eq!(at(12_600).backlog, 1);
        assert_eq!(at(13_400).backlog, 0);
        assert_eq!(at(13_400).repeated, 1);
        let settled: u64 = timeline.steps.iter().map(|step| step.settled).sum();
        assert_eq!(settled, 4);
    }
}
