//! What about an incident is left to chance.

use std::time::Duration;

use super::{API, FIRST_RELAY, Incident, Manner, Plan, Victim};
use crate::history::{CloudService, FaultKind};

pub(super) fn what(kind: FaultKind, plan: &Plan<'_>, random: &mut fastrand::Rng) -> Incident {
    match kind {
        FaultKind::KillAll => Incident::KillAll {
            pauses: (0..=plan.relays + plan.workers)
                .map(|process| pause(Victim::Process(process), random))
                .collect(),
        },
        FaultKind::Term => {
            let victim = victim(plan, random);
            let pause = pause(victim, random);
            Incident::Term { victim, pause }
        }
        FaultKind::Stop => Incident::Stop {
            victim: victim(plan, random),
            // From a hiccup to well past the lease.
            lasting: plan.lease_duration.mul_f64(0.1 + 1.9 * random.f64()),
        },
        FaultKind::KillAfterSend => Incident::KillAfterSend {
            pause: pause(Victim::Process(FIRST_RELAY), random),
        },
        FaultKind::TrimmedIterator => Incident::Trim,
        FaultKind::Outage => {
            let service = Some(service(random));
            let lasting = millis(random, 1_000, 6_000);
            outage(service, lasting, random)
        }
        // Kinds without an interval are none of the schedule's.
        _ => {
            let victim = victim(plan, random);
            let pause = pause(victim, random);
            Incident::Kill { victim, pause }
        }
    }
}

pub(super) fn outage(
    service: Option<CloudService>,
    lasting: Duration,
    random: &mut fastrand::Rng,
) -> Incident {
    let manner = match random.u8(..3) {
        0 => Manner::Refuses,
        1 => Manner::Cuts,
        _ => Manner::Silent,
    };
    Incident::Outage {
        service,
        manner,
        lasting,
    }
}

pub(super) fn service(random: &mut fastrand::Rng) -> CloudService {
    match random.u8(..3) {
        0 => CloudService::Dynamodb,
        1 => CloudService::Streams,
        _ => CloudService::Sqs,
    }
}

/// A relay that is killed leaves its shard to nobody for a lease: if that came
/// as often as workers are killed, no events would flow to be disturbed.
fn victim(plan: &Plan<'_>, random: &mut fastrand::Rng) -> Victim {
    match random.u8(..8) {
        0 | 1 => API,
        2 | 3 => Victim::Process(FIRST_RELAY + random.usize(..plan.relays)),
        _ => Victim::Process(FIRST_RELAY + plan.relays + random.usize(..plan.workers)),
    }
}

/// Before a restart: mostly soon, sometimes so late that leases and visibility
/// timeouts run out first. There is one API only, so it is always soon back.
fn pause(victim: Victim, random: &mut fastrand::Rng) -> Duration {
    if victim == API || random.u8(..10) < 7 {
        millis(random, 200, 1_500)
    } else {
        millis(random, 1_500, 8_000)
    }
}

fn millis(random: &mut fastrand::Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(random.u64(least..most))
}
