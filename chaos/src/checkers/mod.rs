//! Invariants of every run, regardless of the injected faults: pure functions from a history to its
//! violations.
//!
//! - [`answers`]: responses to clients; [`orders`]: stored orders.
//! - [`effects`]: stock and settled orders.
//! - [`events`]: no loss; nothing pending after the drain.
//! - [`sequence`]: per-aggregate order; [`repeats`]: bounded repeats.
//! - [`logs`]: errors in the logs; [`gaps`]: reports of stream gaps.
//! - [`isolation`]: outages of one queue.
//! - [`processes`]: starts, ends, memory; [`recovery`]: time to recovery.

mod answers;
mod effects;
mod events;
mod gaps;
mod isolation;
mod logs;
mod orders;
mod processes;
mod recovery;
mod repeats;
mod sequence;

#[cfg(test)]
pub(super) mod fixture;

use serde::Serialize;

use super::history::History;

/// A violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Violation {
    pub invariant: Invariant,
    /// Milliseconds since the start of the run; `None` for a violation without a time.
    pub at: Option<u64>,
    /// Description of the expectation and the observation, with the ids and processes to search
    /// the logs for.
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Invariant {
    Answers,
    Confirmed,
    Atomic,
    OneKeyOneOrder,
    Settled,
    Stock,
    NothingLost,
    Drained,
    Order,
    Repeats,
    DeadLetters,
    Logs,
    Gaps,
    Isolation,
    Endings,
    Memory,
    Recovery,
    RecoveryJudged,
}

impl Invariant {
    pub(super) const ALL: [Self; 18] = [
        Self::Answers,
        Self::Confirmed,
        Self::Atomic,
        Self::OneKeyOneOrder,
        Self::Settled,
        Self::Stock,
        Self::NothingLost,
        Self::Drained,
        Self::Order,
        Self::Repeats,
        Self::DeadLetters,
        Self::Logs,
        Self::Gaps,
        Self::Isolation,
        Self::Endings,
        Self::Memory,
        Self::Recovery,
        Self::RecoveryJudged,
    ];

    /// Returns the condition that holds unless it is violated.
    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::Answers => {
                "Every valid order is answered with 201, or with 503, 504 or no response while a fault explains it"
            }
            Self::Confirmed => "Every order answered with 201 is stored as requested",
            Self::Atomic => {
                "Order, event and idempotency record exist together or not at all, and only for orders that were requested"
            }
            Self::OneKeyOneOrder => {
                "Requests with the same idempotency key create at most one order"
            }
            Self::Settled => {
                "Every order becomes PROCESSED, or REJECTED for a correct reason, exactly once"
            }
            Self::Stock => {
                "For each SKU, available + reserved is unchanged, and reserved grew by the quantities of PROCESSED orders, which each records as its reservation"
            }
            Self::NothingLost => {
                "Every event was published and delivered, none was quarantined, and every published event is in the outbox"
            }
            Self::Drained => {
                "Within the drain limit every event is published and the queues are empty"
            }
            Self::Order => {
                "Events of one aggregate are first sent in the order of their sequence, and a FIFO queue delivers them in that order"
            }
            Self::Repeats => {
                "Every repeated event has a cause, none is sent again after its mark, and no interruption repeats more events than were in flight"
            }
            Self::DeadLetters => "No message is in a dead-letter queue",
            Self::Logs => {
                "The logs have no panic, and no ERROR or lost lease without a fault that causes it"
            }
            Self::Gaps => "A relay that encounters a gap in the stream logs and counts it",
            Self::Isolation => {
                "While one queue is unavailable, its events are deferred and those of the others are published without delay"
            }
            Self::Endings => {
                "Each process is ready in time, none exits on its own, and SIGTERM ends it in time with exit code 0"
            }
            Self::Memory => {
                "The memory of each process stays within its limit and does not grow steadily"
            }
            Self::Recovery => {
                "Events flow again within the limit after a relay is killed or stopped and after an outage, and the deferred ones after an outage of their queue"
            }
            Self::RecoveryJudged => {
                "For each kind of fault that was injected in isolation, at least one recovery was measured"
            }
        }
    }
}

/// Returns all violations, grouped by invariant.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut found = Findings::default();
    answers::answers(history, &mut found);
    orders::confirmed(history, &mut found);
    orders::atomic(history, &mut found);
    orders::one_key_one_order(history, &mut found);
    effects::settled(history, &mut found);
    effects::stock(history, &mut found);
    events::nothing_lost(history, &mut found);
    events::drained(history, &mut found);
    sequence::order(history, &mut found);
    repeats::repeats(history, &mut found);
    events::dead_letters(history, &mut found);
    logs::logs(history, &mut found);
    gaps::gaps(history, &mut found);
    isolation::isolation(history, &mut found);
    processes::starts(history, &mut found);
    processes::endings(history, &mut found);
    processes::memory(history, &mut found);
    recovery::recovery(history, &mut found);
    recovery::judged(history, &mut found);
    found.0
}

#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, invariant: Invariant, at: impl Into<Option<u64>>, what: String) {
        self.0.push(Violation {
            invariant,
            at: at.into(),
            what,
        });
    }
}
