//! What is checked while a run goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox_relay::ports::{EventKey, Lease, LeaseState, SWEEPER, ShardId};
use tokio::time::Instant;

use super::stream::RecordModel;
use super::table::Flaw;
use super::{PAGE, World};
use crate::run::BUFFER_EVENTS;

/// What of a shard may be outside the buffer: one page being handed over, one
/// waiting, one being read, and events that wait for the one before them, for
/// which there is a quarter of the buffer, at 1 KiB instead of 2 for each.
const READ_AHEAD: usize = 3 * PAGE + BUFFER_EVENTS / 2;

impl World {
    /// Rule 1: a shard is read only when its parent is done or gone. Order
    /// would survive it, as events wait for their predecessors, but slowly.
    pub(crate) fn check_parent(&mut self, id: &ShardId) {
        let parent = self.shard(id).and_then(|shard| shard.parent.clone());
        let Some(parent) = parent.filter(|parent| self.shard(parent).is_some()) else {
            return;
        };
        let done = self
            .lease(&parent)
            .is_some_and(|lease| lease.state == LeaseState::Ended);
        if !done {
            self.violations
                .push(format!("rule 1: {id} is read before {parent} is done"));
        }
    }

    /// `name` hears that it no longer has `shard`, or has it again.
    pub(crate) fn tell(&mut self, name: &str, shard: &ShardId, lost: bool) {
        let key = (name.to_owned(), shard.clone());
        if lost {
            self.told.entry(key).or_insert_with(Instant::now);
        } else {
            self.told.remove(&key);
        }
    }

    /// Rule 4: whoever was told that a shard is lost sends nothing more of it.
    /// What it finds in the table, as the sweeper, is another matter.
    pub(crate) fn check_sender(&mut self, name: &str, instance: &str, key: &EventKey) {
        let sweeps = self
            .leases
            .values()
            .any(|lease| *lease.shard.0 == *SWEEPER && lease.owner.as_deref() == Some(instance));
        // What the stream has forgotten comes from the table.
        let shard = self.shards.iter().find(|shard| {
            let readable = |record: &&RecordModel| !shard.gone && record.number > shard.trimmed;
            let mut records = shard.records.iter().filter(readable);
            records.any(|record| record.event.as_ref() == Some(key))
        });
        let Some(shard) = shard.map(|shard| shard.id.clone()) else {
            return;
        };
        let open = self
            .lease(&shard)
            .is_some_and(|lease| lease.state == LeaseState::Open);
        let told = self.told.get(&(name.to_owned(), shard.clone()));
        // What was handed to the network in the same instant is in flight.
        if !sweeps && open && told.is_some_and(|at| at.elapsed() > Duration::ZERO) {
            self.violations.push(format!(
                "rule 4: {name} sends {}:{} of {shard}, which it has lost",
                key.aggregate_id, key.sequence
            ));
        }
    }

    /// G6: whoever writes a lease holds it, or makes it a new epoch.
    pub(crate) fn check_fence(&mut self, stored: &Lease, written: &Lease) {
        let renewed = written.epoch == stored.epoch;
        let taken = written.epoch == stored.epoch + 1 && written.heartbeat > stored.heartbeat;
        if !renewed && !taken {
            self.violations.push(format!(
                "G6: epoch {} of {} was overwritten by epoch {}",
                stored.epoch, stored.shard, written.epoch
            ));
        }
    }

    /// G6: everything up to a checkpoint is settled, and so is everything in
    /// a shard that is said to be at its end.
    pub(crate) fn check_checkpoint(&mut self, lease: &Lease) {
        let Some(shard) = self.shard(&lease.shard) else {
            return;
        };
        let ended = lease.state == LeaseState::Ended;
        let until = match &lease.checkpoint {
            _ if ended => u64::MAX,
            Some(number) => number.0.parse().unwrap_or(u64::MAX),
            None => 0,
        };
        let open = ended && !shard.closed;
        let unsettled = shard
            .records
            .iter()
            .filter(|record| record.number <= until && record.number > shard.trimmed)
            .filter_map(|record| record.event.as_ref())
            .find(|key| self.events[*key].is_pending())
            .cloned();
        let id = lease.shard.clone();
        if open {
            self.violations.push(format!("G6: {id} is ended but open"));
        }
        if let Some(key) = unsettled {
            self.violations.push(format!(
                "G6: the checkpoint of {id} is past {}:{}",
                key.aggregate_id, key.sequence
            ));
        }
    }

    /// `name` was given `keys` by a read of `shard`. G7: what it has read of
    /// the shards it holds and is not settled is bounded.
    pub(crate) fn read(&mut self, name: &str, shard: &ShardId, keys: Vec<EventKey>) {
        // What is malformed takes less room, and waits for nothing.
        let counts = |key: &EventKey| {
            let event = &self.events[key];
            event.is_pending() && event.flaw != Some(Flaw::Malformed)
        };
        let keys: Vec<_> = keys.into_iter().filter(counts).collect();
        let of_shard = (name.to_owned(), shard.clone());
        self.unfinished.entry(of_shard).or_default().extend(keys);
        let held: BTreeSet<_> = self
            .holders
            .iter()
            .filter(|((_, shard), holder)| *holder == name && *shard.0 != *SWEEPER)
            .map(|((_, shard), _)| shard)
            .collect();
        let unfinished: usize = self
            .unfinished
            .iter()
            .filter(|((of, shard), _)| of == name && held.contains(shard))
            .map(|(_, keys)| keys.len())
            .sum();
        let bound = BUFFER_EVENTS + held.len() * READ_AHEAD;
        self.most_unfinished = self.most_unfinished.max(unfinished);
        if unfinished > bound {
            self.violations.push(format!(
                "G7: {name} has read {unfinished} events and not finished them, {bound} allowed"
            ));
        }
    }

    /// Rule 7: whoever was told that a position is trimmed has counted a gap.
    pub(crate) fn check_gap(&mut self, name: &str, counted: u64) {
        if counted == 0 && self.saw_gap.contains(name) {
            self.violations
                .push(format!("rule 7: {name} saw a gap and did not count it"));
        }
    }
}
