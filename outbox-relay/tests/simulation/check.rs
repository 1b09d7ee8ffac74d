//! What must be true at the end of a run.

use std::collections::{BTreeMap, BTreeSet};

use shared::outbox::Status;

use crate::run::{BUFFER_EVENTS, MAX_INSTANCES};
use crate::world::{PAGE, World};

/// Adds to `world.violations` what is wrong, and counts repeats.
pub(crate) fn check(world: &mut World) -> u64 {
    let mut found = Vec::new();

    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for delivery in &world.deliveries {
        let key = &delivery.key;
        if !seen.insert(key) {
            continue;
        }
        let sequence: u64 = key.sequence.parse().unwrap_or(0);
        let before = last.insert(&key.aggregate_id, sequence).unwrap_or(0);
        if sequence <= before && !world.events[key].deleted {
            found.push(format!(
                "G5: {}:{sequence} was first delivered after {before}",
                key.aggregate_id
            ));
        }
    }
    for (key, event) in &world.events {
        let name = format!("{}:{}", key.aggregate_id, key.sequence);
        let (status, delivered) = match event.flaw {
            None => (Status::Published, true),
            Some(_) => (Status::Failed, false),
        };
        if event.deleted {
            continue;
        }
        if seen.contains(key) != delivered {
            found.push(format!("G2: {name} must be delivered: {delivered}"));
        }
        if event.status != status {
            found.push(format!("G2: {name} is {:?}, not {status:?}", event.status));
        }
    }

    let repeats = world.deliveries.len() as u64 - seen.len() as u64;
    // A lost answer repeats a batch of 10; a crash or a freeze what was in
    // flight, for which there is room for so many. A mark whose answer was
    // lost repeats nothing.
    let allowed = world.faults.count("send answer lost") * 10
        + (world.faults.count("crash") + world.faults.count("freeze")) * BUFFER_EVENTS as u64;
    if repeats > allowed {
        found.push(format!("G3: {repeats} repeats, {allowed} explained"));
    }

    // One page being fed, one waiting, one being read, per shard and
    // instance, and the buffer.
    let bound = BUFFER_EVENTS + world.shards.len() * 3 * PAGE;
    if world.most_unfinished > bound * MAX_INSTANCES {
        found.push(format!(
            "G7: {} events read and not finished, {bound} allowed",
            world.most_unfinished
        ));
    }
    world.violations.extend(found);
    repeats
}
