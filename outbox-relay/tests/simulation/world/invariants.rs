//! Invariants that are checked during a run.

use std::collections::BTreeSet;
use std::time::Duration;

use outbox::item::bucket_name;
use outbox::{Buckets, Status};
use outbox_relay::engine::OnFailure;
use outbox_relay::ports::{EventKey, Lease, LeaseState, Published, SWEEPERS, ShardId, sweeper_id};
use tokio::time::Instant;

use super::stream::RecordModel;
use super::table::Flaw;
use super::{PAGE, RETENTION, World, clock};
use crate::instance::POLL_MIN_MILLIS;

/// Time in which a reader stops after the loss of its shard.
const STOP_LIMIT: Duration = Duration::from_secs(1);

impl World {
    /// Checks lineage: a shard is read only if its parent is fully consumed or no longer exists.
    /// Order would be kept without it, as events wait for their predecessors, but slowly.
    pub(crate) fn check_parent(&mut self, id: &ShardId) {
        let parent = self.shard(id).and_then(|shard| shard.parent.clone());
        let Some(parent) = parent.filter(|parent| self.shard(parent).is_some()) else {
            return;
        };
        let done = self
            .lease(&parent)
            .is_some_and(|lease| lease.state == LeaseState::Ended);
        if !done {
            self.violations.push(format!(
                "lineage: {id} is read before {parent} is fully consumed"
            ));
        }
    }

    /// Records that `name` was informed that it lost `shard`, or that it acquired it again.
    pub(crate) fn inform(&mut self, name: &str, shard: &ShardId, lost: bool) {
        let key = (name.to_owned(), shard.clone());
        let informed = self.informed.entry(key).or_default();
        if lost {
            informed.get_or_insert_with(Instant::now);
        } else {
            *informed = None;
            self.told.remove(&(name.to_owned(), shard.clone()));
        }
    }

    /// Records that `name` was informed that it released `shard`.
    pub(crate) fn forget_informed(&mut self, name: &str, shard: &ShardId) {
        self.informed.remove(&(name.to_owned(), shard.clone()));
    }

    /// Records that `name` received an answer about `shard`, which may be that it was lost.
    pub(crate) fn tell(&mut self, name: &str, shard: &ShardId) {
        let key = (name.to_owned(), shard.clone());
        if let Some(Some(_)) = self.informed.get(&key) {
            self.told.entry(key).or_insert_with(Instant::now);
        }
    }

    /// Checks fence on loss: an instance that received the answer that it lost a shard reads it no
    /// longer.
    pub(crate) fn check_reader(&mut self, name: &str, shard: &ShardId) {
        let told = self.told.get(&(name.to_owned(), shard.clone()));
        if told.is_some_and(|at| at.elapsed() > STOP_LIMIT) {
            let violation = format!("fence on loss: {name} reads {shard}, which it has lost");
            self.violations.push(violation);
        }
    }

    /// Checks fence on loss: an instance that was informed of the loss of a shard sends no event of
    /// it. Those that it reads from the table, as their sweeper, are excluded.
    pub(crate) fn check_sender(&mut self, name: &str, key: &EventKey) {
        let partition = Buckets::default().partition_of(&key.aggregate_id);
        let bucket = (0..).find(|bucket| bucket_name(*bucket) == partition);
        let sweeper = bucket.map(|bucket| sweeper_id(bucket % SWEEPERS));
        let informed = |id| self.informed.get(&(name.to_owned(), id));
        let sweeps = sweeper.and_then(informed) == Some(&None);
        // Events whose records were trimmed are read from the table.
        let shard = self.shards.iter().find(|shard| {
            let readable = |record: &&RecordModel| !shard.deleted && record.number > shard.trimmed;
            let mut records = shard.records.iter().filter(readable);
            records.any(|record| record.event.as_ref() == Some(key))
        });
        let Some(shard) = shard.map(|shard| shard.id.clone()) else {
            return;
        };
        let open = self
            .lease(&shard)
            .is_some_and(|lease| lease.state == LeaseState::Open);
        let informed_lost = informed(shard.clone()).copied().flatten();
        // A request that was sent at the same instant was already in flight.
        if !sweeps && open && informed_lost.is_some_and(|at| at.elapsed() > Duration::ZERO) {
            self.violations.push(format!(
                "fence on loss: {name} sends {}:{} of {shard}, which it has lost",
                key.aggregate_id, key.sequence
            ));
        }
    }

    /// Checks fencing: the writer of a lease holds it, or starts a new epoch.
    pub(crate) fn check_fence(&mut self, stored: &Lease, written: &Lease) {
        let renewed = written.epoch == stored.epoch;
        let acquired = written.epoch == stored.epoch + 1 && written.heartbeat > stored.heartbeat;
        if !renewed && !acquired {
            self.violations.push(format!(
                "fencing: epoch {} of {} was overwritten by epoch {}",
                stored.epoch, stored.shard, written.epoch
            ));
        }
    }

    /// Checks fencing: every event up to a checkpoint is settled, and so is every event of a fully
    /// consumed shard.
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
            .find(|key| self.events[*key].is_unsettled())
            .cloned();
        let id = lease.shard.clone();
        if open {
            self.violations
                .push(format!("fencing: {id} is fully consumed but open"));
        }
        if let Some(key) = unsettled {
            self.violations.push(format!(
                "fencing: the checkpoint of {id} is past {}:{}",
                key.aggregate_id, key.sequence
            ));
        }
    }

    /// Checks fencing: a checkpoint never goes back.
    pub(crate) fn check_progress(&mut self, stored: &Lease, written: &Lease) {
        let number = |lease: &Lease| -> u64 {
            let checkpoint = lease.checkpoint.as_ref();
            checkpoint.map_or(0, |number| number.0.parse().unwrap_or(0))
        };
        if number(written) < number(stored) {
            self.violations.push(format!(
                "fencing: the checkpoint of {} went back from {} to {}",
                stored.shard,
                number(stored),
                number(written)
            ));
        }
    }

    /// Records that `name` received `keys` by a read of `shard`, and checks bounded memory: the
    /// unsettled events of the shards that it holds are bounded.
    pub(crate) fn read(&mut self, name: &str, shard: &ShardId, keys: Vec<EventKey>) {
        // A malformed event takes less of the budget and does not wait.
        let counts = |key: &EventKey| {
            let event = &self.events[key];
            event.is_unsettled() && event.flaw != Some(Flaw::Malformed)
        };
        let keys: Vec<_> = keys.into_iter().filter(counts).collect();
        let of_shard = (name.to_owned(), shard.clone());
        self.unsettled.entry(of_shard).or_default().extend(keys);
        let held: BTreeSet<_> = self
            .holders
            .iter()
            .filter(|((_, shard), holder)| *holder == name && shard.is_shard())
            .map(|((_, shard), _)| shard)
            .collect();
        let unsettled: usize = self
            .unsettled
            .iter()
            .filter(|((of, shard), _)| of == name && held.contains(shard))
            .map(|(_, keys)| keys.len())
            .sum();
        let buffer = self.setup.buffer_events();
        // For each shard: one page that is being processed, one that waits and one that is being
        // read, and the events that wait for their predecessor, for which a quarter of the buffer
        // is reserved, with 1 KiB instead of 2 for each.
        let bound = buffer + held.len() * (3 * PAGE + buffer / 2);
        self.max_unsettled = self.max_unsettled.max(unsettled);
        if unsettled > bound {
            self.violations.push(format!(
                "bounded memory: {name} has read {unsettled} unsettled events, {bound} are allowed"
            ));
        }
    }

    /// Checks failure mode: no event is first delivered while an earlier one of its aggregate is
    /// quarantined. Those that the index does not contain do not wait, nor do the ones before them.
    pub(crate) fn check_held(&mut self, key: &EventKey) {
        let is_repeat = self.deliveries.iter().any(|sent| sent.key == *key);
        if self.setup.on_failure != OnFailure::Hold || is_repeat {
            return;
        }
        let sequence = |key: &EventKey| key.sequence.parse::<u64>().ok();
        let of_aggregate = || {
            let events = self.events.iter();
            events.filter(|(other, _)| other.aggregate_id == key.aggregate_id)
        };
        let quarantined = of_aggregate().find(|(other, event)| {
            sequence(other) < sequence(key) && event.status == Status::Failed && !event.deleted
        });
        let is_held = of_aggregate().all(|(_, event)| event.wrote_bucket);
        if let Some((other, _)) = quarantined.filter(|_| is_held) {
            self.violations.push(format!(
                "failure mode: {}:{} was first delivered while {} is quarantined",
                key.aggregate_id, key.sequence, other.sequence
            ));
        }
    }

    /// Checks the attributes of a mark, which took effect on an event of this many replays.
    pub(crate) fn check_mark(&mut self, instance: &str, mark: &Published, replays: u64) {
        let key = &mark.key;
        let name = format!("{}:{}", key.aggregate_id, key.sequence);
        let messages = self.messages.get(&(key.clone(), replays));
        if messages.is_none_or(|ids| !ids.contains(&mark.message_id)) {
            self.violations.push(format!(
                "publish → mark: {instance} marked replay {replays} of {name} with message {}, which is not of it",
                mark.message_id
            ));
        }
        let left = mark.expires_at - clock().as_seconds();
        if (left - RETENTION).abs() > 60 {
            self.violations.push(format!(
                "publish → mark: {instance} marked {name} to expire in {left} s"
            ));
        }
    }

    /// Checks pacing: in a second, a shard is read at most as often as the shortest interval
    /// allows, apart from nearly full pages, which are followed by a read at once.
    pub(crate) fn check_pacing(&mut self, name: &str, shard: &ShardId) {
        let instance = name.split('.').next().and_then(|n| n.parse::<usize>().ok());
        let interval = POLL_MIN_MILLIS[instance.expect("a number of an instance")];
        let now = Instant::now();
        let of_shard = (name.to_owned(), shard.clone());
        let (since, count) = self.reads.entry(of_shard).or_insert((now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        // Requests that take long arrive with shorter intervals.
        if *count > 1_000 / interval + 5 {
            let violation = format!("pacing: {name} reads {shard} {count} times in a second");
            self.violations.push(violation);
            *count = 0;
        }
    }

    /// Checks graceful shutdown: an instance that has stopped holds no lease of which it
    /// knows. One whose acquisition was not answered expires.
    pub(crate) fn check_released(&mut self, name: &str) {
        if self.has_faults || self.setup.is_limited {
            return;
        }
        let stream = self.stream();
        let held = self
            .holders
            .iter()
            .filter(|((of, _), holder)| *of == stream && *holder == name)
            .find(|((_, id), _)| {
                let informed = self.informed.get(&(name.to_owned(), id.clone()));
                informed == Some(&None)
            });
        if let Some(((_, shard), _)) = held {
            let violation = format!("graceful shutdown: {name} has stopped and holds {shard}");
            self.violations.push(violation);
        }
    }

    /// Checks the gap rule: an instance that read a trimmed position has counted a gap.
    pub(crate) fn check_gap(&mut self, name: &str, counted: u64) {
        if counted == 0 && self.saw_gap.contains(name) {
            self.violations.push(format!(
                "gap: {name} read a trimmed position and did not count a gap"
            ));
        }
    }
}
