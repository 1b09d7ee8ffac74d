//! Sequence gate: dispatches the events of each aggregate in the order of `sequence` (the
//! "per-aggregate order" rule).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outbox::Status;
use outbox::item::attribute;
use tokio::time::Instant;

use super::read_event::ReadEvent;
use super::takeover_filter::CheckedEvents;
use crate::engine::buffer_budget::EVENT_OVERHEAD;
use crate::engine::context::ShardContext;
use crate::engine::in_flight::RecordRef;
use crate::engine::outbox_reader::{EventStatuses, OutboxReader};
use crate::engine::publish::dispatcher::Dispatcher;
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard_state::ShardState;
use crate::engine::{EngineConfig, OnFailure};
use crate::policy::recent_map::RecentMap;
use crate::policy::record_classifier::{Classified, Event, Rejected};
use crate::policy::sequence_tracker::SequenceTracker;
use crate::ports::{Change, EventKey, Item};

/// Minimum time and minimum number of reads for which an event waits for a predecessor that is
/// pending and has not been read. Time alone proves nothing after the process was suspended.
const MAX_WAIT: Duration = Duration::from_secs(10);
const MAX_WAITED_READS: u32 = 20;

/// Time after a wait in vain for which later events of the aggregate are left to the table without
/// a wait, and number of aggregates for which that is remembered at least. A wait lets an aggregate
/// return from the table to the stream; waits that are always in vain would only delay the shard.
const BLOCKED_FOR: Duration = Duration::from_secs(60);
const MAX_BLOCKED: usize = 1_000;

/// Number of earlier events that are read at once.
const MAX_EARLIER: usize = 100;

/// Gate of one shard, or of one pass of the sweeper.
pub(crate) struct SequenceGate {
    ctx: ShardContext,
    outbox: OutboxReader,
    dispatcher: Dispatcher,
    /// Aggregates with an event that waited in vain for a deferred or held predecessor, and when.
    blocked: RecentMap<String, Instant>,
}

impl SequenceGate {
    pub(crate) fn new(ctx: &ShardContext, shard: &Arc<ShardState>, random: fastrand::Rng) -> Self {
        *shard.sequences() = SequenceTracker::new(remembered_aggregates(ctx));
        Self {
            outbox: OutboxReader::new(Arc::clone(&ctx.ports.outbox), ctx.status.clone(), random),
            dispatcher: Dispatcher {
                shard: Arc::clone(shard),
                status: ctx.status.clone(),
                budget: ctx.budget.clone(),
                commands: ctx.commands.clone(),
            },
            blocked: RecentMap::new(MAX_BLOCKED),
            ctx: ctx.clone(),
        }
    }

    /// Passes an event that can never be sent; it has no place in the order.
    pub(super) async fn dispatch_rejected(&self, rejected: Rejected, record: RecordRef) {
        self.dispatcher
            .dispatch_rejected(rejected, Some(record))
            .await;
    }

    /// Dispatches the events of a page whose predecessor is dispatched or settled, and settles
    /// those that are settled in the table already. Returns the events that wait for a predecessor.
    pub(super) async fn admit(&mut self, checked: CheckedEvents) -> Vec<ReadEvent> {
        let CheckedEvents {
            mut events,
            mut statuses,
        } = checked;
        events.sort_by_key(|read| read.event.sequence);
        let capacity = remembered_aggregates(&self.ctx);
        self.dispatcher.shard.sequences().set_capacity(capacity);
        let keys = self.keys_to_look_up(&events, &statuses);
        statuses.extend(self.outbox.statuses(keys).await);
        let max_waiting_bytes =
            self.ctx.config.max_waiting_bytes() / self.ctx.status.shards_held().max(1);
        let mut waiting_bytes = 0;
        let mut waiting = Vec::new();
        let mut settled = 0;
        for mut read in events {
            let key = &read.event.key;
            let (id, sequence) = (&key.aggregate_id, read.event.sequence);
            if read.in_takeover_window && statuses.is_deferred(key) {
                // The previous owner left it to the table.
                settled += 1;
                self.dispatcher.shard.tracker().settle(read.record.number);
                continue;
            }
            let forgotten = self.dispatcher.shard.sequences().forgotten();
            if !self.may_follow(&read.event, &statuses) {
                let previous = predecessor(&read.event);
                if statuses.is_pending(&previous) && self.must_defer(&read.event, &statuses) {
                    self.defer(read).await;
                    continue;
                }
                if !statuses.is_not_pending(&previous) {
                    read.waited_reads += 1;
                    waiting_bytes += read.event.message.size() + EVENT_OVERHEAD;
                    let may_wait =
                        read.waited_reads < MAX_WAITED_READS || read.read_at.elapsed() < MAX_WAIT;
                    if may_wait && waiting_bytes <= max_waiting_bytes {
                        waiting.push(read);
                        continue;
                    }
                }
                let Some(count) = self.dispatch_earlier(&read.event, true, forgotten).await else {
                    self.blocked.insert(id.clone(), Instant::now());
                    self.defer(read).await;
                    continue;
                };
                if count > 0 {
                    tracing::warn!(
                        shard = %self.dispatcher.shard.id,
                        event_id = read.event.event_id,
                        count,
                        "predecessors of the event were not read from the stream; publishing them from the table"
                    );
                }
            }
            let is_repeat = self.dispatcher.shard.sequences().is_repeat(id, sequence);
            if (read.in_takeover_window || is_repeat) && statuses.is_settled(key) {
                settled += 1;
                let mut sequences = self.dispatcher.shard.sequences();
                // If events before it were left to the table, the next one must not follow yet.
                if sequences.may_follow(id, sequence) || sequences.forgotten() == forgotten {
                    sequences.record_dispatched(id, sequence);
                }
                drop(sequences);
                self.dispatcher.shard.tracker().settle(read.record.number);
                continue;
            }
            let record = Some(read.record.clone());
            let is_published = statuses.is_published(&predecessor(&read.event));
            if !self
                .dispatch_after(&read.event, record, is_published, forgotten)
                .await
            {
                waiting.push(read);
            }
        }
        if settled > 0 {
            self.ctx.metrics.record_skipped("already_settled", settled);
            tracing::info!(
                shard = %self.dispatcher.shard.id,
                count = settled,
                "skipped events that were already settled"
            );
        }
        waiting
    }

    /// Returns `true` if an event whose predecessor is pending is left to the table without a wait:
    /// its queue accepts nothing, or a wait for the deferred predecessor was in vain a moment ago.
    fn must_defer(&self, event: &Event, statuses: &EventStatuses) -> bool {
        let is_deferred = statuses.is_deferred(&predecessor(event));
        let was_blocked = || {
            let blocked = self.blocked.get(&event.key.aggregate_id);
            blocked.is_some_and(|since| since.elapsed() < BLOCKED_FOR)
        };
        event.is_deferrable
            && (self.ctx.queues.is_deferring(&event.queue) || (is_deferred && was_blocked()))
    }

    /// Leaves an event to the table.
    async fn defer(&self, read: ReadEvent) {
        self.dispatcher.defer(read.event, Some(read.record)).await;
    }

    /// Dispatches pending events that were read from the table a moment ago. Returns the number of
    /// dispatched events, including earlier ones of the same aggregates, and the events that must
    /// wait for an earlier one.
    pub(crate) async fn admit_pending(
        &mut self,
        mut events: Vec<Arc<Event>>,
        rejected: Vec<Rejected>,
    ) -> (usize, Vec<Arc<Event>>) {
        events.sort_by_key(|event| event.sequence);
        let keys = {
            let sequences = self.dispatcher.shard.sequences();
            let unknown = events
                .iter()
                .filter(|event| !sequences.may_follow(&event.key.aggregate_id, event.sequence));
            unknown.map(|event| predecessor(event)).collect()
        };
        let statuses = self.outbox.statuses(keys).await;
        let mut count = 0;
        let mut held = Vec::new();
        for reject in rejected {
            self.dispatcher.dispatch_rejected(reject, None).await;
            count += 1;
        }
        for event in events {
            let (id, sequence) = (&event.key.aggregate_id, event.sequence);
            let forgotten = {
                let sequences = self.dispatcher.shard.sequences();
                if sequences.is_repeat(id, sequence) {
                    continue;
                }
                sequences.forgotten()
            };
            if !self.may_follow(&event, &statuses) {
                match self.dispatch_earlier(&event, false, forgotten).await {
                    Some(earlier) => count += earlier,
                    None => {
                        held.push(event);
                        continue;
                    }
                }
            }
            let is_published = statuses.is_published(&predecessor(&event));
            // If it may no longer follow, the next pass finds it again.
            if self
                .dispatch_after(&event, None, is_published, forgotten)
                .await
            {
                count += 1;
            } else {
                held.push(event);
            }
        }
        (count, held)
    }

    /// Dispatches an event whose predecessor was dispatched or is published. Returns `false` if the
    /// publisher left the predecessor to the table since `forgotten` was read: the event must not
    /// overtake it.
    async fn dispatch_after(
        &self,
        event: &Arc<Event>,
        record: Option<RecordRef>,
        is_published: bool,
        forgotten: u64,
    ) -> bool {
        let (id, sequence) = (&event.key.aggregate_id, event.sequence);
        let ack = self
            .dispatcher
            .reserve(&event.key, event.message.size(), record)
            .await;
        let mut sequences = self.dispatcher.shard.sequences();
        let may_follow = is_published
            || sequences.may_follow(id, sequence)
            || sequences.forgotten() == forgotten;
        if may_follow {
            sequences.record_dispatched(id, sequence);
            let event = Arc::clone(event);
            self.dispatcher.send(PublishCommand::Publish { event, ack });
        }
        may_follow
    }

    /// Returns `true` if the predecessor of an event was dispatched or is published.
    fn may_follow(&self, event: &Event, statuses: &EventStatuses) -> bool {
        self.dispatcher
            .shard
            .sequences()
            .may_follow(&event.key.aggregate_id, event.sequence)
            || statuses.is_published(&predecessor(event))
    }

    /// Returns the events to look up: repeated ones, and predecessors that are neither remembered
    /// nor among `events`. Those in `known` are left out.
    fn keys_to_look_up(&self, events: &[ReadEvent], known: &EventStatuses) -> BTreeSet<EventKey> {
        let among_events: HashSet<_> = events
            .iter()
            .map(|read| (&read.event.key.aggregate_id, read.event.sequence))
            .collect();
        let sequences = self.dispatcher.shard.sequences();
        let mut keys = BTreeSet::new();
        for read in events {
            let key = &read.event.key;
            let (id, sequence) = (&key.aggregate_id, read.event.sequence);
            if sequences.is_repeat(id, sequence) {
                keys.insert(key.clone());
            }
            if !sequences.may_follow(id, sequence) && !among_events.contains(&(id, sequence - 1)) {
                keys.insert(predecessor(&read.event));
            }
        }
        keys.retain(|key| !known.contains(key));
        keys
    }

    /// Dispatches, from the table, the pending events before `event` that were not dispatched yet.
    /// Returns their number, or `None` if `event` must wait for one of them.
    ///
    /// Stops when the publisher leaves events to the table since `forgotten` was read.
    async fn dispatch_earlier(
        &mut self,
        event: &Event,
        is_from_stream: bool,
        forgotten: u64,
    ) -> Option<usize> {
        let id = &event.key.aggregate_id;
        let in_flight = self.dispatcher.shard.in_flight_from_table(id);
        let mut keys = self.pending_before(event, is_from_stream).await?;
        let mut count = 0;
        while !keys.is_empty() {
            let first = keys.split_off(keys.len().saturating_sub(MAX_EARLIER));
            let mut items = self.outbox.items(&first).await;
            items.sort_by_key(sequence_of);
            for item in items {
                match self.ctx.config.classify(Change::Insert(item)) {
                    Classified::Skip(_) => {}
                    Classified::Reject(rejected) if in_flight.contains(&rejected.key) => {}
                    Classified::Reject(rejected) => {
                        self.dispatcher.dispatch_rejected(rejected, None).await;
                        count += 1;
                    }
                    // Events that were dispatched a moment ago are still pending in the table.
                    Classified::Event(earlier)
                        if self
                            .dispatcher
                            .shard
                            .sequences()
                            .is_repeat(id, earlier.sequence) => {}
                    Classified::Event(earlier) if in_flight.contains(&earlier.key) => {
                        let mut sequences = self.dispatcher.shard.sequences();
                        if sequences.forgotten() != forgotten {
                            return Some(count);
                        }
                        sequences.record_dispatched(id, earlier.sequence);
                    }
                    Classified::Event(earlier) => {
                        if !self.dispatch_after(&earlier, None, false, forgotten).await {
                            return Some(count);
                        }
                        count += 1;
                    }
                }
            }
        }
        Some(count)
    }

    /// Returns `true` if this gate dispatched the event or a later one of its aggregate.
    fn was_dispatched(&self, key: &EventKey) -> bool {
        let sequences = self.dispatcher.shard.sequences();
        let sequence = key.sequence.parse::<u64>();
        sequence.is_ok_and(|sequence| sequences.is_repeat(&key.aggregate_id, sequence))
    }

    /// Returns the pending events before `event`, the latest first. Every event before a published
    /// one is published as well, and every event before one that this gate dispatched is dispatched
    /// or settled, so that the search ends at either: its cost does not grow with the history.
    ///
    /// Returns `None` if `event` is left to the table until one of them is settled: a quarantined
    /// one whose successors are held, a deferred one, which only the table path publishes, or so
    /// many that the table path gets to them first. An event that is not in the index of pending
    /// events would not be found there, so it is never left to the table.
    async fn pending_before(
        &mut self,
        event: &Event,
        is_from_stream: bool,
    ) -> Option<Vec<EventKey>> {
        let key = &event.key;
        // A replay has been in its place in the order before.
        let holds =
            self.ctx.config.on_failure == OnFailure::Hold && event.generation.replays.is_none();
        let mut pending = Vec::new();
        let mut before = key.sequence.clone();
        let mut limit = 1;
        loop {
            let page = self
                .outbox
                .latest_before(&key.aggregate_id, &before, limit)
                .await;
            let is_last = page.len() < limit;
            for earlier in page {
                if self.was_dispatched(&earlier.key) {
                    return Some(pending);
                }
                match earlier.status.map(|stored| stored.status) {
                    Some(Status::Published) => return Some(pending),
                    Some(Status::Pending) => {
                        let is_deferred = earlier.status.is_some_and(|stored| stored.is_deferred);
                        let is_deep = pending.len() >= MAX_EARLIER;
                        if event.is_deferrable && ((is_from_stream && is_deferred) || is_deep) {
                            return None;
                        }
                        pending.push(earlier.key.clone());
                    }
                    Some(Status::Failed) if holds && event.is_deferrable => return None,
                    Some(Status::Failed | Status::Discarded) | None => {}
                }
                before = earlier.key.sequence;
            }
            if is_last {
                return Some(pending);
            }
            limit = MAX_EARLIER;
        }
    }
}

/// Returns the number of aggregates that a gate remembers at least.
fn remembered_aggregates(ctx: &ShardContext) -> usize {
    EngineConfig::remembered_aggregates(ctx.status.shards_held())
}

/// Returns the key of the event before `event` in its aggregate.
fn predecessor(event: &Event) -> EventKey {
    EventKey {
        aggregate_id: event.key.aggregate_id.clone(),
        sequence: event.sequence.saturating_sub(1).to_string(),
    }
}

fn sequence_of(item: &Item) -> Option<u64> {
    item.get(attribute::SEQUENCE)?.as_n().ok()?.parse().ok()
}
