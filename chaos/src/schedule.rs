//! The schedule of faults of processes and services, generated from the seed before the run begins.
//! Faults of single requests are sampled by [`super::proxy`], from the same seed.
//!
//! A run consists of fault phases with quiet phases between them ([`phases`]). The time of the
//! fault phases is divided into equal slots for each kind of fault, and a fault occurs at a random
//! instant of its slot. So the number of kills is proportional to the length of a run, and a short
//! run has one fault of each kind.

mod phases;
mod sampling;

use std::time::Duration;

use phases::{Measured, Phases, QuietPhase};
use sampling::{outage, queue_outage, service, what};

use super::degradation::Degradation;
use super::history::{CloudService, FaultKind};

/// Actions in the order of time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) actions: Vec<Action>,
    /// Faults of the quiet phases, so that the recovery from each can be checked.
    pub(super) isolated: Vec<FaultKind>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Action {
    /// Time since the start of the run.
    pub(super) at: Duration,
    pub(super) what: Incident,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incident {
    /// SIGKILL. The process is started again after the pause.
    Kill { victim: Victim, pause: Duration },
    /// SIGKILL of all processes, with a pause for each of them.
    KillAll { pauses: Vec<Duration> },
    /// SIGTERM. The process is started again after the pause.
    Term { victim: Victim, pause: Duration },
    /// SIGSTOP, and SIGCONT after this time.
    Stop { victim: Victim, lasting: Duration },
    /// SIGKILL of the next relay whose send was answered, before it receives the response.
    KillAfterSend { pause: Duration },
    /// Trim of records of the next page that is read.
    Trim,
    /// Start of a quiet phase: only scheduled faults occur, and every process runs.
    QuietPhaseBegins,
    /// End of a quiet phase: faults of requests occur again.
    QuietPhaseEnds,
    /// Outage of a service.
    Outage {
        /// `None` for all services.
        service: Option<CloudService>,
        manner: Manner,
        lasting: Duration,
    },
    /// Outage of one queue, by its index.
    QueueOutage { queue: usize, lasting: Duration },
    /// Degradation of the embedded cloud.
    Degradation {
        degradation: Degradation,
        lasting: Duration,
    },
}

/// Target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// Process by its index, in the order API, relays, workers.
    Process(usize),
    /// Relay that reads the most open shards and thus owns their leases.
    LeaseHolder,
}

/// Number of queues that relays send to.
pub(super) const QUEUES: usize = 2;

const API: Victim = Victim::Process(0);
const FIRST_RELAY: usize = 1;

/// Symptom of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// The service responds with 503.
    Refuses,
    /// The service closes connections.
    Cuts,
    /// The service accepts requests and never responds.
    Silent,
}

/// Parameters of the schedule in addition to the seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) duration: Duration,
    pub(super) relays: usize,
    pub(super) workers: usize,
    pub(super) lease_duration: Duration,
    pub(super) faults: &'a [FaultKind],
}

/// Returns the mean time between two faults of a kind during fault phases.
const fn interval(kind: FaultKind) -> Option<Duration> {
    let millis = match kind {
        FaultKind::Kill => 2_000,
        FaultKind::KillAll => 40_000,
        FaultKind::KillAfterSend => 15_000,
        FaultKind::Stop => 8_000,
        FaultKind::Term => 8_000,
        FaultKind::TrimmedIterator => 10_000,
        FaultKind::Outage => 45_000,
        FaultKind::SlowTransactions
        | FaultKind::HotPartitions
        | FaultKind::IndexDelay
        | FaultKind::StreamDelay => 12_000,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// Time without faults at the start, until the system has warmed up.
const WARM_UP: Duration = Duration::from_secs(1);

impl Schedule {
    /// Generates the schedule; the same seed and plan produce the same schedule.
    pub(super) fn new(seed: u64, plan: &Plan<'_>) -> Self {
        let phases = Phases::of(plan.duration, plan.lease_duration);
        let mut actions = Vec::new();
        for (n, &kind) in plan.faults.iter().enumerate() {
            if let Some(interval) = interval(kind)
                && !plan.faults[..n].contains(&kind)
            {
                // A separate generator for each kind, so that omitting a kind does not change the
                // others.
                let mut random = random(seed, kind as u64);
                // Trimmed events are left to the sweeper, which takes longer than a quiet phase
                // lasts: the recovery would then not be from one fault alone.
                let from = match kind {
                    FaultKind::TrimmedIterator => phases.before_last_fault_phase,
                    _ => Duration::ZERO,
                };
                let times = times(phases.fault_time - from, interval, waits(kind), &mut random);
                actions.extend(times.map(|(fault_time, mut random)| Action {
                    at: phases.instant(from + fault_time),
                    what: what(kind, plan, &mut random),
                }));
            }
        }
        let mut random = random(seed, QUIET_PHASES);
        let mut isolated = Vec::new();
        for quiet_phase in &phases.quiet_phases {
            let mut faults = Vec::new();
            for &(at, measured) in &quiet_phase.faults {
                let (kind, what) = fault_of(measured, plan, &mut random);
                if plan.faults.contains(&kind) {
                    // A single relay has no other relay to take over.
                    if plan.relays > 1 || !kind.is_of_processes() {
                        isolated.push(kind);
                    }
                    faults.push(Action { at, what });
                }
            }
            actions.extend(during(quiet_phase, faults));
        }
        actions.sort_by_key(|action| action.at);
        Self { actions, isolated }
    }
}

/// Returns a fault of a quiet phase.
fn fault_of(
    measured: Measured,
    plan: &Plan<'_>,
    random: &mut fastrand::Rng,
) -> (FaultKind, Incident) {
    match measured {
        // The pause is so long that another relay acquires the lease first.
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
        Measured::QueueOutage => (FaultKind::QueueOutage, queue_outage(random)),
    }
}

/// Returns the actions of a quiet phase with these faults.
fn during(quiet_phase: &QuietPhase, faults: Vec<Action>) -> impl Iterator<Item = Action> {
    let action = |at, what| std::iter::once(Action { at, what });
    let end = quiet_phase.at + quiet_phase.lasting;
    action(quiet_phase.at, Incident::QuietPhaseBegins)
        .chain(faults)
        .chain(action(end, Incident::QuietPhaseEnds))
}

/// Returns a generator for one purpose.
fn random(seed: u64, purpose: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ purpose.wrapping_mul(SPREAD))
}

/// Distinct from the numbers of the kinds of faults.
const QUIET_PHASES: u64 = u64::MAX;

/// Golden ratio in 64 bits: it spreads adjacent seeds.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns `true` for a fault that is armed and waits for its occasion.
const fn waits(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::KillAfterSend | FaultKind::TrimmedIterator)
}

/// Returns one instant in each of the equal slots, with a generator for each. Armed faults begin
/// early in their slot.
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
    fn a_seed_determines_the_schedule() {
        let plan = plan(600, FaultKind::value_variants());
        assert_eq!(Schedule::new(7, &plan), Schedule::new(7, &plan));
        assert_ne!(Schedule::new(7, &plan), Schedule::new(8, &plan));
    }

    #[test]
    fn omitting_a_kind_does_not_change_the_others() {
        let kills = |faults: &[FaultKind]| -> Vec<_> {
            let actions = Schedule::new(1, &plan(120, faults)).actions.into_iter();
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
    fn a_quiet_phase_has_its_measured_faults_only() {
        let schedule = Schedule::new(1, &plan(600, FaultKind::value_variants()));
        let mut actions = schedule.actions.iter().map(|action| &action.what);
        let (mut quiet_phases, mut queue_outages) = (0, 0);
        while actions
            .by_ref()
            .any(|what| *what == Incident::QuietPhaseBegins)
        {
            quiet_phases += 1;
            let mut only = actions.next().unwrap();
            if matches!(only, Incident::QueueOutage { .. }) {
                queue_outages += 1;
                only = actions.next().unwrap();
            }
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
            assert_eq!(actions.next(), Some(&Incident::QuietPhaseEnds));
        }
        assert!(quiet_phases > 6, "{quiet_phases}");
        assert!(queue_outages > 2, "{queue_outages}");
        assert_eq!(schedule.isolated.len(), quiet_phases + queue_outages);
    }

    #[test]
    fn no_records_are_trimmed_before_a_quiet_phase() {
        for seconds in [5, 60, 600] {
            let schedule = Schedule::new(1, &plan(seconds, FaultKind::value_variants()));
            let mut actions = schedule.actions.iter();
            let quiet_phase = |action: &&Action| action.what == Incident::QuietPhaseEnds;
            let last = actions
                .rfind(quiet_phase)
                .map_or(Duration::ZERO, |end| end.at);
            let trims = schedule.actions.iter();
            let trims: Vec<_> = trims.filter(|one| one.what == Incident::Trim).collect();
            assert!(!trims.is_empty(), "{seconds} s");
            assert!(trims.iter().all(|trim| trim.at > last), "{seconds} s");
        }
    }

    #[test]
    fn only_injected_faults_are_listed_as_isolated() {
        let isolated = |relays, faults: &[FaultKind]| {
            let plan = Plan {
                relays,
                ..plan(60, faults)
            };
            Schedule::new(1, &plan).isolated
        };
        let both = [FaultKind::Kill, FaultKind::Term];
        assert_eq!(isolated(2, &both), both);
        let all = [FaultKind::Kill, FaultKind::QueueOutage, FaultKind::Term];
        assert_eq!(isolated(2, FaultKind::value_variants()), all);
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
    fn the_shortest_run_has_one_fault_of_each_kind() {
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
                ) || matches!(
                    &action.what,
                    Incident::Degradation { degradation, .. } if degradation.kind() == *expected
                )
            });
            assert!(found, "{expected:?}");
        }
    }

    #[test]
    fn actions_are_ordered_and_within_the_run() {
        let plan = plan(600, FaultKind::value_variants());
        let schedule = Schedule::new(5, &plan);
        assert!(schedule.actions.is_sorted_by_key(|action| action.at));
        let mut times = schedule.actions.iter().map(|action| action.at);
        assert!(times.all(|at| (WARM_UP..=plan.duration).contains(&at)));
    }
}
