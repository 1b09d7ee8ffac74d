//! Storms, in which faults come as fast as they can, and lulls between them, in
//! which nothing is wrong but one thing: only so can be measured how long the
//! system takes to recover from that one, and how fast it is without any.

use std::time::Duration;

/// Faults of every kind, one after the other, in a run that has time for it. A
/// shorter one has shorter storms, so that one kill and one stop can be
/// measured; when these do not fit with the shortest, it measures less.
const STORM: Duration = Duration::from_secs(30);
const SHORTEST_STORM: Duration = Duration::from_secs(4);

/// How much longer than two leases a lull is quiet, before its fault. The
/// processes that the storm has left dead or stopped are started; one lease has
/// to run out before a relay publishes again, and what has piled up follows.
const QUIET: Duration = Duration::from_secs(4);

/// How much longer than a lease there is to recover from the fault.
const RECOVERY: Duration = Duration::from_secs(3);

/// A run at least this long has one outage of everything, of this length.
const LONG_RUN: Duration = Duration::from_secs(180);
const LONG_OUTAGE: Duration = Duration::from_secs(30);
const SHORT_OUTAGE: Duration = Duration::from_secs(5);

/// The one fault of a lull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    Kill,
    Term,
    /// Of one service.
    Outage(Duration),
    OutageOfAll(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lull {
    /// When it begins.
    pub(super) at: Duration,
    pub(super) lasting: Duration,
    /// When its fault comes.
    pub(super) fault_at: Duration,
    pub(super) measured: Measured,
}

/// A run's time, divided.
#[derive(Debug)]
pub(super) struct Phases {
    pub(super) lulls: Vec<Lull>,
    /// How long all storms are together.
    pub(super) storm: Duration,
    /// How long those before the last one are.
    pub(super) before_last_storm: Duration,
}

impl Phases {
    /// A run begins and ends with a storm; the shortest ones have nothing else.
    pub(super) fn of(duration: Duration, lease_duration: Duration) -> Self {
        let quiet = lease_duration * 2 + QUIET;
        let lull = |measured: Measured| quiet + measured.lasting() + lease_duration + RECOVERY;
        let two = lull(Measured::Kill) + lull(Measured::Term);
        let storm = (duration.saturating_sub(two) / 3).clamp(SHORTEST_STORM, STORM);
        let mut lulls: Vec<Lull> = Vec::new();
        let mut at = storm;
        loop {
            let measured = match lulls.len() {
                2 if duration >= LONG_RUN => Measured::OutageOfAll(LONG_OUTAGE),
                n if n % 3 == 0 => Measured::Kill,
                n if n % 3 == 1 => Measured::Term,
                _ => Measured::Outage(SHORT_OUTAGE),
            };
            let lasting = lull(measured);
            if at + lasting + storm / 3 > duration {
                break;
            }
            lulls.push(Lull {
                at,
                lasting,
                fault_at: at + quiet,
                measured,
            });
            at += lasting + storm;
        }
        let calm: Duration = lulls.iter().map(|lull| lull.lasting).sum();
        let storms = u32::try_from(lulls.len()).unwrap_or(u32::MAX);
        Self {
            lulls,
            storm: duration - calm,
            before_last_storm: storm * storms,
        }
    }

    /// The instant of the run at which the storms have lasted this long.
    pub(super) fn instant(&self, in_storm: Duration) -> Duration {
        let mut at = in_storm;
        for lull in &self.lulls {
            if lull.at <= at {
                at += lull.lasting;
            }
        }
        at
    }
}

impl Measured {
    fn lasting(self) -> Duration {
        match self {
            Self::Kill | Self::Term => Duration::ZERO,
            Self::Outage(lasting) | Self::OutageOfAll(lasting) => lasting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    #[test]
    fn short_runs_are_one_storm() {
        let phases = Phases::of(Duration::from_secs(20), LEASE);
        assert!(phases.lulls.is_empty());
        assert_eq!(phases.storm, Duration::from_secs(20));
    }

    #[test]
    fn a_minute_measures_a_kill_and_a_stop_and_so_does_less_with_a_shorter_lease() {
        for (seconds, lease) in [(60, LEASE), (36, Duration::from_secs(2))] {
            let phases = Phases::of(Duration::from_secs(seconds), lease);
            let measured: Vec<_> = phases.lulls.iter().map(|lull| lull.measured).collect();
            assert_eq!(measured, [Measured::Kill, Measured::Term], "{seconds} s");
            let last = phases.lulls[1];
            assert!(last.at + last.lasting < Duration::from_secs(seconds));
        }
    }

    #[test]
    fn three_minutes_measure_a_kill_a_stop_and_a_long_outage() {
        let phases = Phases::of(LONG_RUN, LEASE);
        let measured: Vec<_> = phases.lulls.iter().map(|lull| lull.measured).collect();
        let expected = [
            Measured::Kill,
            Measured::Term,
            Measured::OutageOfAll(LONG_OUTAGE),
        ];
        assert_eq!(measured, expected);
    }

    #[test]
    fn ten_minutes_have_every_measurement_and_are_mostly_storm() {
        let duration = Duration::from_secs(600);
        let phases = Phases::of(duration, LEASE);
        for measured in [
            Measured::Kill,
            Measured::Term,
            Measured::Outage(SHORT_OUTAGE),
            Measured::OutageOfAll(LONG_OUTAGE),
        ] {
            let found = phases.lulls.iter().any(|lull| lull.measured == measured);
            assert!(found, "{measured:?}");
        }
        assert!(phases.storm > duration / 2, "{:?}", phases.storm);
    }

    #[test]
    fn storm_time_goes_on_after_each_lull() {
        let phases = Phases::of(Duration::from_secs(600), LEASE);
        let in_lull = |at: Duration| {
            phases
                .lulls
                .iter()
                .any(|lull| lull.at <= at && at < lull.at + lull.lasting)
        };
        let mut last = Duration::ZERO;
        for seconds in 0..phases.storm.as_secs() {
            let at = phases.instant(Duration::from_secs(seconds));
            assert!(
                at >= last && !in_lull(at),
                "{seconds} s of storm are at {at:?}"
            );
            last = at;
        }
        assert!(last <= Duration::from_secs(600));
    }
}
