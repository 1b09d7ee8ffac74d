//! Sequence gate: dispatches the events of each aggregate in the order of `sequence` (the
//! "per-aggregate order" rule).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outbox::Status;
use outbox::item::attribute;

use super::read_event::ReadEvent;
use super::takeover_filter::CheckedEvents;
use crate::engine::buffer_budget::EVENT_OVERHEAD;
use crate::engine::context::ShardContext;
use crate::engine::in_flight::RecordRef;
use crate::engine::outbox_reader::{EventStatuses, OutboxReader};
use crate::engine::publish::dispatcher::Dispatcher;
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard_state::ShardState;
use crate::policy::record_classifier::{Classified, Event, Rejected};
use crate::policy::sequence_tracker::SequenceTracker;
use crate::ports::{Change, EventKey, Item};

/// Minimum time and minimum number of reads for which an event waits for a predecessor that is
/// pending and has not been read. Time alone proves nothing after the process was suspended.
const MAX_WAIT: Duration = Duration::from_secs(10);
const MAX_WAITED_READS: u32 = 20;

/// Number of earlier events that are read at once.
const MAX_EARLIER: usize = 100;

/// Gate of one shard, or of one pass of the sweeper.
pub(crate) struct SequenceGate {
    ctx: ShardContext,
    outbox: OutboxReader,
    dispatcher: Dispatcher,
}

impl SequenceGate {
    pub(crate) fn new(ctx: &ShardContext, shard: &Arc<ShardState>, random: fastrand::Rng) -> Self {
        *shard.sequences() = SequenceTracker::default();
        Self {
            outbox: OutboxReader::new(Arc::clone(&ctx.ports.outbox), ctx.status.clone(), random),
            dispatcher: Dispatcher {
                shard: Arc::clone(shard),
                status: ctx.status.clone(),
                budget: ctx.budget.clone(),
                commands: ctx.commands.clone(),
            },
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
            let forgotten = self.dispatcher.shard.sequences().forgotten();
            if !self.may_follow(&read.event, &statuses) {
                if !statuses.is_not_pending(&predecessor(&read.event)) {
                    read.waited_reads += 1;
                    waiting_bytes += read.event.message.size() + EVENT_OVERHEAD;
                    let may_wait =
                        read.waited_reads < MAX_WAITED_READS || read.read_at.elapsed() < MAX_WAIT;
                    if may_wait && waiting_bytes <= max_waiting_bytes {
                        waiting.push(read);
                        continue;
                    }
                }
                let count = self.dispatch_earlier(&read.event, forgotten).await;
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

    /// Dispatches events that were read from the table and are pending according to `statuses`.
    /// Returns the number of dispatched events, including earlier ones of the same aggregates.
    pub(crate) async fn admit_pending(
        &mut self,
        mut events: Vec<Arc<Event>>,
        rejected: Vec<Rejected>,
    ) -> usize {
        events.sort_by_key(|event| event.sequence);
        let mut keys: BTreeSet<_> = rejected.iter().map(|reject| reject.key.clone()).collect();
        for event in &events {
            keys.insert(event.key.clone());
            if event.sequence > 1 {
                keys.insert(predecessor(event));
            }
        }
        let statuses = self.outbox.statuses(keys).await;
        let mut count = 0;
        for reject in rejected {
            if statuses.is_pending(&reject.key) {
                self.dispatcher.dispatch_rejected(reject, None).await;
                count += 1;
            }
        }
        for event in events {
            let (id, sequence) = (&event.key.aggregate_id, event.sequence);
            let forgotten = {
                let sequences = self.dispatcher.shard.sequences();
                if !statuses.is_pending(&event.key) || sequences.is_repeat(id, sequence) {
                    continue;
                }
                sequences.forgotten()
            };
            if !self.may_follow(&event, &statuses) {
                count += self.dispatch_earlier(&event, forgotten).await;
            }
            let is_published = statuses.is_published(&predecessor(&event));
            // If it may no longer follow, the next pass finds it again.
            if self
                .dispatch_after(&event, None, is_published, forgotten)
                .await
            {
                count += 1;
            }
        }
        count
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
    /// Returns their number.
    ///
    /// Stops when the publisher leaves events to the table since `forgotten` was read.
    async fn dispatch_earlier(&mut self, event: &Event, forgotten: u64) -> usize {
        let id = &event.key.aggregate_id;
        let in_flight = self.dispatcher.shard.in_flight_from_table(id);
        let mut keys = self.pending_before(&event.key).await;
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
                            return count;
                        }
                        sequences.record_dispatched(id, earlier.sequence);
                    }
                    Classified::Event(earlier) => {
                        if !self.dispatch_after(&earlier, None, false, forgotten).await {
                            return count;
                        }
                        count += 1;
                    }
                }
            }
        }
        count
    }

    /// Returns the pending events before `key`, the latest first. Every event before a published
    /// one is published as well.
    async fn pending_before(&mut self, key: &EventKey) -> Vec<EventKey> {
        let mut pending = Vec::new();
        let mut before = key.sequence.clone();
        let mut limit = 1;
        loop {
            let earlier = self
                .outbox
                .latest_before(&key.aggregate_id, &before, limit)
                .await;
            let is_last = earlier.len() < limit;
            for event in earlier {
                match event.status.map(|stored| stored.status) {
                    Some(Status::Published) => return pending,
                    Some(Status::Pending) => pending.push(event.key.clone()),
                    Some(Status::Failed | Status::Discarded) | None => {}
                }
                before = event.key.sequence;
            }
            if is_last {
                return pending;
            }
            limit = MAX_EARLIER;
        }
    }
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
