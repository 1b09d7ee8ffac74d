//! What reached the queues, and what may have made a message come twice.

use std::time::Duration;

use outbox_relay::ports::{EventKey, ShardId};
use tokio::time::Instant;

use super::World;

/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(86_400);

/// One message that reached a queue.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) key: EventKey,
    /// The incarnation that sent it.
    pub(crate) sender: String,
    /// When the request left its sender.
    pub(crate) sent_at: Instant,
    pub(crate) at: Instant,
    pub(crate) answer_lost: bool,
}

/// Something that came between sending events and marking them.
#[derive(Debug)]
pub(crate) struct Disturbance {
    /// The incarnation that it happened to.
    of: String,
    from: Instant,
    /// `None`: it lasts until the process is thawed.
    until: Option<Instant>,
}

impl Disturbance {
    /// Whether it happened to `sender` between `from` and `until`.
    pub(crate) fn hit(&self, sender: &str, from: Instant, until: Instant) -> bool {
        self.of == sender
            && self.from <= until
            && self.until.is_none_or(|recovered| recovered >= from)
    }
}

impl World {
    /// A queue takes a message; returns its id.
    pub(crate) fn deliver(&mut self, delivery: Delivery) -> String {
        self.log(format!(
            "{} delivers {}:{}",
            delivery.sender, delivery.key.aggregate_id, delivery.key.sequence
        ));
        self.deliveries.push(delivery);
        format!("m-{}", self.deliveries.len())
    }

    pub(crate) fn started(&mut self, name: &str) {
        self.running.insert(name.to_owned());
    }

    /// A process ends without a word.
    pub(crate) fn crashed(&mut self, name: &str) {
        self.disturbed(name, Some(Instant::now() + FOREVER));
        self.dead.insert(name.to_owned());
        self.running.remove(name);
        self.unfinished.retain(|(of, _), _| of != name);
    }

    /// A process stops until it is thawed.
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

    /// `name` takes a lease, and begins to read its shard anew. Whoever had it
    /// and did not give it back is disturbed.
    pub(crate) fn taken(&mut self, name: &str, row: (String, ShardId)) {
        self.unfinished.remove(&(name.to_owned(), row.1.clone()));
        let before = self.holders.insert(row, name.to_owned());
        // The dead have their explanation already.
        if let Some(before) = before.filter(|before| before != name && !self.dead.contains(before))
        {
            self.disturbed(&before, Some(Instant::now()));
        }
    }

    /// A lease is given back or handed over, by its owner.
    pub(crate) fn given_back(&mut self, row: &(String, ShardId)) {
        self.holders.remove(row);
    }

    /// A shard is trimmed away, with records that its reader may still have in
    /// hand and that others now find in the table.
    pub(super) fn shard_gone(&mut self, shard: &ShardId) {
        let of_shard = self.holders.iter().find(|((_, held), _)| held == shard);
        if let Some(holder) = of_shard.map(|(_, holder)| holder.clone()) {
            self.disturbed(&holder, Some(Instant::now() + FOREVER));
        }
    }

    /// The stream is gone; all that run now go on with it until they look
    /// again, while others begin with the new one.
    pub(super) fn stream_gone(&mut self) {
        for name in self.running.clone() {
            self.disturbed(&name, Some(Instant::now() + FOREVER));
        }
    }

    fn disturbed(&mut self, name: &str, until: Option<Instant>) {
        self.disturbances.push(Disturbance {
            of: name.to_owned(),
            from: Instant::now(),
            until,
        });
    }

    /// Whether a request of `name` still arrives. One whose sender died on the
    /// way may, or may not.
    pub(crate) fn arrives(&mut self, name: &str) -> bool {
        if !self.dead.contains(name) {
            return true;
        }
        let arrives = self.random.bool();
        if arrives {
            self.faults.note("request outlives its sender");
            self.log(format!("a request of {name} arrives, which is dead"));
        }
        arrives
    }
}
