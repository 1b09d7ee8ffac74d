//! Messages that reached the queues, and disturbances that explain a repeated message.

use std::time::Duration;

use outbox_relay::ports::{EventKey, ShardId};
use tokio::time::Instant;

use super::World;

const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(300);

/// Longer than every run.
const BEYOND_RUN: Duration = Duration::from_secs(86_400);

/// Message that reached a queue.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) key: EventKey,
    /// Number of the replay that the message carries; 0 for a first publication.
    pub(crate) replay: u64,
    /// Incarnation that sent it.
    pub(crate) sender: String,
    /// Time at which the request left its sender.
    pub(crate) sent_at: Instant,
    pub(crate) at: Instant,
    pub(crate) answer_lost: bool,
    /// It arrived after its sender gave up.
    pub(crate) is_late: bool,
}

/// Disturbance of an incarnation between sending events and marking them.
#[derive(Debug)]
pub(crate) struct Disturbance {
    /// Disturbed incarnation.
    of: String,
    from: Instant,
    /// End; `None` while the process is frozen.
    until: Option<Instant>,
}

impl Disturbance {
    /// Returns `true` if it disturbed `sender` between `from` and `until`.
    pub(crate) fn hit(&self, sender: &str, from: Instant, until: Instant) -> bool {
        self.of == sender
            && self.from <= until
            && self.until.is_none_or(|recovered| recovered >= from)
    }
}

impl World {
    /// Delivers a message to a queue, and returns its id. A FIFO queue accepts a message with a
    /// deduplication id of the last five minutes and does not deliver it.
    pub(crate) fn deliver(&mut self, delivery: Delivery, deduplication: Option<&str>) -> String {
        let earlier = deduplication.and_then(|id| self.deduplicated.get(id));
        if let Some((_, id)) = earlier.filter(|(at, _)| at.elapsed() < DEDUPLICATION_WINDOW) {
            let id = id.clone();
            self.faults.note("message deduplicated");
            self.log(format!(
                "{} sends {}:{} replay {}, a duplicate of {id}",
                delivery.sender, delivery.key.aggregate_id, delivery.key.sequence, delivery.replay
            ));
            return id;
        }
        self.check_held(&delivery.key);
        self.log(format!(
            "{} delivers {}:{} replay {}",
            delivery.sender, delivery.key.aggregate_id, delivery.key.sequence, delivery.replay
        ));
        let id = format!("m-{}", self.deliveries.len() + 1);
        let message = (delivery.key.clone(), delivery.replay);
        if let Some(deduplication) = deduplication {
            let message = (Instant::now(), id.clone());
            self.deduplicated.insert(deduplication.to_owned(), message);
        }
        self.messages.entry(message).or_default().insert(id.clone());
        self.deliveries.push(delivery);
        id
    }

    pub(crate) fn started(&mut self, name: &str) {
        self.running.insert(name.to_owned());
    }

    /// Records that a process crashed.
    pub(crate) fn crashed(&mut self, name: &str) {
        self.disturbed(name, Some(Instant::now() + BEYOND_RUN));
        self.dead.insert(name.to_owned());
        self.running.remove(name);
        self.unsettled.retain(|(of, _), _| of != name);
    }

    /// Records that a process is suspended until it is thawed.
    pub(crate) fn frozen(&mut self, name: &str) {
        self.disturbed(name, None);
    }

    pub(crate) fn thawed(&mut self, name: &str) {
        for disturbance in &mut self.disturbances {
            if disturbance.of == name {
                disturbance.until.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Records that `name` acquired a lease and reads its shard from the checkpoint. A previous
    /// holder that did not release it is disturbed.
    pub(crate) fn acquired(&mut self, name: &str, lease: (String, ShardId)) {
        self.unsettled.remove(&(name.to_owned(), lease.1.clone()));
        let before = self.holders.insert(lease, name.to_owned());
        // A crash explains the repeats of a dead incarnation already.
        if let Some(before) = before.filter(|before| before != name && !self.dead.contains(before))
        {
            self.disturbed(&before, Some(Instant::now()));
        }
    }

    /// Records that the owner of a lease released or transferred it.
    pub(crate) fn released(&mut self, lease: &(String, ShardId)) {
        self.holders.remove(lease);
    }

    /// Records that a shard was trimmed completely. Its reader may still have its records in
    /// flight, while others now find them in the table.
    pub(super) fn shard_deleted(&mut self, shard: &ShardId) {
        let of_shard = self.holders.iter().find(|((_, held), _)| held == shard);
        if let Some(holder) = of_shard.map(|(_, holder)| holder.clone()) {
            self.disturbed(&holder, Some(Instant::now() + BEYOND_RUN));
        }
    }

    /// Records that the stream was deleted. Running instances continue with it until their next
    /// poll, while others start with the new one.
    pub(super) fn stream_deleted(&mut self) {
        for name in self.running.clone() {
            self.disturbed(&name, Some(Instant::now() + BEYOND_RUN));
        }
    }

    fn disturbed(&mut self, name: &str, until: Option<Instant>) {
        self.disturbances.push(Disturbance {
            of: name.to_owned(),
            from: Instant::now(),
            until,
        });
    }

    /// Returns `true` if a request of `name` arrives. A request in flight whose sender died may or
    /// may not arrive.
    pub(crate) fn arrives(&mut self, name: &str) -> bool {
        if !self.dead.contains(name) {
            return true;
        }
        let arrives = self.random.bool();
        if arrives {
            self.faults.note("request outlives its sender");
            self.log(format!("a request of the dead {name} arrives"));
        }
        arrives
    }
}
