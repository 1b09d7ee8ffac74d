//! What else was wrong while events stood still.

use super::super::fault_windows::{Disturbance, Span};
use super::{Measure, Trigger};
use crate::history::{Life, Program};

/// Events are usually published within a fraction of this.
const BEHIND_MS: u64 = 1_000;

/// A fault just before leaves something to recover from as well.
const BEFORE_MS: u64 = 2_000;

fn of(victim: Option<&Life>, one: &Disturbance<'_>) -> bool {
    victim.is_some_and(|life| one.process == Some(life.process.as_str()))
}

impl<'a> Measure<'a> {
    /// What else happened to the relays, or to everyone, between a little
    /// before `at` and the recovery, or the end of the time allowed for it.
    pub(super) fn disturbed(
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
        let waiting = self
            .held_by(victim, at)
            .flat_map(|shard| self.of_shard(shard))
            .filter(|event| event.is_unpublished(at));
        let lag = at.saturating_sub(waiting.map(|event| event.committed).min()?);
        (lag > BEHIND_MS).then(|| format!("a backlog of {lag} ms"))
    }

    /// When the last thing went wrong, at `at` or after it, that can have
    /// delayed what flowed at `flowing`.
    pub(super) fn quiet_from(&self, at: u64, victim: Option<&Life>, flowing: u64) -> u64 {
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
