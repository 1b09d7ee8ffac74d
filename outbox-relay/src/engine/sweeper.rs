//! Publishes pending events that the stream will never bring: rule 12.
//!
//! After an outage of more than 24 hours, a stream that was disabled and
//! enabled again, or a table restored from a backup, events are pending in the
//! table that no reader will see. One instance at a time looks for them.
//!
//! When an event was committed nobody knows: `occurred_at` is its writer's word,
//! and may be last year's. So a sweep notes what is pending, waits until every
//! reader is past the moment at which it began, and publishes what is pending
//! still.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use outbox::item::{PENDING_BUCKETS, attribute};
use outbox::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::engine::health::table_health::TableUse;
use crate::engine::leases::shard_consumer::Surroundings;
use crate::engine::publish::dispatcher::{Outlet, predecessor};
use crate::policy::lease_assignment::with_registered;
use crate::policy::record_classifier::{Classified, Event, classify, key_of};
use crate::policy::sequence_tracker::Succession;
use crate::policy::sweep_policy::{is_old, is_past, low_water};
use crate::ports::{Change, EventKey, Item, PendingCursor};

/// Attributes that the operator's commands leave on an event that is to be
/// published again.
const AGAIN: [&str; 2] = [attribute::RETRIED_AT, attribute::REPLAYED_AT];

pub(crate) struct Sweeper {
    pub(crate) outlet: Outlet,
    pub(crate) around: Surroundings,
}

/// Pending events a sweep notes at once: more come with the next.
const MAX_SEEN: usize = 100_000;

/// Pages that have young events which a walk reads of one partition, of up to
/// 100 events each. What an operator made pending again stands among those of
/// its time, and what is from the future behind them. Past so many of them it
/// waits until it is old itself: walking past all of a backlog at each turn
/// would cost capacity that is needed to work it off.
const MAX_YOUNG_PAGES: usize = 5;

/// What a walk over the pending events does.
enum Walk<'a> {
    /// Notes them, and publishes those that are pending again.
    Note(&'a mut Seen),
    /// Publishes those that were noted.
    Publish(&'a Seen),
}

/// Pending events, by a hash of their key: that two have one costs a repeat at
/// most.
#[derive(Default)]
struct Seen(HashSet<u64>);

impl Seen {
    fn hash(key: &EventKey) -> u64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MAX_SEEN
    }
}

impl Sweeper {
    /// Sweeps every interval, and when asked to, until dropped.
    pub(crate) async fn run(&self, asked: &Notify, mut random: fastrand::Rng) {
        let mut turns = tokio::time::interval(self.around.config.sweep_interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = turns.tick() => {}
                () = asked.notified() => {}
            }
            while self.sweep(asked, &mut random).await {}
        }
    }

    /// Returns whether there may be more to do.
    async fn sweep(&self, asked: &Notify, random: &mut fastrand::Rng) -> bool {
        let began = (self.around.config.clock)();
        let mut seen = Seen::default();
        self.walk(Walk::Note(&mut seen), random).await;
        if seen.0.is_empty() {
            return false;
        }
        while !self.is_passed(began).await {
            tokio::select! {
                biased;
                // What is pending again does not wait for readers.
                () = asked.notified() => {
                    self.walk(Walk::Note(&mut Seen::default()), random).await;
                }
                // About as often as lease rows are written.
                () = tokio::time::sleep(self.around.config.lease_duration / 3) => {}
            }
        }
        let count = self.walk(Walk::Publish(&seen), random).await;
        if count > 0 {
            tracing::warn!(
                count,
                "pending events that the stream no longer brings are published by the sweeper"
            );
        }
        seen.is_full()
    }

    /// Whether every reader is done with what was committed before `moment`.
    async fn is_passed(&self, moment: Timestamp) -> bool {
        match self.around.ports.leases.list(&self.around.stream).await {
            Ok(leases) => {
                let shards = with_registered(self.around.shards(), &leases);
                let margin = self.around.config.sweep_after;
                low_water(&shards, &leases).is_some_and(|mark| is_past(mark, moment, margin))
            }
            Err(error) => {
                tracing::warn!(%error, "the sweeper could not read the leases; trying again");
                false
            }
        }
    }

    /// Goes through the pending events, and returns how many it published.
    async fn walk(&self, mut walk: Walk<'_>, random: &mut fastrand::Rng) -> usize {
        let mut succession = Succession::default();
        let mut count = 0;
        for bucket in 0..PENDING_BUCKETS {
            let mut after = None;
            let mut young_pages = 0;
            loop {
                let page = self
                    .outlet
                    .patiently(TableUse::FindPending, random, || {
                        self.around
                            .ports
                            .outbox
                            .pending(bucket, after.clone().map(PendingCursor))
                    })
                    .await;
                let found = page.items.len();
                let mut old = page.items;
                old.retain(|item| self.is_old(item));
                young_pages += usize::from(old.len() < found);
                old.retain(|item| !self.is_on_its_way(item));
                let due = Self::due(old, &mut walk);
                count += self.publish(due, &mut succession, random).await;
                after = page.next.map(|PendingCursor(key)| key);
                let full = matches!(&walk, Walk::Note(seen) if seen.is_full());
                if after.is_none() || young_pages == MAX_YOUNG_PAGES || full {
                    break;
                }
            }
        }
        count
    }

    /// Those of `items` to publish now.
    fn due(mut items: Vec<Item>, walk: &mut Walk<'_>) -> Vec<Item> {
        items.retain(|item| {
            // The stream brought it before, and does not bring it again.
            let again = AGAIN.iter().any(|again| item.contains_key(*again));
            let hash = key_of(item).map(|key| Seen::hash(&key));
            match walk {
                Walk::Note(_) if again => true,
                Walk::Note(seen) => {
                    seen.0.extend(hash);
                    false
                }
                Walk::Publish(seen) => hash.is_some_and(|hash| seen.0.contains(&hash)),
            }
        });
        items
    }

    /// Whether an earlier sweep found it: its queue may be away.
    fn is_on_its_way(&self, item: &Item) -> bool {
        key_of(item).is_some_and(|key| self.outlet.shard.has_found(&key))
    }

    /// Whether a look at the stream's readers is worth it: who was written a
    /// moment ago is on its way.
    fn is_old(&self, item: &Item) -> bool {
        let now = (self.around.config.clock)();
        let occurred_at = item
            .get(attribute::OCCURRED_AT)
            .and_then(|at| at.as_s().ok()?.parse().ok());
        AGAIN.iter().any(|again| item.contains_key(*again))
            || is_old(occurred_at, now, self.around.config.sweep_after)
    }

    /// Publishes what is still pending by the table itself: the index lags.
    async fn publish(
        &self,
        items: Vec<Item>,
        succession: &mut Succession,
        random: &mut fastrand::Rng,
    ) -> usize {
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut rejected = Vec::new();
        for item in items {
            match classify(Change::Insert(item), &self.around.config.routes) {
                Classified::Event(event) => events.push(event),
                Classified::Reject(reject) => rejected.push(reject),
                Classified::Skip(_) => {}
            }
        }
        events.sort_by_key(|event| event.sequence);
        let mut keys: BTreeSet<_> = rejected.iter().map(|reject| reject.key.clone()).collect();
        for event in &events {
            keys.insert(event.key.clone());
            if event.sequence > 1 {
                keys.insert(predecessor(event));
            }
        }
        let states = self.outlet.states(keys, random).await;
        let mut count = 0;
        for reject in rejected {
            if states.is_pending(&reject.key) {
                self.outlet.reject(reject, None).await;
                count += 1;
            }
        }
        for event in events {
            let (id, sequence) = (&event.key.aggregate_id, event.sequence);
            if !states.is_pending(&event.key) || succession.is_repeat(id, sequence) {
                continue;
            }
            if !succession.follows(id, sequence) && !states.is_published(&predecessor(&event)) {
                count += self
                    .outlet
                    .publish_earlier(&event, succession, random)
                    .await;
            }
            succession.handed_over(id, sequence);
            self.outlet.publish(event, None).await;
            count += 1;
        }
        count
    }
}
