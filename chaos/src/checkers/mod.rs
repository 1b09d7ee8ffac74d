//! What must hold after every run, whatever was done to the system: pure
//! functions from a history to what is wrong with it.
//!
//! - [`answers`]: what clients were answered; [`orders`]: what is stored of it.
//! - [`effects`]: stock and settled orders.
//! - [`events`]: nothing lost, nothing left.
//! - [`sequence`]: order per aggregate; [`repeats`]: what was sent again.
//! - [`logs`]: what processes had to say; [`gaps`]: that they say what the stream lost.
//! - [`processes`]: starts, endings, memory; [`recovery`]: how fast events flow again.

mod answers;
mod effects;
mod events;
mod gaps;
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

/// Something that must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Violation {
    pub invariant: Invariant,
    /// Milliseconds since the start of the run, where it has a time.
    pub at: Option<u64>,
    /// One sentence that names ids, numbers and processes.
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
    Endings,
    Memory,
    Recovery,
    RecoveryJudged,
}

impl Invariant {
    pub(super) const ALL: [Self; 17] = [
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
        Self::Endings,
        Self::Memory,
        Self::Recovery,
        Self::RecoveryJudged,
    ];

    /// What holds when nothing violates it.
    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::Answers => {
                "The API answers 201, or 503, 504 or nothing while a fault explains that"
            }
            Self::Confirmed => "Every order answered with 201 is stored as it was asked for",
            Self::Atomic => {
                "Order, event and idempotency record exist together or not at all, and only of orders that were asked for"
            }
            Self::OneKeyOneOrder => "However often a request is repeated, it makes one order",
            Self::Settled => "Every order is PROCESSED, or REJECTED for a true reason, once",
            Self::Stock => {
                "Of each SKU available + reserved is what it was, and what is reserved is what processed orders hold"
            }
            Self::NothingLost => {
                "Every event was published and delivered, none was quarantined, and none was invented"
            }
            Self::Drained => "After the drain time nothing is pending and the queues are empty",
            Self::Order => {
                "Events of one aggregate are first sent in the order of their sequence, and a FIFO queue hands them out so"
            }
            Self::Repeats => {
                "Every repeated event has a cause, none is repeated after its mark, and no relay's end repeats more than it had in flight"
            }
            Self::DeadLetters => "No message went to a dead-letter queue",
            Self::Logs => "No panic, and no ERROR or lost lease but for the fault that makes it",
            Self::Gaps => "A relay that meets a gap in the stream logs and counts it",
            Self::Endings => {
                "Each process is soon ready, none ends on its own, and SIGTERM ends it in time with exit code 0"
            }
            Self::Memory => "The memory of each process is bounded and does not grow steadily",
            Self::Recovery => {
                "Events flow again in time after a relay is killed or stopped and after an outage"
            }
            Self::RecoveryJudged => {
                "Of each kind of fault that was injected by itself, a recovery could be judged"
            }
        }
    }
}

/// All that is wrong, in the order of [`Invariant::ALL`].
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
