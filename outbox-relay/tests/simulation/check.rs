//! Checks of the final state of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox::Status;
use outbox_relay::engine::OnFailure;
use outbox_relay::ports::EventKey;
use tokio::time::Instant;

use crate::world::{Delivery, Disturbance, EventModel, World};

/// Time after the deferral of an event from which sweepers treat pending events before it as lost:
/// 30 s, by clocks that differ by up to 2.6 s.
const LOST_AFTER: Duration = Duration::from_secs(27);

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
        let before = last.entry(&key.aggregate_id).or_default();
        let event = &world.events[key];
        // Later events have passed an event that was quarantined unless they are held, and do not
        // wait for one that was deleted or discarded.
        let was_passed = event.was_failed && !is_held(world, &key.aggregate_id);
        let has_a_place = !(event.deleted || event.was_discarded || was_passed);
        if sequence <= *before && has_a_place {
            found.push(format!(
                "per-aggregate order: {}:{sequence} was first delivered after {before}",
                key.aggregate_id
            ));
        }
        *before = sequence.max(*before);
    }
    found.extend(
        world
            .events
            .iter()
            .filter_map(|(key, event)| lost(world, key, event)),
    );
    found.extend(unexplained_repeats(world));
    world.violations.extend(found);
    (world.deliveries.len() - world.messages.len()) as u64
}

/// Returns `true` if the events of an aggregate wait for a quarantined one. Those that the index
/// does not contain cannot be left to the table, so they do not wait.
fn is_held(world: &World, aggregate_id: &str) -> bool {
    let events = &mut world.events.iter();
    world.setup.on_failure == OnFailure::Hold
        && events
            .filter(|(key, _)| key.aggregate_id == aggregate_id)
            .all(|(_, event)| event.wrote_bucket)
}

/// Checks no loss: the event has the status that it must have, and was delivered once for its first
/// publication and once for each replay.
fn lost(world: &World, key: &EventKey, event: &EventModel) -> Option<String> {
    if event.deleted || event.is_lost {
        return None;
    }
    let name = format!("{}:{}", key.aggregate_id, key.sequence);
    let status = match event.flaw {
        // It may have been delivered before.
        _ if event.was_discarded => Status::Discarded,
        None => Status::Published,
        Some(_) => Status::Failed,
    };
    if event.status != status {
        return Some(format!(
            "no loss: {name} is {:?}, not {status:?}",
            event.status
        ));
    }
    let delivered = |replay| world.messages.contains_key(&(key.clone(), replay));
    match status {
        Status::Published => (0..=event.added.replays)
            .find(|replay| !delivered(*replay))
            .map(|replay| format!("no loss: replay {replay} of {name} was not delivered")),
        Status::Failed => delivered(0).then(|| format!("no loss: {name} was delivered")),
        Status::Discarded | Status::Pending => None,
    }
}

/// Checks bounded repeats: for every repetition of an event, an answer was lost or a sender was
/// disturbed between sending and marking it.
fn unexplained_repeats(world: &World) -> Vec<String> {
    let mut by_event: BTreeMap<_, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &world.deliveries {
        by_event
            .entry((&delivery.key, delivery.replay))
            .or_default()
            .push(delivery);
    }
    let mut found = Vec::new();
    for ((key, replay), deliveries) in by_event {
        let event = &world.events[key];
        // After its removal it is unknown whether the event had been sent.
        if event.deleted {
            continue;
        }
        let Some((last, earlier)) = deliveries.split_last() else {
            continue;
        };
        let lost = earlier.iter().filter(|sent| sent.answer_lost).count();
        // It may be a copy that arrived after its sender had sent the event again.
        let lost = lost + usize::from(last.is_late);
        let disturbed = |disturbance: &&Disturbance| {
            let hit = |sent: &&&Delivery| {
                // A stale copy of an event that is pending again cannot be marked.
                let published = event
                    .published
                    .get(&replay)
                    .filter(|_| event.republished == 0);
                let settled = published.or(event.settled_at.as_ref());
                let settled = settled.map_or(last.at, |at| sent.at.max(*at));
                disturbance.hit(&sent.sender, sent.sent_at, settled)
            };
            // The last request may have been in flight while another delivery was marked.
            disturbance.hit(&last.sender, last.sent_at, last.at)
                || earlier.iter().any(|sent| hit(&sent))
        };
        let disturbances = world.disturbances.iter().filter(disturbed).count();
        // A reader may receive the old record of an event that is pending again.
        let stale = usize::try_from(event.republished).unwrap_or(usize::MAX);
        let stale = stale + usize::from(is_sent_twice(world, key, last.at));
        if earlier.len() > lost + disturbances + stale {
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

/// Returns `true` if two instances may send an event that was last delivered at `delivered_at`:
///
/// - a sweeper and the reader of a later event of its aggregate, if the stream has lost it while
///   its queue fails or is slow,
/// - a sweeper and its own reader, if the sweeper treats it as lost because a later event was
///   deferred long ago,
/// - two sweepers, if it was deferred, and a later event cannot be.
fn is_sent_twice(world: &World, key: &EventKey, delivered_at: Instant) -> bool {
    let sequence = |key: &EventKey| key.sequence.parse::<u64>().ok();
    let is_before = |condition: &dyn Fn(&EventModel) -> bool| {
        world.events.iter().any(|(other, event)| {
            other.aggregate_id == key.aggregate_id
                && sequence(other) > sequence(key)
                && condition(event)
        })
    };
    let setup = &world.setup;
    let is_impaired = setup.failing_queue.is_some() || setup.slow_queue.is_some();
    let is_lost = is_impaired && !world.has_record(key);
    let was_deferred_early = |later: &EventModel| {
        let since = later.deferred_since;
        since.is_some_and(|since| since + LOST_AFTER <= delivered_at)
    };
    is_lost
        || is_before(&was_deferred_early)
        || (world.events[key].deferred && is_before(&|later| !later.wrote_bucket))
}
