//! Computes the figures of a report from the history.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;

use super::super::analysis::fault_windows::DisturbanceKind;
use super::super::analysis::isolation;
use super::super::analysis::latency::Percentiles;
use super::super::analysis::recovery::{Trigger, recoveries};
use super::super::analysis::repeats::{Cause, InterruptionKind, Repeats};
use super::super::checkers::{Invariant, Violation};
use super::super::history::{FaultKind, History, Redelivery, Settings, StoredOrder};
use super::{
    Annotation, Faults, Judged, Orders, QueueOutageFigures, RecoveryFigures, RecoveryLine,
    RepeatFigures, RepeatsAfter, Shards,
};

/// Maximum number of violations shown for each invariant.
pub(super) const EXAMPLES: usize = 10;

/// Returns the command line that repeats the run: its seed and every option that changes the
/// schedule.
pub(super) fn command(settings: &Settings) -> String {
    let duration = Duration::from_millis(settings.duration_ms);
    let lease = Duration::from_millis(settings.lease_duration_ms);
    let mut command = format!(
        "all-in-one chaos --seed {} --duration {duration:?} --rate {} --relays {} --workers {} \
         --lease-duration {lease:?}",
        settings.seed, settings.rate, settings.relays, settings.workers,
    );
    if let Some(shards) = settings.shards {
        let _ = write!(command, " --shards {shards}");
    }
    if let Some(interval) = settings.split_every_ms {
        let interval = Duration::from_millis(interval);
        let _ = write!(command, " --split-every {interval:?}");
    }
    if settings.faults != FaultKind::value_variants() {
        let faults: Vec<String> = settings.faults.iter().map(|kind| kind.name()).collect();
        command.push_str(" --faults ");
        command.push_str(&faults.join(","));
    }
    command
}

pub(super) fn judged(violations: &[Violation]) -> Vec<Judged> {
    let of = |invariant| {
        let all: Vec<&Violation> = violations
            .iter()
            .filter(|one| one.invariant == invariant)
            .collect();
        Judged {
            invariant,
            statement: invariant.statement(),
            violations: all.len(),
            examples: all.into_iter().take(EXAMPLES).cloned().collect(),
        }
    };
    Invariant::ALL.into_iter().map(of).collect()
}

pub(super) fn orders(history: &History) -> Orders {
    let posts = &history.posts;
    let requested: HashSet<&str> = posts.iter().map(|post| post.customer_id.as_str()).collect();
    let mut answers = BTreeMap::new();
    for post in posts {
        let answer = post
            .status
            .map_or("none".to_owned(), |status| status.to_string());
        *answers.entry(answer).or_default() += 1;
    }
    let confirmed: HashSet<&str> = posts
        .iter()
        .filter_map(|post| post.order_id.as_deref())
        .collect();
    let stored = &history.end.orders;
    let count =
        |matches: fn(&StoredOrder) -> bool| stored.iter().filter(|one| matches(one)).count();
    Orders {
        wanted: requested.len(),
        requests: posts.len(),
        answers,
        replayed: posts.iter().filter(|post| post.replayed).count(),
        stored: stored.len(),
        unconfirmed: stored
            .iter()
            .filter(|order| !confirmed.contains(order.order_id.as_str()))
            .count(),
        processed: count(|order| order.status == "PROCESSED"),
        rejected: count(|order| order.status == "REJECTED"),
    }
}

/// Returns the number of injected duplicate deliveries that satisfy `matches`.
pub(super) fn redelivered(history: &History, matches: impl Fn(Redelivery) -> bool) -> usize {
    let injected = history.deliveries.iter().filter_map(|one| one.injected);
    injected.filter(|&how| matches(how)).count()
}

pub(super) fn faults(history: &History) -> Faults {
    let mut by_kind = BTreeMap::new();
    for fault in &history.faults {
        *by_kind.entry(fault.kind).or_default() += 1;
    }
    let (mut killed, mut terminated) = (BTreeMap::new(), BTreeMap::new());
    for life in &history.lives {
        // Stops after the end of the run are not faults.
        if life
            .told_to_end
            .is_some_and(|at| at < history.settings.duration_ms)
        {
            let ended = if life.was_killed() {
                &mut killed
            } else {
                &mut terminated
            };
            *ended.entry(life.program).or_default() += 1;
        }
    }
    Faults {
        total: by_kind.values().sum(),
        by_kind,
        killed,
        terminated,
    }
}

pub(super) fn recovery(history: &History) -> Vec<RecoveryFigures> {
    let recoveries = recoveries(history);
    let lease = history.settings.lease_duration_ms;
    let of = |trigger: Trigger| {
        let limit_ms = trigger.limit(lease);
        let all = || recoveries.iter().filter(move |one| one.trigger == trigger);
        let figures = |strict: bool| {
            let selected = all().filter(|one| strict == one.is_judged(lease));
            Percentiles::of(selected.filter_map(|one| one.took_ms))
        };
        let isolated = history.settings.isolated.iter().copied();
        RecoveryFigures {
            trigger,
            name: trigger.name(),
            limit_ms,
            isolated: isolated
                .filter(|&kind| Trigger::after(kind) == Some(trigger))
                .count(),
            judged: all().filter(|one| one.is_judged(lease)).count(),
            undisturbed: figures(true),
            others: figures(false),
            never: all().filter(|one| one.took_ms.is_none()).count(),
            each: all()
                .map(|one| RecoveryLine {
                    at: one.at,
                    process: one.process.map(str::to_owned),
                    took_ms: one.took_ms,
                    disturbed_by: one.disturbed_by.clone(),
                })
                .collect(),
        }
    };
    Trigger::ALL.into_iter().map(of).collect()
}

pub(super) fn queue_outages(history: &History) -> Vec<QueueOutageFigures> {
    let outages = isolation::queue_outages(history).into_iter();
    outages
        .map(|outage| QueueOutageFigures {
            queue: outage.queue.to_owned(),
            at: outage.span.from,
            until: outage.span.to,
            deferred: outage.deferred,
            others: Percentiles::of(outage.others.iter().map(|(_, took)| *took)),
        })
        .collect()
}

pub(super) fn repeats(history: &History) -> RepeatFigures {
    let repeats = Repeats::of(history);
    let counts = repeats.counts();
    let kinds: BTreeSet<InterruptionKind> =
        repeats.interruptions.iter().map(|one| one.kind).collect();
    let after = kinds.into_iter().map(|interruption| {
        let counts: Vec<u64> = repeats
            .interruptions
            .iter()
            .zip(&counts)
            .filter(|(one, _)| one.kind == interruption)
            .map(|(_, count)| count.all as u64)
            .collect();
        let in_flight: Vec<u64> = repeats
            .interruptions
            .iter()
            .filter(|one| one.kind == interruption)
            .filter_map(|one| Some(one.in_flight? as u64))
            .collect();
        RepeatsAfter {
            in_flight: (!in_flight.is_empty()).then(|| Percentiles::of(in_flight)),
            interruption,
            name: interruption.name(),
            total: counts
                .iter()
                .map(|&count| usize::try_from(count).unwrap_or(usize::MAX))
                .sum(),
            repeats: Percentiles::of(counts),
        }
    });
    let causes = || repeats.repeats.iter().map(|repeat| repeat.cause);
    RepeatFigures {
        total: repeats.repeats.len(),
        lost_answers: causes()
            .filter(|cause| matches!(cause, Some(Cause::LostResponse(_))))
            .count(),
        unexplained: causes().filter(Option::is_none).count(),
        in_flight_bound: history.settings.in_flight_bound,
        after: after.collect(),
    }
}

pub(super) fn shards(history: &History) -> Shards {
    let read: HashSet<&str> = history
        .readers
        .iter()
        .map(|one| one.shard.as_str())
        .collect();
    Shards {
        read: read.len(),
        closed: history.closed_shards.len(),
    }
}

pub(super) fn memory(history: &History) -> BTreeMap<String, u64> {
    let mut most: BTreeMap<String, u64> = BTreeMap::new();
    for sample in &history.memory {
        let most = most.entry(sample.process.clone()).or_default();
        *most = sample.rss_bytes.max(*most);
    }
    most
}

pub(super) fn annotations(history: &History) -> Vec<Annotation> {
    let faults = history.faults.iter();
    faults
        .filter(|fault| !DisturbanceKind::Fault(fault.kind).is_of_one_request())
        .map(|fault| Annotation {
            at: fault.at,
            until: fault.until,
            kind: fault.kind,
            process: fault.process.clone(),
            service: fault.service,
            queue: fault.queue.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_every_option_of_the_schedule() {
        let settings = Settings {
            seed: 7,
            duration_ms: 90_000,
            rate: 50,
            relays: 2,
            workers: 3,
            lease_duration_ms: 1_500,
            faults: vec![FaultKind::Kill, FaultKind::CutAfter],
            ..Settings::default()
        };
        assert_eq!(
            command(&settings),
            "all-in-one chaos --seed 7 --duration 90s --rate 50 --relays 2 --workers 3 \
             --lease-duration 1.5s --faults kill,cut-after"
        );
        let all = Settings {
            faults: FaultKind::value_variants().to_vec(),
            ..settings
        };
        assert!(!command(&all).contains("--faults"));
        let embedded = Settings {
            shards: Some(4),
            split_every_ms: Some(5_000),
            ..all
        };
        assert!(command(&embedded).ends_with(" --shards 4 --split-every 5s"));
    }
}
