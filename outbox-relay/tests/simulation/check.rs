//! Checks of the final state of a run.

use std::collections::{BTreeMap, BTreeSet};

use outbox::Status;

use crate::world::{Delivery, Disturbance, World};

/// Adds violations to `world.violations`, and returns the number of repeated deliveries.
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
                "per-aggregate order: {}:{sequence} was first delivered after {before}",
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
            found.push(format!("no loss: {name} must be delivered: {delivered}"));
        }
        if event.status != status {
            found.push(format!(
                "no loss: {name} is {:?}, not {status:?}",
                event.status
            ));
        }
    }

    found.extend(unexplained_repeats(world));
    world.violations.extend(found);
    (world.deliveries.len() - seen.len()) as u64
}

/// Checks bounded repeats: for every repetition of an event, an answer was lost or a sender was
/// disturbed between sending and marking it.
fn unexplained_repeats(world: &World) -> Vec<String> {
    let mut by_event: BTreeMap<_, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &world.deliveries {
        by_event.entry(&delivery.key).or_default().push(delivery);
    }
    let mut found = Vec::new();
    for (key, deliveries) in by_event {
        let event = &world.events[key];
        // After its removal it is unknown whether the event had been sent.
        if event.deleted {
            continue;
        }
        let Some((last, earlier)) = deliveries.split_last() else {
            continue;
        };
        let lost = earlier.iter().filter(|sent| sent.answer_lost).count();
        let disturbed = |disturbance: &&Disturbance| {
            let hit = |sent: &&&Delivery| {
                let settled = event.settled_at.map_or(last.at, |at| at.max(sent.at));
                disturbance.hit(&sent.sender, sent.sent_at, settled)
            };
            // The last request may have been in flight while another delivery was marked.
            disturbance.hit(&last.sender, last.sent_at, last.at)
                || earlier.iter().any(|sent| hit(&sent))
        };
        let disturbances = world.disturbances.iter().filter(disturbed).count();
        if earlier.len() > lost + disturbances {
            let senders: Vec<_> = deliveries.iter().map(|sent| &*sent.sender).collect();
            found.push(format!(
                "bounded repeats: {}:{} was delivered by {}, with {lost} lost answers and {disturbances} disturbances",
                key.aggregate_id,
                key.sequence,
                senders.join(", "),
            ));
        }
    }
    found
}
