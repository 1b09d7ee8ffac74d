//! The whole relay in one process, on paused time, from one seed.
//!
//! [`world`] models the services: a stream whose shards split and are trimmed, and tables and
//! queues that throttle, fail before or after a request takes effect, and respond late. The stream
//! and the index lag behind the table, and the clocks of writers and instances are wrong. [`ports`]
//! implements the engine's ports on it: a request may take effect after the death of its sender.
//! Operators retry, replay and discard events, also pending ones, and mostly request a sweep.
//! [`run`] runs writers and several relay [`instance`]s, which crash, freeze and restart. Some
//! checkers observe the whole run (`world/invariants.rs`), and [`check`] examines its end:
//!
//! - **no loss**: every committed event is delivered and marked, or quarantined if it can never be
//!   sent, or discarded; a replayed event is delivered once more for each replay.
//! - **bounded repeats**: an event is repeated at most once for each lost answer or disturbance of
//!   a sender between sending and marking it.
//! - **per-aggregate order**: first deliveries of an aggregate are in the order of `sequence`.
//! - **failure mode**: in hold mode no event passes a quarantined one.
//! - **publish → mark**: a mark has the id of a message of its replay, and the retention.
//! - **fencing**: no checkpoint is past an event that is not marked.
//! - **bounded memory**: the events that an instance has read and not settled are bounded by its
//!   buffer and by the shards it holds.
//! - **no silence**: in the quiet phase health becomes green, and an instance that reads a trimmed
//!   position counts a gap.
//! - **lineage** and **fence on loss**: parents are read first, and a lost shard is neither read
//!   any longer, nor is an event of it sent.
//!
//! The names are those of `docs/design.md`. `SIM_SEEDS=n` runs that many seeds, from `SIM_FIRST=s`
//! on; `SIM_SEED=s` replays one with its history. A seed repeats exactly.

#![allow(
    clippy::disallowed_types,
    reason = "the model of the services is no part of the engine; a poisoned lock must fail a run"
)]

use std::time::Duration;

mod check;
mod faults;
mod instance;
mod meter;
mod ports;
mod quiet;
mod run;
mod world;

use faults::Faults;
use ports::Mutation;
use run::{BUFFER_EVENTS, Outcome, outage, simulate, simulate_without};
use world::{PAGE, Setup};

/// Number of seeds of a regular run.
const SEEDS: u64 = 2_000;

/// Number of seeds in which every kind of fault must occur.
const MANY_SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

#[test]
fn every_guarantee_holds_for_every_seed() {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = simulate(seed);
        println!("{}", outcome.history.join("\n"));
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (first..first + seeds)
                        .filter(|seed| seed % threads == thread)
                        .map(|seed| {
                            let mut outcome = simulate(seed);
                            outcome.history = Vec::new();
                            if !outcome.violations.is_empty() {
                                println!("seed {seed}: {:?}", outcome.violations);
                            }
                            outcome
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a simulation panicked"))
            .collect()
    });

    let mut faults = Faults::default();
    for outcome in &outcomes {
        faults.add(&outcome.faults);
    }
    println!("{seeds} seeds from {first}; {}", summary(&outcomes));
    for (name, count, runs) in faults.table() {
        println!("  {name:<28}{count:>8} in {runs} seeds");
    }
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !outcome.violations.is_empty())
        .collect();
    for outcome in failed.iter().take(10) {
        println!(
            "seed {} (replay with SIM_SEED={}), {:?}: {:#?}",
            outcome.seed,
            outcome.seed,
            Setup::new(outcome.seed),
            outcome.violations
        );
    }
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds failed",
        failed.len()
    );
    for (name, count, _) in faults.table() {
        assert!(
            count > 0 || seeds < MANY_SEEDS,
            "fault `{name}` never occurred"
        );
    }
}

fn summary(outcomes: &[Outcome]) -> String {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    format!(
        "{} events, {} deliveries, {} of them repeats",
        sum(|outcome| outcome.events),
        sum(|outcome| outcome.deliveries),
        sum(|outcome| outcome.repeats),
    )
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in [1, 42, 4711] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert!(first.history.len() > 200, "{}", first.history.len());
        assert_eq!(first.history, second.history, "seed {seed}");
    }
}

/// Number of seeds of which one must notice that a rule is disabled. Most rules are noticed within
/// the first 50; `LostUnnoticed` needs an instance that loses a lease and hears of it in no other
/// way.
const MUTATION_SEEDS: u64 = 1_000;

/// A checker that never fails proves nothing, so each rule is disabled in turn.
#[test]
fn every_disabled_rule_is_caught_by_its_checker() {
    for rule in Mutation::ALL {
        let caught = (0..MUTATION_SEEDS).find_map(|seed| {
            let outcome = simulate_without(Some(rule), seed);
            let mut violations = outcome.violations.into_iter();
            let violation = violations.find(|found| found.starts_with(rule.breaks()))?;
            Some((seed, violation))
        });
        match caught {
            Some((seed, violation)) => println!("{rule:?}: seed {seed}: {violation}"),
            None => panic!("no checker noticed that {rule:?} was disabled"),
        }
    }
}

#[test]
fn a_queue_outage_of_one_minute_loses_no_event_and_stays_within_the_memory_bound() {
    let (outcome, during, recovery) = outage(7);
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert_eq!(during, 0);
    assert_eq!(outcome.repeats, 0);
    assert!(outcome.events > 1_000, "{}", outcome.events);
    // The buffer and the pages that are read ahead.
    let bound = BUFFER_EVENTS + 3 * PAGE;
    assert!(outcome.max_unsettled <= bound, "{}", outcome.max_unsettled);
    // The first probe is sent within two seconds; then some events are sent in each round trip of a
    // few milliseconds.
    assert!(recovery < Duration::from_secs(30), "{recovery:?}");
}
