//! Time to recovery after a fault.
//!
//! - After SIGKILL or SIGTERM of a relay that held the lease of a shard: the time until another
//!   relay has published the event of that shard that had waited longest at the signal, committed
//!   and not yet sent. A relay without a shard does not interrupt any event.
//! - After an outage of a service: the same, for all shards.
//! - After an outage of one queue: the time until the last of its events that were committed before
//!   the end of the outage is published, most of them from the table.
//! - After SIGKILL of the API: the time until an order is confirmed. Of a worker: until an order is
//!   settled.
//!
//! If no event was waiting, the next committed event counts, without the time until its commit. Of
//! several shards the slowest counts. Events that only the sweeper can publish have the drain limit
//! and are not considered here.

mod expected_event;
mod overlapping_faults;

use std::collections::BTreeSet;

use expected_event::{ExpectedEvent, shards};
use serde::Serialize;

use super::super::history::{FaultKind, History, Life, Program};
use super::event_timeline::{EventTimeline, event_timelines};
use super::fault_windows::{Disturbance, disturbances, processes};

/// Time after the lease duration: a relay counts as dead when its lease was not renewed for that
/// long.
const AFTER_KILL_MS: u64 = 1_000;
const AFTER_TERM_MS: u64 = 1_000;
/// Time after the lease duration: a successor that was just started has to discover the shards
/// first.
const AFTER_DISTURBANCE_MS: u64 = 2_000;
const AFTER_OUTAGE_MS: u64 = 2_000;
/// Time that is added for each generation of shards that was closed during an outage: its rest is
/// published and marked, before the leases of its children are acquired.
const PER_GENERATION_MS: u64 = 1_000;
/// The longest pause between two attempts, and the time in which the deferred events are published.
const AFTER_QUEUE_OUTAGE_MS: u64 = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trigger {
    RelayKilled,
    RelayStopped,
    Outage,
    QueueOutage,
    ApiKilled,
    WorkerKilled,
}

impl Trigger {
    pub(crate) const ALL: [Self; 6] = [
        Self::RelayKilled,
        Self::RelayStopped,
        Self::Outage,
        Self::QueueOutage,
        Self::ApiKilled,
        Self::WorkerKilled,
    ];

    /// Returns the trigger that corresponds to an isolated fault of this kind; `None` if its
    /// recovery is not measured.
    pub(crate) const fn after(fault: FaultKind) -> Option<Self> {
        match fault {
            FaultKind::Kill => Some(Self::RelayKilled),
            FaultKind::Term => Some(Self::RelayStopped),
            FaultKind::Outage => Some(Self::Outage),
            FaultKind::QueueOutage => Some(Self::QueueOutage),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RelayKilled => "SIGKILL of the relay with the lease",
            Self::RelayStopped => "SIGTERM of the relay with the lease",
            Self::Outage => "end of an outage",
            Self::QueueOutage => "end of an outage of one queue",
            Self::ApiKilled => "SIGKILL of the API",
            Self::WorkerKilled => "SIGKILL of a worker",
        }
    }

    /// Returns the time limit without other disturbances; `None` if there is none.
    pub(crate) const fn limit(self, lease_duration_ms: u64) -> Option<u64> {
        match self {
            Self::RelayKilled => Some(lease_duration_ms + AFTER_KILL_MS),
            Self::RelayStopped => Some(AFTER_TERM_MS),
            Self::Outage => Some(AFTER_OUTAGE_MS),
            Self::QueueOutage => Some(AFTER_QUEUE_OUTAGE_MS),
            // There is one instance, and the run decides how long it stays down.
            Self::ApiKilled => None,
            Self::WorkerKilled => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Recovery<'a> {
    pub trigger: Trigger,
    /// Time of the signal, or of the end of the outage.
    pub at: u64,
    pub process: Option<&'a str>,
    /// `None` if no event was published before the end of the run.
    pub took_ms: Option<u64>,
    /// Other disturbance during the recovery.
    pub disturbed_by: Option<String>,
    /// Length of its last part, after the last other disturbance.
    quiet_ms: Option<u64>,
    /// Number of generations of shards that were closed during the outage, rounded up.
    generations: u64,
}

impl Recovery<'_> {
    /// Returns `true` if the trigger has a limit and no other disturbance occurred.
    pub(crate) const fn is_judged(&self, lease_duration_ms: u64) -> bool {
        self.trigger.limit(lease_duration_ms).is_some() && self.disturbed_by.is_none()
    }

    /// Returns the limit and the time taken if that exceeds the limit. The time is counted from the
    /// fault, or from the last disturbance if there was one, which may have caused the loss of a
    /// lease.
    pub(crate) fn late(&self, lease_duration_ms: u64) -> Option<(u64, Option<u64>)> {
        let limit = self.trigger.limit(lease_duration_ms)? + self.generations * PER_GENERATION_MS;
        let (took, limit) = match self.disturbed_by {
            None => (self.took_ms, limit),
            // Events that were never published are found by the checks of pending events.
            Some(_) => (
                Some(self.quiet_ms?),
                limit.max(lease_duration_ms + AFTER_DISTURBANCE_MS),
            ),
        };
        took.is_none_or(|took| took > limit)
            .then_some((limit, took))
    }
}

/// Returns the recoveries under load, in the order of time.
pub(crate) fn recoveries(history: &History) -> Vec<Recovery<'_>> {
    let all = Measure {
        history,
        event_timelines: event_timelines(history),
        shards: shards(history),
        disturbances: disturbances(history),
        relays: processes(history, Program::OutboxRelay),
    };
    let deaths = history.lives.iter().filter_map(|life| all.of_life(life));
    let outages = history.faults.iter().filter_map(|fault| match fault.kind {
        FaultKind::Outage => all.of_outage(fault.at, fault.until?),
        FaultKind::QueueOutage => all.of_queue_outage(fault.queue.as_deref()?, fault.until?),
        _ => None,
    });
    let mut recoveries: Vec<_> = deaths.chain(outages).collect();
    recoveries.sort_by_key(|recovery| recovery.at);
    recoveries
}

struct Measure<'a> {
    history: &'a History,
    event_timelines: Vec<EventTimeline<'a>>,
    shards: BTreeSet<&'a str>,
    disturbances: Vec<Disturbance<'a>>,
    relays: Vec<&'a str>,
}

impl<'a> Measure<'a> {
    fn of_life(&self, life: &'a Life) -> Option<Recovery<'a>> {
        let at = life.told_to_end.filter(|&at| self.under_load(at))?;
        let killed = life.was_killed();
        let soon = |flowed: Option<u64>| ExpectedEvent { due: at, flowed };
        let (trigger, expected_event) = match (life.program, killed) {
            (Program::OutboxRelay, _) => {
                let trigger = if killed {
                    Trigger::RelayKilled
                } else {
                    Trigger::RelayStopped
                };
                // Events that it still published itself needed no successor.
                let by_another = |event: &EventTimeline<'_>| {
                    event.first.is_none_or(|first| {
                        first.relay != life.process || first.incarnation != life.incarnation
                    })
                };
                let shards = self.held_by(life, at);
                (trigger, self.expected_event(at, shards, by_another)?)
            }
            (Program::OrderApi, true) => {
                let confirmed = self
                    .history
                    .posts
                    .iter()
                    .filter(|post| post.at >= at && post.status == Some(201))
                    .map(|post| post.at + post.took_ms);
                (Trigger::ApiKilled, soon(confirmed.min()))
            }
            (Program::InventoryWorker, true) => {
                let settled = self
                    .history
                    .end
                    .orders
                    .iter()
                    .filter(|order| order.version > 1)
                    .map(|order| order.updated_at)
                    .filter(|&settled| settled >= at);
                (Trigger::WorkerKilled, soon(settled.min()))
            }
            (Program::OrderApi | Program::InventoryWorker, false) => return None,
        };
        Some(self.recovery(trigger, at, Some(life), expected_event))
    }

    fn of_outage(&self, at: u64, ended: u64) -> Option<Recovery<'a>> {
        if !self.under_load(ended) {
            return None;
        }
        let settings = &self.history.settings;
        // The first event of a shard that is created long after the outage shows nothing about it.
        let limit = Trigger::Outage.limit(settings.lease_duration_ms);
        let until = ended + limit.unwrap_or_default();
        let waits = |event: &EventTimeline<'_>| event.committed <= until;
        let expected_event = self.expected_event(ended, self.shards.iter().copied(), waits)?;
        let lifetime = settings.split_every_ms.zip(settings.shards);
        let lifetime = lifetime.map(|(every, shards)| every * u64::from(shards));
        Some(Recovery {
            generations: lifetime.map_or(0, |lifetime| (ended - at).div_ceil(lifetime)),
            ..self.recovery(Trigger::Outage, ended, None, expected_event)
        })
    }

    fn of_queue_outage(&self, queue: &str, ended: u64) -> Option<Recovery<'a>> {
        if !self.under_load(ended) {
            return None;
        }
        let expected_event = self.last_event(queue, ended)?;
        Some(self.recovery(Trigger::QueueOutage, ended, None, expected_event))
    }

    fn recovery(
        &self,
        trigger: Trigger,
        at: u64,
        victim: Option<&'a Life>,
        expected_event: ExpectedEvent,
    ) -> Recovery<'a> {
        let took_ms = expected_event.took_ms();
        let quiet_ms = expected_event.flowed.map(|flowed| {
            let quiet_from = self.quiet_from(at, victim, flowed);
            flowed.saturating_sub(expected_event.due.max(quiet_from))
        });
        Recovery {
            trigger,
            at,
            process: victim.map(|life| life.process.as_str()),
            took_ms,
            disturbed_by: self.disturbed(trigger, at, took_ms, victim),
            quiet_ms,
            generations: 0,
        }
    }

    fn under_load(&self, at: u64) -> bool {
        at < self.history.settings.duration_ms
    }
}

#[cfg(test)]
mod tests;
