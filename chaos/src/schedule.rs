//! What happens to processes and services, and when: all of it drawn from the
//! seed before the run begins. Faults of single requests are drawn by
//! [`super::proxy`], from the same seed.
//!
//! A run is a row of storms with lulls between them ([`phases`]). The time of
//! the storms is cut into equal slots, one for each fault of a kind, and a fault
//! comes at a random instant of its slot. So a run of ten minutes has as many
//! kills as its length says, and a short one has one of everything.

mod phases;
mod sampling;

use std::time::Duration;

use phases::{Lull, Measured, Phases};
use sampling::{outage, service, what};

use super::history::{CloudService, FaultKind};

/// What happens to the system, in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) actions: Vec<Action>,
    /// Each fault that comes by itself, in a lull, so that the recovery from it
    /// can be judged.
    pub(super) isolated: Vec<FaultKind>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Action {
    /// Since the start of the run.
    pub(super) at: Duration,
    pub(super) what: Incident,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incident {
    /// SIGKILL. The process is started again after the pause.
    Kill { victim: Victim, pause: Duration },
    /// SIGKILL of everything; a pause for each process.
    KillAll { pauses: Vec<Duration> },
    /// SIGTERM. The process is started again after the pause.
    Term { victim: Victim, pause: Duration },
    /// SIGSTOP, and SIGCONT after this time.
    Stop { victim: Victim, lasting: Duration },
    /// The next relay whose send is answered is killed before it knows.
    KillAfterSend { pause: Duration },
    /// Records of the next page that is read are trimmed from the stream.
    Trim,
    /// From then on nothing goes wrong but what the schedule says, and every
    /// process runs.
    LullBegins,
    /// Faults of requests happen again.
    LullEnds,
    /// A service is away.
    Outage {
        /// `None`: all of them.
        service: Option<CloudService>,
        manner: Manner,
        lasting: Duration,
    },
}

/// Which process is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// By its number among the processes: API first, then relays, then workers.
    Process(usize),
    /// The relay that began to read a shard last: it has the lease.
    LeaseHolder,
}

const API: Victim = Victim::Process(0);
const FIRST_RELAY: usize = 1;

/// How a service that is away looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It answers 503.
    Refuses,
    /// It closes connections.
    Cuts,
    /// It takes requests and never answers.
    Silent,
}

/// What the schedule depends on besides the seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) duration: Duration,
    pub(super) relays: usize,
    pub(super) workers: usize,
    pub(super) lease_duration: Duration,
    pub(super) faults: &'a [FaultKind],
}

/// The mean time between two faults of a kind, during storms.
const fn interval(kind: FaultKind) -> Option<Duration> {
    let millis = match kind {
        FaultKind::Kill => 2_000,
        FaultKind::KillAll => 40_000,
        FaultKind::KillAfterSend => 15_000,
        FaultKind::Stop => 8_000,
        FaultKind::Term => 8_000,
        FaultKind::TrimmedIterator => 10_000,
        FaultKind::Outage => 45_000,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// Nothing happens before the system is warm.
const WARM_UP: Duration = Duration::from_secs(1);

impl Schedule {
    /// The same seed and plan make the same schedule.
    pub(super) fn new(seed: u64, plan: &Plan<'_>) -> Self {
        let phases = Phases::of(plan.duration, plan.lease_duration);
        let mut actions = Vec::new();
        for (n, &kind) in plan.faults.iter().enumerate() {
            if let Some(interval) = interval(kind)
                && !plan.faults[..n].contains(&kind)
            {
                // Of its own, so that leaving a kind out does not move the others.
                let mut random = random(seed, kind as u64);
                // What is trimmed is left to the sweeper, which takes longer than a
                // lull lasts: then no recovery would be from one fault alone.
                let from = match kind {
                    FaultKind::TrimmedIterator => phases.before_last_storm,
                    _ => Duration::ZERO,
                };
                let times = times(phases.storm - from, interval, waits(kind), &mut random);
                actions.extend(times.map(|(in_storm, mut random)| Action {
                    at: phases.instant(from + in_storm),
                    what: what(kind, plan, &mut random),
                }));
            }
        }
        let mut random = random(seed, LULLS);
        let mut isolated = Vec::new();
        for lull in &phases.lulls {
            let (kind, fault) = measured(lull, plan, &mut random);
            let fault = plan.faults.contains(&kind).then_some(fault);
            // Nobody takes over from a relay that is alone.
            if fault.is_some() && (plan.relays > 1 || !kind.is_of_processes()) {
                isolated.push(kind);
            }
            actions.extend(during(lull, fault));
        }
        actions.sort_by_key(|action| action.at);
        Self { actions, isolated }
    }
}

/// The one fault of a lull.
fn measured(lull: &Lull, plan: &Plan<'_>, random: &mut fastrand::Rng) -> (FaultKind, Incident) {
    match lull.measured {
        // So long that its successor has the lease before it is back.
        Measured::Kill => {
            let victim = Victim::LeaseHolder;
            let pause = plan.lease_duration + Duration::from_secs(1);
            (FaultKind::Kill, Incident::Kill { victim, pause })
        }
        Measured::Term => {
            let victim = Victim::LeaseHolder;
            let pause = Duration::from_secs(2);
            (FaultKind::Term, Incident::Term { victim, pause })
        }
        Measured::Outage(lasting) => {
            let service = Some(service(random));
            (FaultKind::Outage, outage(service, lasting, random))
        }
        Measured::OutageOfAll(lasting) => (FaultKind::Outage, outage(None, lasting, random)),
    }
}

/// A lull, and the one fault in it.
fn during(lull: &Lull, fault: Option<Incident>) -> impl Iterator<Item = Action> {
    [
        Some((lull.at, Incident::LullBegins)),
        fault.map(|fault| (lull.fault_at, fault)),
        Some((lull.at + lull.lasting, Incident::LullEnds)),
    ]
    .into_iter()
    .flatten()
    .map(|(at, what)| Action { at, what })
}

/// Random numbers for one purpose.
fn random(seed: u64, purpose: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ purpose.wrapping_mul(SPREAD))
}

/// Not the number of any kind of fault.
const LULLS: u64 = u64::MAX;

/// The golden ratio in 64 bits: neighbouring numbers get seeds far apart.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Whether a fault waits for its moment, once its time has come.
const fn waits(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::KillAfterSend | FaultKind::TrimmedIterator)
}

/// One instant in each of the equal slots, and random numbers for each. What
/// waits for its moment begins early in its slot.
fn times(
    duration: Duration,
    interval: Duration,
    waits: bool,
    random: &mut fastrand::Rng,
) -> impl Iterator<Item = (Duration, fastrand::Rng)> {
    let span = duration.saturating_sub(WARM_UP);
    let count = (span.as_millis() / interval.as_millis()).max(1);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let slot = span / count;
    (0..count).map(move |n| {
        let part = if waits { 0.5 } else { 1.0 };
        let at = WARM_UP + slot * n + slot.mul_f64(part * random.f64());
        (at, random.fork())
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn plan(seconds: u64, faults: &[FaultKind]) -> Plan<'_> {
        Plan {
            duration: Duration::from_secs(seconds),
            relays: 2,
            workers: 2,
            lease_duration: Duration::from_secs(3),
            faults,
        }
    }

    #[test]
    fn a_seed_makes_one_schedule() {
        let plan = plan(600, FaultKind::value_variants());
        assert_eq!(Schedule::new(7, &plan), Schedule::new(7, &plan));
        assert_ne!(Schedule::new(7, &plan), Schedule::new(8, &plan));
    }

    #[test]
    fn leaving_a_kind_out_leaves_the_others_as_they_are() {
        let kills = |faults: &[FaultKind]| -> Vec<_> {
            let actions = Schedule::new(1, &plan(60, faults)).actions.into_iter();
            actions
                .filter(|action| matches!(action.what, Incident::Kill { .. }))
                .collect()
        };
        assert!(kills(&[FaultKind::Kill]).len() > 10);
        assert_eq!(
            kills(&[FaultKind::Kill, FaultKind::Term]),
            kills(&[FaultKind::Kill])
        );
    }

    #[test]
    fn in_a_lull_one_thing_happens() {
        let schedule = Schedule::new(1, &plan(600, FaultKind::value_variants()));
        let mut actions = schedule.actions.iter().map(|action| &action.what);
        let mut lulls = 0;
        while actions.by_ref().any(|what| *what == Incident::LullBegins) {
            lulls += 1;
            let only = actions.next().unwrap();
            let measured = matches!(
                only,
                Incident::Kill {
                    victim: Victim::LeaseHolder,
                    ..
                } | Incident::Term {
                    victim: Victim::LeaseHolder,
                    ..
                } | Incident::Outage { .. }
            );
            assert!(measured, "{only:?}");
            assert_eq!(actions.next(), Some(&Incident::LullEnds));
        }
        assert!(lulls > 6, "{lulls}");
        assert_eq!(schedule.isolated.len(), lulls);
    }

    #[test]
    fn nothing_is_trimmed_before_a_lull() {
        for seconds in [5, 60, 600] {
            let schedule = Schedule::new(1, &plan(seconds, FaultKind::value_variants()));
            let mut actions = schedule.actions.iter();
            let lull = |action: &&Action| action.what == Incident::LullEnds;
            let last = actions.rfind(lull).map_or(Duration::ZERO, |end| end.at);
            let trims = schedule.actions.iter();
            let trims: Vec<_> = trims.filter(|one| one.what == Incident::Trim).collect();
            assert!(!trims.is_empty(), "{seconds} s");
            assert!(trims.iter().all(|trim| trim.at > last), "{seconds} s");
        }
    }

    #[test]
    fn only_what_happens_is_to_be_judged() {
        let isolated = |relays, faults: &[FaultKind]| {
            let plan = Plan {
                relays,
                ..plan(60, faults)
            };
            Schedule::new(1, &plan).isolated
        };
        let both = [FaultKind::Kill, FaultKind::Term];
        assert_eq!(isolated(2, &both), both);
        assert_eq!(isolated(2, &[FaultKind::Term]), [FaultKind::Term]);
        assert_eq!(isolated(1, &both), [], "a relay that is alone");
    }

    #[test]
    fn ten_minutes_have_more_than_two_hundred_kills() {
        let schedule = Schedule::new(1, &plan(600, FaultKind::value_variants()));
        let kills: usize = schedule
            .actions
            .iter()
            .map(|action| match &action.what {
                Incident::Kill { .. } | Incident::KillAfterSend { .. } => 1,
                Incident::KillAll { pauses } => pauses.len(),
                _ => 0,
            })
            .sum();
        assert!(kills > 230, "{kills}");
    }

    #[test]
    fn the_shortest_run_has_one_of_everything() {
        let kinds = FaultKind::value_variants();
        let schedule = Schedule::new(3, &plan(5, kinds));
        for expected in kinds.iter().filter(|kind| interval(**kind).is_some()) {
            let found = schedule.actions.iter().any(|action| {
                matches!(
                    (expected, &action.what),
                    (FaultKind::Kill, Incident::Kill { .. })
                        | (FaultKind::KillAll, Incident::KillAll { .. })
                        | (FaultKind::KillAfterSend, Incident::KillAfterSend { .. })
                        | (FaultKind::Stop, Incident::Stop { .. })
                        | (FaultKind::Term, Incident::Term { .. })
                        | (FaultKind::TrimmedIterator, Incident::Trim)
                        | (FaultKind::Outage, Incident::Outage { .. })
                )
            });
            assert!(found, "{expected:?}");
        }
    }

    #[test]
    fn everything_happens_within_the_run_and_in_order() {
        let plan = plan(600, FaultKind::value_variants());
        let schedule = Schedule::new(5, &plan);
        assert!(schedule.actions.is_sorted_by_key(|action| action.at));
        let mut times = schedule.actions.iter().map(|action| action.at);
        assert!(times.all(|at| (WARM_UP..=plan.duration).contains(&at)));
    }
}
