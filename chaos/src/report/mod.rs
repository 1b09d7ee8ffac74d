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
    pub shards: Shards,
    pub latency: Latencies,
    pub faults: Faults,
    pub recovery: Vec<RecoveryFigures>,
    pub queue_outages: Vec<QueueOutageFigures>,
    pub repeats: RepeatFigures,
    /// Maximum resident memory of each process, in bytes.
    pub memory: BTreeMap<String, u64>,
    pub drained_after_ms: Option<u64>,
    pub timeline: Timeline,
    /// Faults of processes and services, for the timeline of the page.
    pub annotations: Vec<Annotation>,
}

/// An invariant and how often it was violated.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    pub invariant: Invariant,
    pub statement: &'static str,
    pub violations: usize,
    /// The first violations.
    pub examples: Vec<Violation>,
}

#[derive(Debug, Serialize)]
pub(super) struct Orders {
    /// Orders that clients requested; a request and its repetitions count as one.
    pub wanted: usize,
    pub requests: usize,
    /// Number of requests by status of the response; `none` without a response.
    pub answers: BTreeMap<String, usize>,
    /// 201 responses marked as replays.
    pub replayed: usize,
    pub stored: usize,
    /// Orders stored and not confirmed to any client.
    pub unconfirmed: usize,
    pub processed: usize,
    pub rejected: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Events {
    pub committed: usize,
    /// Accepted by a queue, repeats included.
    pub published: usize,
    /// Delivered to consumers, redeliveries included.
    pub delivered: usize,
    /// Of these, injected by a fault.
    pub duplicates_injected: usize,
    /// Of these, to a second process while the first had the message.
    pub concurrent_duplicates: usize,
}

/// Shards of the outbox table's stream.
#[derive(Debug, Serialize)]
pub(super) struct Shards {
    /// Shards that a relay read.
    pub read: usize,
    /// Of these, closed and read to their end.
    pub closed: usize,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    /// From a request to its 201.
    pub confirmation: Latency,
    /// From the creation of an order to PROCESSED.
    pub processing: Latency,
}

#[derive(Debug, Serialize)]
pub(super) struct Faults {
    pub total: u64,
    pub by_kind: BTreeMap<FaultKind, u64>,
    /// Number of processes ended by SIGKILL, one by one or all at once.
    pub killed: BTreeMap<Program, u64>,
    /// Number of processes ended by SIGTERM.
    pub terminated: BTreeMap<Program, u64>,
}

/// The recoveries of one kind, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct RecoveryFigures {
    pub trigger: Trigger,
    /// Name of the trigger in the reports.
    pub name: &'static str,
    /// Time limit without other disturbances; `None` if there is none.
    pub limit_ms: Option<u64>,
    /// Number of faults of the kind that were injected in isolation.
    pub isolated: usize,
    /// Number of recoveries without other disturbances, to which the limit applies.
    pub judged: usize,
    pub undisturbed: Percentiles,
    /// Recoveries with other disturbances or without a limit.
    pub others: Percentiles,
    /// Number of faults after which no event was published before the end of the run.
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

/// An outage of one queue.
#[derive(Debug, Serialize)]
pub(super) struct QueueOutageFigures {
    pub queue: String,
    pub at: u64,
    pub until: u64,
    /// Number of its events that relays deferred.
    pub deferred: u64,
    /// Events of the other queues from the commit to the acceptance, in milliseconds, while there
    /// was no other fault.
    pub others: Percentiles,
}

#[derive(Debug, Serialize)]
pub(super) struct RepeatFigures {
    pub total: usize,
    /// Repeats after a lost response to an earlier send.
    pub lost_answers: usize,
    pub unexplained: usize,
    pub in_flight_bound: usize,
    pub after: Vec<RepeatsAfter>,
}

/// Repeats after one kind of interruption of their relay.
#[derive(Debug, Serialize)]
pub(super) struct RepeatsAfter {
    pub interruption: InterruptionKind,
    /// Name of the interruption in the reports.
    pub name: &'static str,
    /// Number of repeats after each interruption.
    pub repeats: Percentiles,
    pub total: usize,
    /// Number of sends in flight at each death; `None` for other interruptions.
    pub in_flight: Option<Percentiles>,
}

#[derive(Debug, Serialize)]
pub(super) struct Annotation {
    pub at: u64,
    pub until: Option<u64>,
    pub kind: FaultKind,
    pub process: Option<String>,
    pub service: Option<CloudService>,
    pub queue: Option<String>,
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
            shards: figures::shards(history),
            latency: Latencies {
                confirmation: latency::confirmations(history),
                processing: latency::processing(history),
            },
            faults: figures::faults(history),
            recovery: figures::recovery(history),
            queue_outages: figures::queue_outages(history),
            repeats: figures::repeats(history),
            memory: figures::memory(history),
            drained_after_ms: history.end.drained_after_ms,
            timeline: timeline(history),
            annotations: figures::annotations(history),
        }
    }

    /// Returns a sentence with the number of measured recoveries by trigger: zero means that the
    /// run shows nothing about that trigger.
    fn recoveries_judged(&self) -> String {
        let limited = self.recovery.iter().filter(|of| of.limit_ms.is_some());
        let each: Vec<String> = limited
            .map(|of| format!("{} after {}", format::count(of.judged), of.trigger.name()))
            .collect();
        format!("Recoveries measured: {}.", each.join(", "))
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
            ("/shards/read", 1),
            ("/shards/closed", 0),
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
        for event in &mut history.end.outbox {
            event.status = "PENDING".to_owned();
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
        let passed = Report::of(&fixture::valid(), &[]).to_text();
        let judged = "Every invariant holds. Recoveries measured: 1 after SIGKILL of the relay with \
                      the lease, 0 after SIGTERM of the relay with the lease, 0 after end of an outage, 0 after end of an outage of one queue.\n";
        assert!(passed.ends_with(judged), "{passed}");
        let of = |name: &str| {
            let mut lines = passed.lines().map(str::trim_start);
            lines
                .find(|line| line.starts_with(name))
                .unwrap_or_default()
        };
        assert!(of("SIGKILL of the relay").contains("max    3.4 s   of 1, limit 4.0 s"));
        assert!(of("SIGTERM of the relay").contains("NONE MEASURED"));
    }
}
