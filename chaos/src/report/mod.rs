//! The report of a run.
//!
//! [`Report`] contains every figure; serialized it is the JSON report. [`figures`] computes it from
//! the history, [`text`] writes it for a terminal, and [`html`] embeds the JSON in a page that
//! renders it. [`format`] writes numbers.

mod figures;
mod format;
mod html;
mod text;

use std::collections::BTreeMap;

use serde::Serialize;

use super::analysis::latency::{self, Latency, Percentiles};
use super::analysis::recovery::Trigger;
use super::analysis::repeats::InterruptionKind;
use super::analysis::timeline::{Timeline, timeline};
use super::checkers::{Invariant, Violation};
use super::history::{CloudService, FaultKind, History, Program, Redelivery, Settings};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub passed: bool,
    /// The command line that repeats the run.
    pub command: String,
    pub settings: Settings,
    pub invariants: Vec<Judged>,
    pub orders: Orders,
    pub events: Events,
    pub latency: Latencies,
    pub faults: Faults,
    pub recovery: Vec<RecoveryFigures>,
    pub repeats: RepeatFigures,
    /// The most that each process held, in bytes of resident memory.
    pub memory: BTreeMap<String, u64>,
    pub drained_after_ms: Option<u64>,
    pub timeline: Timeline,
    /// What was done to processes and services, for the picture.
    pub annotations: Vec<Annotation>,
}

/// An invariant and how often it was violated.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    pub invariant: Invariant,
    pub statement: &'static str,
    pub violations: usize,
    /// The first few.
    pub examples: Vec<Violation>,
}

#[derive(Debug, Serialize)]
pub(super) struct Orders {
    /// That clients wanted; a request and its repetitions are one.
    pub wanted: usize,
    pub requests: usize,
    /// Requests by their answer; `none` when there was none.
    pub answers: BTreeMap<String, usize>,
    /// 201s that named an earlier order.
    pub replayed: usize,
    pub stored: usize,
    /// Stored, though no client was ever told so.
    pub unconfirmed: usize,
    pub processed: usize,
    pub rejected: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Events {
    pub committed: usize,
    /// Accepted by a queue, repeats included.
    pub published: usize,
    /// Handed to consumers, redeliveries included.
    pub delivered: usize,
    /// Of those, by a fault.
    pub duplicates_injected: usize,
    /// Of those, to a second process while the first had the message.
    pub concurrent_duplicates: usize,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    /// From a request to its 201.
    pub confirmation: Latency,
    /// From an order's commit to its being PROCESSED.
    pub processing: Latency,
}

#[derive(Debug, Serialize)]
pub(super) struct Faults {
    pub total: u64,
    pub by_kind: BTreeMap<FaultKind, u64>,
    /// Processes that SIGKILL ended, all at once or one by one.
    pub killed: BTreeMap<Program, u64>,
    pub terminated: BTreeMap<Program, u64>,
}

/// The recoveries of one kind, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct RecoveryFigures {
    pub trigger: Trigger,
    /// The trigger as the reports call it.
    pub name: &'static str,
    /// What is allowed when nothing else is wrong.
    pub limit_ms: Option<u64>,
    /// How many faults of the kind were injected by themselves, to be judged.
    pub isolated: usize,
    /// How many recoveries were held to the limit: nothing else was wrong.
    pub judged: usize,
    pub undisturbed: Percentiles,
    /// While something else was wrong, too, or where there is no limit.
    pub others: Percentiles,
    /// Nothing flowed again before the end of the run.
    pub never: usize,
    pub each: Vec<RecoveryLine>,
}

#[derive(Debug, Serialize)]
pub(super) struct RecoveryLine {
    pub at: u64,
    pub process: Option<String>,
    pub took_ms: Option<u64>,
    pub disturbed_by: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RepeatFigures {
    pub total: usize,
    /// Because the answer to an earlier send was lost.
    pub lost_answers: usize,
    pub unexplained: usize,
    pub in_flight_bound: usize,
    pub after: Vec<RepeatsAfter>,
}

/// Repeats by what interrupted their relay.
#[derive(Debug, Serialize)]
pub(super) struct RepeatsAfter {
    pub interruption: InterruptionKind,
    /// The interruption as the reports call it.
    pub name: &'static str,
    /// How many repeats each one was followed by.
    pub repeats: Percentiles,
    pub total: usize,
    /// Of deaths: how many sends were in flight at each.
    pub in_flight: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
pub(super) struct Annotation {
    pub at: u64,
    pub until: Option<u64>,
    pub kind: FaultKind,
    pub process: Option<String>,
    pub service: Option<CloudService>,
}

impl Report {
    pub(super) fn of(history: &History, violations: &[Violation]) -> Self {
        Self {
            passed: violations.is_empty(),
            command: figures::command(&history.settings),
            settings: history.settings.clone(),
            invariants: figures::judged(violations),
            orders: figures::orders(history),
            events: Events {
                committed: history.end.outbox.len(),
                published: history.publishes.len(),
                delivered: history.deliveries.len(),
                duplicates_injected: figures::redelivered(history, |_| true),
                concurrent_duplicates: figures::redelivered(history, |how| {
                    how == Redelivery::Concurrent
                }),
            },
            latency: Latencies {
                confirmation: latency::confirmations(history),
                processing: latency::processing(history),
            },
            faults: figures::faults(history),
            recovery: figures::recovery(history),
            repeats: figures::repeats(history),
            memory: figures::memory(history),
            drained_after_ms: history.end.drained_after_ms,
            timeline: timeline(history),
            annotations: figures::annotations(history),
        }
    }

    /// How many recoveries were held to their limits, by what they were from:
    /// where that is none, nothing was shown.
    fn recoveries_judged(&self) -> String {
        let limited = self.recovery.iter().filter(|of| of.limit_ms.is_some());
        let each: Vec<String> = limited
            .map(|of| format!("{} after {}", format::count(of.judged), of.trigger.name()))
            .collect();
        format!("Recoveries judged: {}.", each.join(", "))
    }

    /// Returns the JSON report.
    pub(super) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    pub(super) fn to_text(&self) -> String {
        text::Text(self).to_string()
    }

    /// Returns a page that renders the JSON report and needs no network.
    pub(super) fn to_html(&self) -> serde_json::Result<String> {
        html::page(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::checkers::{check, fixture};
    use super::*;

    #[test]
    fn the_json_report_has_the_figures_of_the_run() {
        let history = fixture::valid();
        let json = Report::of(&history, &check(&history)).to_json().unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["passed"], true);
        assert_eq!(
            json["invariants"].as_array().unwrap().len(),
            Invariant::ALL.len()
        );
        for (pointer, expected) in [
            ("/orders/wanted", 5),
            ("/orders/requests", 6),
            ("/orders/answers/201", 4),
            ("/orders/answers/503", 1),
            ("/orders/answers/none", 1),
            ("/orders/replayed", 1),
            ("/orders/stored", 4),
            ("/orders/unconfirmed", 0),
            ("/orders/processed", 2),
            ("/orders/rejected", 2),
            ("/events/committed", 7),
            ("/events/published", 9),
            ("/faults/total", 3),
            ("/faults/by_kind/cut-after", 2),
            ("/faults/by_kind/kill", 1),
            ("/faults/killed/outbox-relay", 1),
            ("/repeats/total", 2),
            ("/repeats/lost_answers", 1),
            ("/repeats/unexplained", 0),
            ("/repeats/after/0/total", 1),
            ("/repeats/after/0/in_flight/max", 1),
            ("/recovery/0/isolated", 0),
            ("/recovery/0/judged", 1),
            ("/recovery/1/judged", 0),
            ("/recovery/0/undisturbed/count", 1),
            ("/recovery/0/undisturbed/max", 3_405),
            ("/recovery/0/limit_ms", 4_000),
            ("/memory/relay-2", 20 << 20),
            ("/drained_after_ms", 1_500),
            ("/annotations/0/at", 10_000),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected.into()), "{pointer}");
        }
        assert_eq!(json["faults"]["terminated"], serde_json::json!({}));
    }

    #[test]
    fn violations_are_counted_and_the_first_are_shown() {
        let mut history = fixture::valid();
        for row in &mut history.end.outbox {
            row.status = "PENDING".to_owned();
        }
        for _ in 0..2 {
            history.end.outbox.extend(history.end.outbox.clone());
        }
        let violations = check(&history);
        let report = Report::of(&history, &violations);
        assert!(!report.passed);
        let drained = |judged: &&Judged| judged.invariant == Invariant::Drained;
        let judged = report.invariants.iter().find(drained).unwrap();
        assert_eq!(judged.violations, 28);
        assert_eq!(judged.examples.len(), figures::EXAMPLES);
        let text = report.to_text();
        assert!(text.contains("and 18 more"), "{text}");
        assert!(text.contains("Replay with --seed"), "{text}");
        let well = Report::of(&fixture::valid(), &[]).to_text();
        let judged = "Every invariant holds. Recoveries judged: 1 after SIGKILL of the relay with \
                      the lease, 0 after SIGTERM of the relay with the lease, 0 after end of an outage.\n";
        assert!(well.ends_with(judged), "{well}");
        let of = |name: &str| {
            let mut lines = well.lines().map(str::trim_start);
            lines
                .find(|line| line.starts_with(name))
                .unwrap_or_default()
        };
        assert!(of("SIGKILL of the relay").contains("max    3.4 s   of 1, 4.0 s allowed"));
        assert!(of("SIGTERM of the relay").contains("NONE COULD BE JUDGED"));
    }
}
