//! Sequence gate: dispatches the events of a shard, those of each aggregate in the order of
//! `sequence` (the "per-aggregate order" rule).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::known_statuses::{KnownStatuses, PENDING};
use super::read_event::ReadEvent;
use super::takeover_filter::CheckedEvents;
use crate::engine::buffer_budget::EVENT_OVERHEAD;
use crate::engine::context::ShardContext;
use crate::engine::in_flight::RecordRef;
use crate::engine::order_gate::{Dispatch, OrderGate, predecessor};
use crate::engine::outbox_reader::EventStatuses;
use crate::engine::shard_state::ShardState;
use crate::policy::recent_map::RecentMap;
use crate::policy::record_classifier::{Event, Rejected};
use crate::policy::sequence_rule::{Decision, Earlier, Path, Successor};
use crate::policy::sequence_tracker::AggregateHash;
use crate::ports::EventKey;

/// Minimum time and minimum number of reads for which an event waits for a predecessor that is
/// pending and has not been read. Time alone proves nothing after the process was suspended, as
/// long as the shard has further records.
const MAX_WAIT: Duration = Duration::from_secs(10);
const MAX_WAITED_READS: u32 = 20;

/// Time for which an aggregate counts as blocked after one of its events was deferred at the end of
/// its wait, or because of a quarantined one: later events of it are deferred without a wait. Also
/// the minimum number of aggregates for which that is remembered. A wait lets an aggregate return
/// from the table path to the stream path; without an end in sight it only delays the shard.
const BLOCKED_FOR: Duration = Duration::from_secs(60);
const MAX_BLOCKED: usize = 4_000;

/// Gate of one shard.
pub(super) struct SequenceGate {
    gate: OrderGate,
    /// Blocked aggregates, and the times since which they are.
    blocked: RecentMap<AggregateHash, Instant>,
    /// The shard is closed and was read to its end.
    is_at_end: bool,
}

/// Capacity for events that wait for predecessors, in bytes.
struct WaitingCapacity {
    used: usize,
    max: usize,
}

impl WaitingCapacity {
    fn fits(&self, event: &Event) -> bool {
        self.used + size_of(event) <= self.max
    }
}

/// Returns the capacity that an event takes while it waits, in bytes.
fn size_of(event: &Event) -> usize {
    event.message.size() + EVENT_OVERHEAD
}

/// Returns the path of an event that does not wait any longer.
const fn without_wait(path: Path) -> Path {
    match path {
        Path::Stream {
            is_impaired,
            is_deferring,
            is_blocked,
            may_wait: _,
        } => Path::Stream {
            is_impaired,
            is_deferring,
            is_blocked,
            may_wait: false,
        },
        Path::Table { .. } => path,
    }
}

impl SequenceGate {
    pub(super) fn new(ctx: &ShardContext, shard: &Arc<ShardState>, random: fastrand::Rng) -> Self {
        Self {
            gate: OrderGate::new(ctx, shard, false, random),
            blocked: RecentMap::new(MAX_BLOCKED),
            is_at_end: false,
        }
    }

    /// Records that the shard has no further records. A predecessor that is pending and was not
    /// read can then come from the table only, so waiting for it would only delay the shard's
    /// children.
    pub(super) const fn record_end(&mut self) {
        self.is_at_end = true;
    }

    /// Dispatches an event that can never be sent, which has no place in the order.
    pub(super) async fn dispatch_rejected(&self, rejected: Rejected, record: RecordRef) {
        self.gate
            .dispatcher
            .dispatch_rejected(rejected, Some(record))
            .await;
    }

    /// Dispatches the events of a page whose predecessor is dispatched or settled, defers those
    /// that must follow an event of the table path, and settles the records of those that are
    /// settled in the table already. Returns the events that wait for a predecessor.
    pub(super) async fn admit(&mut self, checked: CheckedEvents) -> Vec<ReadEvent> {
        let CheckedEvents {
            mut events,
            mut statuses,
        } = checked;
        events.sort_by_key(|read| read.event.sequence);
        self.gate.update_capacity();
        let started_at = Instant::now();
        let keys = self.keys_to_look_up(&events, &statuses, started_at);
        statuses.extend(self.gate.outbox.statuses(keys).await);
        let keys = self.events_to_look_back(&events, &statuses);
        let mut known = KnownStatuses {
            nearest: self.gate.nearest_earlier(keys).await,
            statuses,
            behind_deferred: HashSet::new(),
        };
        let mut capacity = self.waiting_capacity();
        let mut waiting = Vec::new();
        let mut settled = 0;
        for read in events {
            let key = &read.event.key;
            if read.in_takeover_window && known.statuses.is_deferred(key) {
                // The previous owner deferred it.
                settled += 1;
                self.gate.shard().tracker().settle(read.record.number);
                continue;
            }
            let forgotten = self.gate.forgotten();
            let path = self.path_of(&read, &capacity);
            match self.decide(&read.event, path, &known) {
                Decision::Follow => {}
                Decision::Wait => {
                    capacity.used += size_of(&read.event);
                    known.record_waiting(&read.event);
                    waiting.push(read);
                    continue;
                }
                Decision::Defer => {
                    self.defer(read, path, &mut known, &mut waiting).await;
                    continue;
                }
                Decision::LookBack | Decision::PublishEarlier => {
                    let path = without_wait(path);
                    let earlier = self
                        .gate
                        .dispatch_earlier(&read.event, path, forgotten)
                        .await;
                    self.log_earlier(&read.event, earlier.count);
                    if earlier.is_blocked {
                        self.defer(read, path, &mut known, &mut waiting).await;
                        continue;
                    }
                }
            }
            let (id, sequence) = (&read.event.key.aggregate_id, read.event.sequence);
            if (read.in_takeover_window || self.gate.was_dispatched(&read.event.key))
                && known.statuses.is_settled(&read.event)
            {
                settled += 1;
                let is_failed = known.statuses.is_failed(&read.event.key);
                let mut sequences = self.gate.shard().sequences();
                // If events before it were shed since, the next one must not follow yet. After a
                // quarantined one, it may have to wait.
                if !is_failed
                    && (sequences.may_follow(id, sequence) || sequences.is_unchanged(id, forgotten))
                {
                    sequences.record_dispatched(id, sequence);
                }
                drop(sequences);
                self.gate.shard().tracker().settle(read.record.number);
                continue;
            }
            let record = Some(read.record.clone());
            let is_published = known.statuses.is_published(&predecessor(&read.event));
            let dispatch = self
                .gate
                .dispatch_after(&read.event, record, is_published, forgotten);
            if dispatch.await != Dispatch::Done {
                // Its predecessor was shed meanwhile.
                if read.event.is_deferrable && !capacity.fits(&read.event) {
                    self.defer(read, path, &mut known, &mut waiting).await;
                } else {
                    capacity.used += size_of(&read.event);
                    waiting.push(read);
                }
            }
        }
        self.record_settled(settled);
        let now = Instant::now();
        for read in &mut waiting {
            if read.look_ups.is_due(started_at) {
                read.look_ups.record(now);
            }
        }
        waiting
    }

    fn waiting_capacity(&self) -> WaitingCapacity {
        let ctx = &self.gate.ctx;
        WaitingCapacity {
            used: 0,
            max: ctx.config.max_waiting_bytes() / ctx.status.shards_held().max(1),
        }
    }

    fn path_of(&self, read: &ReadEvent, capacity: &WaitingCapacity) -> Path {
        let queues = &self.gate.ctx.queues;
        let aggregate = AggregateHash::of(&read.event.key.aggregate_id);
        let blocked = self.blocked.get(&aggregate);
        let has_waited = read.read_at.elapsed() >= MAX_WAIT
            && (self.is_at_end || read.later_reads + 1 >= MAX_WAITED_READS);
        Path::Stream {
            is_impaired: queues.is_impaired(&read.event.queue),
            is_deferring: self.is_at_end || queues.is_deferring(&read.event.queue),
            is_blocked: blocked.is_some_and(|since| since.elapsed() < BLOCKED_FOR),
            may_wait: !has_waited && capacity.fits(&read.event),
        }
    }

    /// Decides about an event by what was read of the events before it.
    fn decide(&self, event: &Event, path: Path, known: &KnownStatuses) -> Decision {
        if self.gate.may_follow(event) {
            return Decision::Follow;
        }
        let key = predecessor(event);
        let decision = self.gate.decide(event, path, &key, known.status_of(&key));
        match known.nearest.get(&event.key) {
            Some(nearest) if decision == Decision::LookBack => match nearest {
                None => Decision::Follow,
                Some(earlier) => {
                    let path = without_wait(path);
                    self.gate.decide(event, path, &earlier.key, earlier.status)
                }
            },
            _ => decision,
        }
    }

    /// Defers an event, and the earlier ones of its aggregate that wait here: a sweeper would
    /// publish those as well.
    async fn defer(
        &mut self,
        read: ReadEvent,
        path: Path,
        known: &mut KnownStatuses,
        waiting: &mut Vec<ReadEvent>,
    ) {
        // Events of an impaired queue are deferred at once anyway.
        if let Path::Stream {
            is_impaired: false,
            is_blocked: false,
            ..
        } = path
        {
            let aggregate = AggregateHash::of(&read.event.key.aggregate_id);
            self.blocked.insert(aggregate, Instant::now());
        }
        // Later events of the page are deferred behind it.
        known.statuses.record_deferred(&read.event.key);
        known.behind_deferred.remove(&read.event.key);
        let id = &read.event.key.aggregate_id;
        let is_earlier = |other: &mut ReadEvent| {
            other.event.key.aggregate_id == *id && other.event.is_deferrable
        };
        let earlier: Vec<_> = waiting.extract_if(.., is_earlier).collect();
        let dispatcher = &self.gate.dispatcher;
        for read in earlier.into_iter().chain([read]) {
            dispatcher.defer(read.event, Some(read.record)).await;
        }
    }

    fn log_earlier(&self, event: &Event, count: usize) {
        if count > 0 {
            tracing::warn!(
                shard = %self.gate.shard().id,
                event_id = event.event_id,
                count,
                "predecessors of the event were not read from the stream; publishing them from the table"
            );
        }
    }

    fn record_settled(&self, count: u64) {
        if count > 0 {
            let ctx = &self.gate.ctx;
            ctx.metrics.record_skipped("already_settled", count);
            tracing::info!(
                shard = %self.gate.shard().id,
                count,
                "skipped events that were already settled"
            );
        }
    }

    /// Returns the events to look up: repeated ones, and predecessors that are neither remembered
    /// nor among `events`, if a look-up is due or the wait of one of the aggregate ends. Those in
    /// `known` are left out.
    fn keys_to_look_up(
        &self,
        events: &[ReadEvent],
        known: &EventStatuses,
        now: Instant,
    ) -> BTreeSet<EventKey> {
        let among_events: HashSet<_> = events
            .iter()
            .map(|read| (&read.event.key.aggregate_id, read.event.sequence))
            .collect();
        let capacity = self.waiting_capacity();
        let ends_wait: HashSet<_> = events
            .iter()
            .filter(|read| self.ends_wait(read, &capacity))
            .map(|read| &read.event.key.aggregate_id)
            .collect();
        let sequences = self.gate.shard().sequences();
        let mut keys = BTreeSet::new();
        for read in events {
            let key = &read.event.key;
            let (id, sequence) = (&key.aggregate_id, read.event.sequence);
            if sequences.is_repeat(id, sequence) {
                keys.insert(key.clone());
            }
            if !sequences.may_follow(id, sequence)
                && !among_events.contains(&(id, sequence - 1))
                && (read.look_ups.is_due(now) || ends_wait.contains(id))
            {
                keys.insert(predecessor(&read.event));
            }
        }
        keys.retain(|key| !known.contains(key));
        keys
    }

    /// Returns `true` if an event does not wait for a pending predecessor, or not any longer.
    /// Neither it nor an earlier event that would be deferred with it must be deferred behind one
    /// that was published since its last look-up.
    fn ends_wait(&self, read: &ReadEvent, capacity: &WaitingCapacity) -> bool {
        let successor = Successor {
            is_deferrable: read.event.is_deferrable,
            holds: false,
            path: self.path_of(read, capacity),
        };
        let earlier = Earlier {
            stored: Some(PENDING),
            is_dispatched: false,
        };
        successor.decide(earlier) != Decision::Wait
    }

    /// Returns the events whose predecessor does not exist, was discarded, or was quarantined and
    /// is not waited for.
    fn events_to_look_back(&self, events: &[ReadEvent], statuses: &EventStatuses) -> Vec<EventKey> {
        let capacity = self.waiting_capacity();
        let looks_back = |read: &&ReadEvent| {
            let key = predecessor(&read.event);
            let path = self.path_of(read, &capacity);
            statuses.contains(&key)
                && !self.gate.may_follow(&read.event)
                && self.gate.decide(&read.event, path, &key, statuses.of(&key))
                    == Decision::LookBack
        };
        let events = events.iter().filter(looks_back);
        events.map(|read| read.event.key.clone()).collect()
    }
}
