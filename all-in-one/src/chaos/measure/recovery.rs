//! How long events stood still after a fault.
//!
//! - A relay was killed or told to stop: until another relay's event is
//!   accepted by a queue. Only the one that held the shard counts, which is
//!   the one that published last; while another is gone, events flow on.
//! - A service was away: until a queue accepts an event again.
//! - The API was killed: until an order is confirmed again. A worker: until an
//!   order is settled again.
//!
//! Waiting for something to publish is not counted.

use std::collections::HashMap;

use serde::Serialize;

use super::super::history::{FaultKind, History, Life, Program, Publish};
use super::committed_at;
use super::spans::{Disturbance, Span, disturbances, processes};

/// A killed relay is noticed when its lease has not moved for its duration.
const AFTER_KILL_MS: u64 = 1_000;
const AFTER_TERM_MS: u64 = 1_000;
/// A successor that was only just started has to find the shards first.
const AFTER_DISTURBANCE_MS: u64 = 2_000;
const AFTER_OUTAGE_MS: u64 = 2_000;

/// Events are usually published within a fraction of this.
const BEHIND_MS: u64 = 1_000;

/// A fault just before leaves something to recover from as well.
const BEFORE_MS: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::chaos) enum Trigger {
    RelayKilled,
    RelayStopped,
    Outage,
    ApiKilled,
    WorkerKilled,
}

impl Trigger {
    pub(in crate::chaos) const ALL: [Self; 5] = [
        Self::RelayKilled,
        Self::RelayStopped,
        Self::Outage,
        Self::ApiKilled,
        Self::WorkerKilled,
    ];

    pub(in crate::chaos) const fn name(self) -> &'static str {
        match self {
            Self::RelayKilled => "SIGKILL of the relay with the lease",
            Self::RelayStopped => "SIGTERM of the relay with the lease",
            Self::Outage => "end of an outage",
            Self::ApiKilled => "SIGKILL of the API",
            Self::WorkerKilled => "SIGKILL of a worker",
        }
    }

    /// How long it may take when nothing else is wrong.
    pub(in crate::chaos) const fn limit(self, lease_duration_ms: u64) -> Option<u64> {
        match self {
            Self::RelayKilled => Some(lease_duration_ms + AFTER_KILL_MS),
            Self::RelayStopped => Some(AFTER_TERM_MS),
            Self::Outage => Some(AFTER_OUTAGE_MS),
            // One instance, which is away as long as the run wants it to be.
            Self::ApiKilled => None,
            Self::WorkerKilled => None,
        }
    }
}

#[derive(Debug)]
pub(in crate::chaos) struct Recovery<'a> {
    pub trigger: Trigger,
    /// When the process was killed or told, or the outage ended.
    pub at: u64,
    pub process: Option<&'a str>,
    /// `None`: nothing flowed again before the run's end.
    pub took_ms: Option<u64>,
    /// What else was wrong at the time.
    pub disturbed_by: Option<String>,
    /// The last part of it, in which nothing else was wrong any more.
    quiet_ms: Option<u64>,
}

impl Recovery<'_> {
    /// The time that it had, and the time that it took of that, when that is
    /// more: all of it, when it was not disturbed; else what was left of it
    /// after the last disturbance, which may have cost a lease.
    pub(in crate::chaos) fn late(&self, lease_duration_ms: u64) -> Option<(u64, Option<u64>)> {
        let limit = self.trigger.limit(lease_duration_ms)?;
        let (took, limit) = match self.disturbed_by {
            None => (self.took_ms, limit),
            // That events never flowed again shows in what is left pending.
            Some(_) => (
                Some(self.quiet_ms?),
                limit.max(lease_duration_ms + AFTER_DISTURBANCE_MS),
            ),
        };
        took.is_none_or(|took| took > limit)
            .then_some((limit, took))
    }
}

pub(in crate::chaos) fn recoveries(history: &History) -> Vec<Recovery<'_>> {
    let committed = committed_at(history);
    let all = Measure {
        history,
        all_published: all_published(history, &committed),
        committed,
        disturbances: disturbances(history),
        relays: processes(history, Program::OutboxRelay),
    };
    let deaths = history.lives.iter().filter_map(|life| all.of_life(life));
    let outages = history
        .faults
        .iter()
        .filter(|fault| fault.kind == FaultKind::Outage)
        .filter_map(|fault| all.of_outage(fault.until?));
    let mut recoveries: Vec<_> = deaths.chain(outages).collect();
    recoveries.sort_by_key(|recovery| recovery.at);
    recoveries
}

fn all_published(history: &History, committed: &HashMap<(&str, u64), u64>) -> u64 {
    let mut first: HashMap<(&str, u64), u64> = HashMap::new();
    for publish in &history.publishes {
        first
            .entry((&publish.aggregate_id, publish.sequence))
            .or_insert(publish.at);
    }
    committed
        .keys()
        .map(|event| first.get(event).copied().unwrap_or(u64::MAX))
        .max()
        .unwrap_or_default()
}

struct Measure<'a> {
    history: &'a History,
    committed: HashMap<(&'a str, u64), u64>,
    /// When the last event was published for the first time; the end of time
    /// when one never was.
    all_published: u64,
    disturbances: Vec<Disturbance<'a>>,
    relays: Vec<&'a str>,
}

/// That something flows again.
#[derive(Clone, Copy)]
struct Flowing {
    at: u64,
    /// It could not have before.
    due: u64,
}

fn of(victim: Option<&Life>, one: &Disturbance<'_>) -> bool {
    victim.is_some_and(|life| one.process == Some(life.process.as_str()))
}

impl<'a> Measure<'a> {
    fn of_life(&self, life: &'a Life) -> Option<Recovery<'a>> {
        let at = life.told_to_end.filter(|&at| self.under_load(at))?;
        let killed = life.was_killed();
        let soon = |at: Option<u64>| at.map(|at| Flowing { at, due: 0 });
        let (trigger, flowing) = match (life.program, killed) {
            (Program::OutboxRelay, _) => {
                if !self.held_the_lease(life, at) {
                    return None;
                }
                let trigger = if killed {
                    Trigger::RelayKilled
                } else {
                    Trigger::RelayStopped
                };
                let successor = self.published_after(at, |publish| {
                    publish.relay != life.process || publish.incarnation != life.incarnation
                });
                (trigger, successor)
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
        Some(self.recovery(trigger, at, Some(life), flowing))
    }

    fn of_outage(&self, ended: u64) -> Option<Recovery<'a>> {
        if !self.under_load(ended) {
            return None;
        }
        let flowing = self.published_after(ended, |_| true);
        Some(self.recovery(Trigger::Outage, ended, None, flowing))
    }

    fn recovery(
        &self,
        trigger: Trigger,
        at: u64,
        victim: Option<&'a Life>,
        flowing: Option<Flowing>,
    ) -> Recovery<'a> {
        let took_ms = flowing.map(|flowing| flowing.at.saturating_sub(flowing.due.max(at)));
        let quiet_ms = flowing.map(|flowing| {
            let quiet_from = self.quiet_from(at, victim, flowing.at);
            flowing.at.saturating_sub(flowing.due.max(quiet_from))
        });
        Recovery {
            trigger,
            at,
            process: victim.map(|life| life.process.as_str()),
            took_ms,
            disturbed_by: self.disturbed(trigger, at, took_ms, victim),
            quiet_ms,
        }
    }

    /// Whether something was to be published after `at`.
    fn under_load(&self, at: u64) -> bool {
        at < self.history.settings.duration_ms && at <= self.all_published
    }

    fn held_the_lease(&self, life: &Life, at: u64) -> bool {
        // In the order of time.
        let until = self.history.publishes.partition_point(|one| one.at < at);
        until.checked_sub(1).is_some_and(|last| {
            let last = &self.history.publishes[last];
            last.relay == life.process && last.incarnation == life.incarnation
        })
    }

    /// The first publish after `at` that is `wanted`.
    fn published_after(&self, at: u64, wanted: impl Fn(&Publish) -> bool) -> Option<Flowing> {
        let from = self.history.publishes.partition_point(|one| one.at < at);
        let publish = self.history.publishes[from..]
            .iter()
            .find(|one| wanted(one))?;
        let key = (publish.aggregate_id.as_str(), publish.sequence);
        Some(Flowing {
            at: publish.answered_at,
            due: self.committed.get(&key).copied().unwrap_or(at),
        })
    }

    /// What else happened to the relays, or to everyone, between a little
    /// before `at` and the recovery, or the end of the time allowed for it.
    fn disturbed(
        &self,
        trigger: Trigger,
        at: u64,
        took_ms: Option<u64>,
        victim: Option<&Life>,
    ) -> Option<String> {
        let limit = trigger.limit(self.history.settings.lease_duration_ms)?;
        let allowed = took_ms.map_or(limit, |took| took.min(limit));
        let window = Span::new(at.saturating_sub(BEFORE_MS), at + allowed);
        let other = self.of_relays().find(|one| {
            // A relay that stops still has requests to make; what befell one
            // that is dead changes nothing.
            let matters = !of(victim, one)
                || trigger == Trigger::RelayStopped && one.kind.is_of_one_request();
            // The outage itself ends at `at`.
            let itself = victim.is_none() && one.process.is_none() && one.span.to == at;
            matters && !itself && one.span.touches(window)
        });
        let other = other.map(|one| match one.process {
            Some(process) => format!("{} of {process}", one.kind.name()),
            None => one.kind.name(),
        });
        let other = other.or_else(|| self.behind(victim?, at));
        other.or_else(|| (!self.another_was_ready(victim, at)).then(|| "no other relay".to_owned()))
    }

    /// A relay that was behind leaves a backlog, and its successor looks that
    /// up in the table before it publishes anything.
    fn behind(&self, victim: &Life, at: u64) -> Option<String> {
        let until = self.history.publishes.partition_point(|one| one.at < at);
        let mut earlier = self.history.publishes[..until].iter().rev();
        let last = earlier.find(|one| one.relay == victim.process)?;
        let key = (last.aggregate_id.as_str(), last.sequence);
        let lag = last.answered_at.saturating_sub(*self.committed.get(&key)?);
        (lag > BEHIND_MS).then(|| format!("a backlog of {lag} ms"))
    }

    /// When the last thing went wrong, at `at` or after it, that can have
    /// delayed what flowed at `flowing`.
    fn quiet_from(&self, at: u64, victim: Option<&Life>, flowing: u64) -> u64 {
        let alone = !self.another_was_ready(victim, at);
        self.of_relays()
            // Nobody has to wait for the victim, as long as there is another.
            .filter(|one| alone || !of(victim, one) || one.span.from > at)
            .filter(|one| one.span.from <= flowing && !one.is_short_latency)
            .map(|one| one.span.to.min(flowing))
            .fold(at, u64::max)
    }

    /// What was done to relays, or to everyone.
    fn of_relays(&self) -> impl Iterator<Item = &Disturbance<'a>> {
        self.disturbances.iter().filter(|one| {
            one.process
                .is_none_or(|process| self.relays.contains(&process))
        })
    }

    fn another_was_ready(&self, victim: Option<&Life>, at: u64) -> bool {
        self.history.lives.iter().any(|life| {
            life.program == Program::OutboxRelay
                && victim.is_none_or(|victim| victim.process != life.process)
                && life.ready.is_some_and(|ready| ready < at)
                && life.ended.is_none_or(|ended| ended > at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::fixture;
    use super::*;

    fn of_relays(history: &History) -> Vec<(u64, Option<u64>, Option<String>)> {
        recoveries(history)
            .into_iter()
            .filter(|one| one.trigger == Trigger::RelayKilled)
            .map(|one| (one.at, one.took_ms, one.disturbed_by))
            .collect()
    }

    #[test]
    fn a_takeover_lasts_from_the_kill_to_the_next_accepted_event() {
        assert_eq!(of_relays(&fixture::valid()), [(10_000, Some(3_405), None)]);
    }

    #[test]
    fn only_the_relay_that_published_last_has_a_successor() {
        let mut history = fixture::valid();
        for publish in &mut history.publishes {
            publish.relay = "relay-2".to_owned();
        }
        assert_eq!(of_relays(&history), []);
    }

    #[test]
    fn waiting_for_something_to_publish_is_not_counted() {
        let mut history = fixture::valid();
        // What was in flight is not repeated, and the next event comes late.
        history
            .publishes
            .retain(|one| one.relay == "relay-1" || one.event_id == "steps:3");
        history.steps[2].at = 13_000;
        assert_eq!(of_relays(&history), [(10_000, Some(405), None)]);
    }

    #[test]
    fn a_backlog_is_a_disturbance() {
        let mut history = fixture::valid();
        let last = history
            .end
            .orders
            .iter_mut()
            .find(|one| one.order_id == "o-2");
        last.expect("it is in the valid history").created_at = 8_900;
        let disturbed = Some("a backlog of 1055 ms".to_owned());
        assert_eq!(of_relays(&history), [(10_000, Some(3_405), disturbed)]);
    }

    #[test]
    fn a_takeover_needs_another_relay() {
        let mut history = fixture::valid();
        let successor = history
            .lives
            .iter_mut()
            .find(|life| life.process == "relay-2");
        successor.expect("it is in the valid history").ready = Some(11_000);
        let disturbed = Some("no other relay".to_owned());
        assert_eq!(of_relays(&history), [(10_000, Some(3_405), disturbed)]);
    }
}
