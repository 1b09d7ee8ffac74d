//! Other disturbances during a recovery.

use super::super::fault_windows::{Disturbance, Span};
use super::{Measure, Trigger};
use crate::history::{Life, Program};

/// Lag from which a relay counts as behind: events are usually published in a fraction of this.
const BEHIND_MS: u64 = 1_000;

/// Time before a fault in which another fault still affects the recovery.
const BEFORE_MS: u64 = 2_000;

fn of(victim: Option<&Life>, one: &Disturbance<'_>) -> bool {
    victim.is_some_and(|life| one.process == Some(life.process.as_str()))
}

impl<'a> Measure<'a> {
    /// Returns another disturbance of a relay, or of all processes, between shortly before `at` and
    /// the recovery or the end of its time limit.
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
            // A relay that is stopping still sends requests; a fault of a dead one has no effect.
            let matters = !of(victim, one)
                || trigger == Trigger::RelayStopped && one.kind.is_of_one_request();
            // The outage whose end is `at` is the trigger itself.
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

    /// Returns the backlog of a relay that was behind: its successor looks these events up in the
    /// table before it publishes any.
    fn behind(&self, victim: &Life, at: u64) -> Option<String> {
        let waiting = self
            .held_by(victim, at)
            .flat_map(|shard| self.of_shard(shard))
            .filter(|event| event.is_unpublished(at));
        let lag = at.saturating_sub(waiting.map(|event| event.committed).min()?);
        (lag > BEHIND_MS).then(|| format!("a backlog of {lag} ms"))
    }

    /// Returns the end of the last disturbance, at `at` or later, that can have delayed the event
    /// published at `flowing`.
    pub(super) fn quiet_from(&self, at: u64, victim: Option<&Life>, flowing: u64) -> u64 {
        let alone = !self.another_was_ready(victim, at);
        self.of_relays()
            // Faults of the victim do not delay the recovery while there is another relay.
            .filter(|one| alone || !of(victim, one) || one.span.from > at)
            .filter(|one| one.span.from <= flowing && !one.is_short_latency)
            .map(|one| one.span.to.min(flowing))
            .fold(at, u64::max)
    }

    /// Returns the disturbances of relays or of all processes.
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
