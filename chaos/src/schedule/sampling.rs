//! Samples the details of an incident.

use std::num::NonZeroU32;
use std::time::Duration;

use super::phases::QUEUE_OUTAGE;
use super::{API, FIRST_RELAY, Incident, Manner, Plan, QUEUES, Victim};
use crate::degradation::Degradation;
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
            // From a short pause to one much longer than the lease.
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
        FaultKind::SlowTransactions => {
            let time = millis(random, 5, 20);
            degraded(Degradation::SlowTransactions(time), random)
        }
        // Far more than most keys need; the leases of the relays and a popular SKU need about as
        // much.
        FaultKind::HotPartitions => {
            let units = NonZeroU32::MIN.saturating_add(random.u32(10..40));
            degraded(Degradation::HotPartitions(units), random)
        }
        FaultKind::IndexDelay => {
            let delay = millis(random, 50, 2_000);
            degraded(Degradation::IndexDelay(delay), random)
        }
        FaultKind::StreamDelay => {
            let delay = millis(random, 50, 1_000);
            degraded(Degradation::StreamDelay(delay), random)
        }
        // Kinds without an interval are not scheduled.
        _ => {
            let victim = victim(plan, random);
            let pause = pause(victim, random);
            Incident::Kill { victim, pause }
        }
    }
}

fn degraded(degradation: Degradation, random: &mut fastrand::Rng) -> Incident {
    Incident::Degradation {
        degradation,
        lasting: millis(random, 1_000, 6_000),
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

/// Longer than the time after which a relay defers the events of a queue that fails, and one pause
/// between two attempts.
pub(super) fn queue_outage(random: &mut fastrand::Rng) -> Incident {
    Incident::QueueOutage {
        queue: random.usize(..QUEUES),
        lasting: QUEUE_OUTAGE.mul_f64(0.94 + 0.06 * random.f64()),
    }
}

pub(super) fn service(random: &mut fastrand::Rng) -> CloudService {
    match random.u8(..3) {
        0 => CloudService::Dynamodb,
        1 => CloudService::Streams,
        _ => CloudService::Sqs,
    }
}

/// Samples the victim of a kill. A killed relay leaves its shard without an owner for one lease: if
/// relays were killed as often as workers, hardly any event would flow.
fn victim(plan: &Plan<'_>, random: &mut fastrand::Rng) -> Victim {
    match random.u8(..8) {
        0 | 1 => API,
        2 | 3 => Victim::Process(FIRST_RELAY + random.usize(..plan.relays)),
        _ => Victim::Process(FIRST_RELAY + plan.relays + random.usize(..plan.workers)),
    }
}

/// Samples the downtime before a restart: mostly short, sometimes longer than leases and visibility
/// timeouts. There is only one API, so its downtime is always short.
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
