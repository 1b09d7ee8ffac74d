//! Divides a run into fault phases, with faults in quick succession, and quiet phases between them,
//! each with one fault at a time: only then can the recovery from that fault, and the latency
//! without any fault, be measured.

use std::time::Duration;

/// Length of a fault phase in a run that has time for it. A shorter run has shorter fault phases,
/// so that one kill and one stop can be measured; if these do not fit with the minimum, it measures
/// less.
const FAULT_PHASE: Duration = Duration::from_secs(26);
const MIN_FAULT_PHASE: Duration = Duration::from_secs(4);

/// Time without a fault at the start of a quiet phase, in addition to two leases. Processes that
/// the fault phase left dead or paused are started; one lease has to expire before a relay
/// publishes again, and the backlog follows.
const QUIET: Duration = Duration::from_secs(4);

/// Time to recover from the fault, in addition to a lease.
const RECOVERY: Duration = Duration::from_secs(3);

/// Maximum length of an outage of one queue. Runs that have time for it, a kill and a stop have
/// one.
pub(super) const QUEUE_OUTAGE: Duration = Duration::from_secs(15);

/// Time after an outage of one queue until the next fault: its events are published from the table.
const QUEUE_RECOVERY: Duration = Duration::from_secs(5);

/// Minimum length of a run with one outage of all services, and the length of that outage.
const LONG_RUN: Duration = Duration::from_secs(180);
const LONG_OUTAGE: Duration = Duration::from_secs(30);
const SHORT_OUTAGE: Duration = Duration::from_secs(5);

/// A fault of a quiet phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    Kill,
    Term,
    /// Of one queue, for up to [`QUEUE_OUTAGE`].
    QueueOutage,
    /// Of one service.
    Outage(Duration),
    OutageOfAll(Duration),
}

#[derive(Clone, Debug)]
pub(super) struct QuietPhase {
    /// Start of the phase.
    pub(super) at: Duration,
    pub(super) lasting: Duration,
    /// Its faults with their times in the run.
    pub(super) faults: Vec<(Duration, Measured)>,
}

impl QuietPhase {
    /// Returns a phase that starts at `at` and ends with `measured`.
    fn new(
        at: Duration,
        measured: Measured,
        lease_duration: Duration,
        has_queue_outages: bool,
    ) -> Self {
        let mut faults = Vec::new();
        let mut next = at + lease_duration * 2 + QUIET;
        if measured == Measured::Term && has_queue_outages {
            // It begins as soon as every shard has an owner: by the time events are deferred, the
            // effects of the fault phase are over.
            let queue_outage_at = at + lease_duration;
            faults.push((queue_outage_at, Measured::QueueOutage));
            next = queue_outage_at + QUEUE_OUTAGE + QUEUE_RECOVERY;
        }
        faults.push((next, measured));
        Self {
            at,
            lasting: next + measured.lasting() + lease_duration + RECOVERY - at,
            faults,
        }
    }
}

/// The phases of a run.
#[derive(Debug)]
pub(super) struct Phases {
    pub(super) quiet_phases: Vec<QuietPhase>,
    /// Total length of the fault phases.
    pub(super) fault_time: Duration,
    /// Total length of the fault phases before the last one.
    pub(super) before_last_fault_phase: Duration,
}

impl Phases {
    /// Divides a run. It begins and ends with a fault phase; the shortest runs are one fault phase.
    pub(super) fn of(duration: Duration, lease_duration: Duration) -> Self {
        let two = |has_queue_outages| -> Duration {
            [Measured::Kill, Measured::Term]
                .map(|it| QuietPhase::new(Duration::ZERO, it, lease_duration, has_queue_outages))
                .map(|quiet_phase| quiet_phase.lasting)
                .into_iter()
                .sum()
        };
        let has_queue_outages = duration >= two(true) + 3 * MIN_FAULT_PHASE;
        let quiet_phase =
            |at, measured| QuietPhase::new(at, measured, lease_duration, has_queue_outages);
        let fault_phase = (duration.saturating_sub(two(has_queue_outages)) / 3)
            .clamp(MIN_FAULT_PHASE, FAULT_PHASE);
        let mut quiet_phases: Vec<QuietPhase> = Vec::new();
        let mut at = fault_phase;
        loop {
            let measured = match quiet_phases.len() {
                2 if duration >= LONG_RUN => Measured::OutageOfAll(LONG_OUTAGE),
                n if n % 3 == 0 => Measured::Kill,
                n if n % 3 == 1 => Measured::Term,
                _ => Measured::Outage(SHORT_OUTAGE),
            };
            let quiet_phase = quiet_phase(at, measured);
            if at + quiet_phase.lasting + fault_phase / 3 > duration {
                break;
            }
            at += quiet_phase.lasting + fault_phase;
            quiet_phases.push(quiet_phase);
        }
        let quiet_time: Duration = quiet_phases
            .iter()
            .map(|quiet_phase| quiet_phase.lasting)
            .sum();
        let fault_phases = u32::try_from(quiet_phases.len()).unwrap_or(u32::MAX);
        Self {
            quiet_phases,
            fault_time: duration - quiet_time,
            before_last_fault_phase: fault_phase * fault_phases,
        }
    }

    /// Returns the time in the run at which the fault phases have lasted this long.
    pub(super) fn instant(&self, fault_time: Duration) -> Duration {
        let mut at = fault_time;
        for quiet_phase in &self.quiet_phases {
            if quiet_phase.at <= at {
                at += quiet_phase.lasting;
            }
        }
        at
    }
}

impl Measured {
    fn lasting(self) -> Duration {
        match self {
            Self::Kill | Self::Term => Duration::ZERO,
            Self::QueueOutage => QUEUE_OUTAGE,
            Self::Outage(lasting) | Self::OutageOfAll(lasting) => lasting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn measured(phases: &Phases) -> Vec<Measured> {
        let faults = phases.quiet_phases.iter().flat_map(|it| &it.faults);
        faults.map(|(_, measured)| *measured).collect()
    }

    #[test]
    fn short_runs_are_one_fault_phase() {
        let phases = Phases::of(Duration::from_secs(20), LEASE);
        assert!(phases.quiet_phases.is_empty());
        assert_eq!(phases.fault_time, Duration::from_secs(20));
    }

    #[test]
    fn a_run_of_a_minute_measures_a_kill_an_outage_of_one_queue_and_a_stop() {
        let short = Duration::from_secs(2);
        for (seconds, lease, has_queue_outage) in [
            (60, LEASE, true),
            (56, LEASE, false),
            (52, short, true),
            (36, short, false),
        ] {
            let phases = Phases::of(Duration::from_secs(seconds), lease);
            let queue_outage = has_queue_outage.then_some(Measured::QueueOutage);
            let expected = [Some(Measured::Kill), queue_outage, Some(Measured::Term)];
            let expected: Vec<_> = expected.into_iter().flatten().collect();
            assert_eq!(measured(&phases), expected, "{seconds} s");
            let last = &phases.quiet_phases[1];
            assert!(last.at + last.lasting < Duration::from_secs(seconds));
        }
    }

    #[test]
    fn three_minutes_measure_a_kill_a_stop_and_a_long_outage() {
        let phases = Phases::of(LONG_RUN, LEASE);
        let expected = [
            Measured::Kill,
            Measured::QueueOutage,
            Measured::Term,
            Measured::OutageOfAll(LONG_OUTAGE),
        ];
        assert_eq!(measured(&phases), expected);
    }

    #[test]
    fn ten_minutes_have_every_measurement_and_are_mostly_fault_phases() {
        let duration = Duration::from_secs(600);
        let phases = Phases::of(duration, LEASE);
        let measured = measured(&phases);
        for expected in [
            Measured::Kill,
            Measured::Term,
            Measured::QueueOutage,
            Measured::Outage(SHORT_OUTAGE),
            Measured::OutageOfAll(LONG_OUTAGE),
        ] {
            assert!(measured.contains(&expected), "{expected:?}");
        }
        assert!(phases.fault_time > duration / 2, "{:?}", phases.fault_time);
    }

    #[test]
    fn fault_time_continues_after_each_quiet_phase() {
        let phases = Phases::of(Duration::from_secs(600), LEASE);
        let in_quiet_phase = |at: Duration| {
            phases.quiet_phases.iter().any(|quiet_phase| {
                quiet_phase.at <= at && at < quiet_phase.at + quiet_phase.lasting
            })
        };
        let mut last = Duration::ZERO;
        for seconds in 0..phases.fault_time.as_secs() {
            let at = phases.instant(Duration::from_secs(seconds));
            assert!(
                at >= last && !in_quiet_phase(at),
                "{seconds} s of fault phases are at {at:?}"
            );
            last = at;
        }
        assert!(last <= Duration::from_secs(600));
    }
}
