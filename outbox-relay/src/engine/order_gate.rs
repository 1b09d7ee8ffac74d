//! Order gate: dispatches an event after the events before it in its aggregate (the "per-aggregate
//! order" rule). The gates of the shards and of the sweepers share it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use outbox::Status;
use outbox::item::attribute;

use super::context::ShardContext;
use super::in_flight::{Ack, RecordRef};
use super::outbox_reader::OutboxReader;
use super::publish::dispatcher::Dispatcher;
use super::publish_command::PublishCommand;
use super::shard_state::ShardState;
use super::{EngineConfig, OnFailure};
use crate::policy::record_classifier::{Classified, Event, Rejected};
use crate::policy::sequence_rule::{Decision, Earlier, Path, Successor};
use crate::policy::sequence_tracker::SequenceTracker;
use crate::ports::{Change, EarlierEvent, EventKey, Item, StoredStatus};

/// Number of earlier events that are read at once.
const MAX_EARLIER: usize = 100;

/// Path of an event whose predecessors are published from the table.
const TABLE: Path = Path::Table {
    waits_for_readers: false,
};

/// Number of concurrent queries for the nearest earlier events.
const MAX_QUERIES: usize = 8;

/// Gate of one shard, or of one walk of a sweeper.
pub(crate) struct OrderGate {
    pub(crate) ctx: ShardContext,
    pub(crate) outbox: OutboxReader,
    pub(crate) dispatcher: Dispatcher,
    /// Events from the table wait for the buffer budget for a limited time.
    is_sweeper: bool,
}

/// Nearest earlier events, by the event in question.
pub(crate) type NearestEarlier = HashMap<EventKey, Option<EarlierEvent>>;

/// Outcome of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatch {
    Done,
    /// The publisher shed an earlier event, which this one must not overtake.
    Overtakes,
    /// The buffer has no capacity for an event of the table.
    NoCapacity,
}

/// Outcome of the dispatch of the events before an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EarlierDispatch {
    /// Number of events that were dispatched.
    pub(crate) count: usize,
    /// The event must wait for one of them.
    pub(crate) is_blocked: bool,
}

impl OrderGate {
    /// Creates a gate that remembers nothing of what was dispatched before.
    pub(crate) fn new(
        ctx: &ShardContext,
        shard: &Arc<ShardState>,
        is_sweeper: bool,
        random: fastrand::Rng,
    ) -> Self {
        *shard.sequences() = SequenceTracker::new(remembered_aggregates(ctx));
        Self {
            outbox: OutboxReader::new(ctx, random),
            dispatcher: Dispatcher {
                shard: Arc::clone(shard),
                status: ctx.status.clone(),
                budget: ctx.budget.clone(),
                commands: ctx.commands.clone(),
            },
            ctx: ctx.clone(),
            is_sweeper,
        }
    }

    pub(crate) fn shard(&self) -> &Arc<ShardState> {
        &self.dispatcher.shard
    }

    /// Adapts the number of remembered aggregates to the number of shards.
    pub(crate) fn update_capacity(&self) {
        let capacity = remembered_aggregates(&self.ctx);
        self.shard().sequences().set_capacity(capacity);
    }

    /// Returns a number that changes when the publisher sheds events.
    pub(crate) fn forgotten(&self) -> u64 {
        self.shard().sequences().forgotten()
    }

    /// Returns `true` if an event is the first of its aggregate, or if its predecessor was
    /// dispatched.
    pub(crate) fn may_follow(&self, event: &Event) -> bool {
        let sequences = self.shard().sequences();
        sequences.may_follow(&event.key.aggregate_id, event.sequence)
    }

    /// Returns `true` if this gate dispatched the event or a later one of its aggregate.
    pub(crate) fn was_dispatched(&self, key: &EventKey) -> bool {
        let sequences = self.shard().sequences();
        let sequence = key.sequence.parse::<u64>();
        sequence.is_ok_and(|sequence| sequences.is_repeat(&key.aggregate_id, sequence))
    }

    /// Decides about an event by one before it.
    pub(crate) fn decide(
        &self,
        event: &Event,
        path: Path,
        earlier: &EventKey,
        stored: Option<StoredStatus>,
    ) -> Decision {
        let successor = Successor {
            is_deferrable: event.is_deferrable,
            holds: self.holds(event),
            path,
        };
        successor.decide(Earlier {
            stored,
            is_dispatched: self.was_dispatched(earlier),
        })
    }

    /// Returns `true` if an event waits for quarantined ones. A replay does not, because the event
    /// was sent in order before.
    fn holds(&self, event: &Event) -> bool {
        self.ctx.config.on_failure == OnFailure::Hold && event.generation.replays.is_none()
    }

    /// Reads the nearest earlier event of each of some events.
    pub(crate) async fn nearest_earlier(&self, events: Vec<EventKey>) -> NearestEarlier {
        let queries = events.into_iter().map(|key| async move {
            let page = self.latest_before(&key.aggregate_id, &key.sequence, 1);
            let nearest = page.await.pop();
            (key, nearest)
        });
        stream::iter(queries).buffered(MAX_QUERIES).collect().await
    }

    async fn latest_before(&self, id: &str, sequence: &str, limit: usize) -> Vec<EarlierEvent> {
        self.outbox.latest_before(id, sequence, limit).await
    }

    /// Dispatches an event whose predecessor was dispatched or is published. `record` is `None` if
    /// it was read from the table.
    ///
    /// The publisher may shed the predecessor at any time, and makes the gate forget it first. So
    /// this checks, under the lock of the remembered sequences, that the aggregate was not
    /// forgotten since `forgotten` was read.
    pub(crate) async fn dispatch_after(
        &self,
        event: &Arc<Event>,
        record: Option<RecordRef>,
        is_published: bool,
        forgotten: u64,
    ) -> Dispatch {
        let (id, sequence) = (&event.key.aggregate_id, event.sequence);
        let size = event.message.size();
        let Some(ack) = self.reserve(&event.key, size, record).await else {
            return Dispatch::NoCapacity;
        };
        let mut sequences = self.shard().sequences();
        let may_follow = is_published
            || sequences.may_follow(id, sequence)
            || sequences.is_unchanged(id, forgotten);
        if !may_follow {
            return Dispatch::Overtakes;
        }
        sequences.record_dispatched(id, sequence);
        let event = Arc::clone(event);
        self.dispatcher.send(PublishCommand::Publish { event, ack });
        Dispatch::Done
    }

    /// Dispatches an event of the table that can never be sent.
    pub(crate) async fn dispatch_rejected(&self, rejected: Rejected) -> Dispatch {
        match self.reserve(&rejected.key, 0, None).await {
            Some(ack) => {
                let command = PublishCommand::Quarantine { rejected, ack };
                self.dispatcher.send(command);
                Dispatch::Done
            }
            None => Dispatch::NoCapacity,
        }
    }

    async fn reserve(&self, key: &EventKey, size: usize, record: Option<RecordRef>) -> Option<Ack> {
        if self.is_sweeper {
            self.dispatcher.reserve_swept(key, size).await
        } else {
            Some(self.dispatcher.reserve(key, size, record).await)
        }
    }

    /// Dispatches, from the table, the pending events before `event` that were not dispatched yet.
    /// Stops if the publisher has shed events of the aggregate since `forgotten` was read.
    pub(crate) async fn dispatch_earlier(
        &self,
        event: &Event,
        path: Path,
        forgotten: u64,
    ) -> EarlierDispatch {
        let id = &event.key.aggregate_id;
        let shard = self.shard();
        // Read first: one that is rejected from now on is also forgotten, which is noticed below.
        let rejected = shard.rejected(id);
        let in_flight = shard.in_flight_from_table(id);
        let blocked = |count| EarlierDispatch {
            count,
            is_blocked: true,
        };
        let done = |count| EarlierDispatch {
            count,
            is_blocked: false,
        };
        let Some(mut keys) = self.pending_before(event, path, &in_flight).await else {
            return blocked(0);
        };
        let is_held = event.is_deferrable && self.holds(event);
        // An event of the stream would wait in the buffer until the queue of the earlier one
        // accepts events again.
        let is_behind_failing = |earlier: &Event| {
            !self.is_sweeper && event.is_deferrable && self.ctx.queues.is_deferring(&earlier.queue)
        };
        let mut count = 0;
        while !keys.is_empty() {
            let first = keys.split_off(keys.len().saturating_sub(MAX_EARLIER));
            let mut items = self.outbox.items(&first).await;
            items.sort_by_key(sequence_of);
            for item in items {
                let stored = StoredStatus::of(&item);
                match self.ctx.config.classify(Change::Insert(item)) {
                    // It may have been quarantined since it was found.
                    Classified::Skip(_)
                        if is_held
                            && stored.is_some_and(|stored| stored.status == Status::Failed) =>
                    {
                        return blocked(count);
                    }
                    Classified::Skip(_) => {}
                    Classified::Reject(rejected) => {
                        if !in_flight.contains(&rejected.key) {
                            if self.dispatch_rejected(rejected).await != Dispatch::Done {
                                return blocked(count);
                            }
                            count += 1;
                        }
                        if is_held {
                            return blocked(count);
                        }
                    }
                    // Events that were dispatched a moment ago are still pending in the table.
                    Classified::Event(earlier) if self.was_dispatched(&earlier.key) => {}
                    Classified::Event(earlier) if in_flight.contains(&earlier.key) => {
                        // What waits for a queue that fails would fill the buffer.
                        if (is_held && rejected.contains(&earlier.key))
                            || (self.is_sweeper && self.ctx.queues.is_impaired(&earlier.queue))
                            || is_behind_failing(&earlier)
                        {
                            return blocked(count);
                        }
                        let mut sequences = shard.sequences();
                        if !sequences.is_unchanged(id, forgotten) {
                            return done(count);
                        }
                        sequences.record_dispatched(id, earlier.sequence);
                    }
                    Classified::Event(earlier) => {
                        let queues = &self.ctx.queues;
                        if (self.is_sweeper && !queues.accepts_table_events(&earlier.queue))
                            || is_behind_failing(&earlier)
                        {
                            return blocked(count);
                        }
                        match self.dispatch_after(&earlier, None, false, forgotten).await {
                            Dispatch::Done => count += 1,
                            Dispatch::Overtakes => return done(count),
                            Dispatch::NoCapacity => return blocked(count),
                        }
                    }
                }
            }
        }
        done(count)
    }

    /// Returns the pending events before `event`, the latest first. The search ends at an event
    /// that is published or was dispatched: its cost does not grow with the history.
    ///
    /// Returns `None` if `event` is to be deferred, because of one of them or because there are so
    /// many that sweepers should publish them. An event that is not in the index of pending events
    /// is never deferred, since no sweeper would find it.
    async fn pending_before(
        &self,
        event: &Event,
        path: Path,
        in_flight: &HashSet<EventKey>,
    ) -> Option<Vec<EventKey>> {
        let key = &event.key;
        let mut pending = Vec::new();
        let mut before = key.sequence.clone();
        let mut limit = 1;
        loop {
            let page = self.latest_before(&key.aggregate_id, &before, limit).await;
            let is_last = page.len() < limit;
            for earlier in page {
                let path = if in_flight.contains(&earlier.key) {
                    TABLE
                } else {
                    path
                };
                match self.decide(event, path, &earlier.key, earlier.status) {
                    Decision::Follow => return Some(pending),
                    Decision::LookBack => {}
                    Decision::Defer => return None,
                    Decision::Wait | Decision::PublishEarlier => {
                        if event.is_deferrable && pending.len() >= MAX_EARLIER {
                            return None;
                        }
                        pending.push(earlier.key.clone());
                    }
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

/// Returns the key of the event before `event` in its aggregate, whether or not it exists.
pub(crate) fn predecessor(event: &Event) -> EventKey {
    EventKey {
        aggregate_id: event.key.aggregate_id.clone(),
        sequence: event.sequence.saturating_sub(1).to_string(),
    }
}

fn sequence_of(item: &Item) -> Option<u64> {
    item.get(attribute::SEQUENCE)?.as_n().ok()?.parse().ok()
}
