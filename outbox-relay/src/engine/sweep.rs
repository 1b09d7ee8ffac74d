//! Publishes pending events that the stream will never bring: rule 12.
//!
//! After an outage of more than 24 hours, a stream that was disabled and
//! enabled again, or a table restored from a backup, events are pending in the
//! table that no reader will see. One instance at a time looks for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::outlet::{Outlet, predecessor};
use super::shard::Surroundings;
use super::trouble::TableUse;
use crate::decide::classify::{Classified, Event, classify};
use crate::decide::ownership::with_registered;
use crate::decide::succession::Succession;
use crate::decide::sweep::{is_overdue, low_water};
use crate::ports::{Change, PendingCursor};
use shared::outbox::item::{PENDING_BUCKETS, attribute};
use shared::timestamp::Timestamp;

/// How often to look whether what a sweep found is done with.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Attributes that the operator's commands leave on an event that is to be
/// published again.
const AGAIN: [&str; 2] = [attribute::RETRIED_AT, attribute::REPLAYED_AT];

pub(crate) struct Sweeper {
    pub(crate) outlet: Outlet,
    pub(crate) around: Surroundings,
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
            // What the last sweep found is still on its way: another would
            // find it again.
            while !self.outlet.shard.is_quiet() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            self.sweep(&mut random).await;
        }
    }

    async fn sweep(&self, random: &mut fastrand::Rng) {
        let leases = match self.around.ports.leases.list(&self.around.stream).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the sweeper could not read the leases; trying again");
                return;
            }
        };
        let shards = with_registered(self.around.shards(), &leases);
        let Some(low_water) = low_water(&shards, &leases) else {
            return;
        };
        let mut succession = Succession::default();
        let mut count = 0;
        for bucket in 0..PENDING_BUCKETS {
            let mut after = None;
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
                let overdue = self.overdue(page.items, low_water);
                // The oldest come first: after a young one come no old ones.
                let all_overdue = overdue.len() == found;
                count += self.publish(overdue, &mut succession, random).await;
                after = page.next.map(|PendingCursor(key)| key);
                if after.is_none() || !all_overdue {
                    break;
                }
            }
        }
        if count > 0 {
            tracing::warn!(
                count,
                "pending events that the stream no longer brings are published by the sweeper"
            );
        }
    }

    fn overdue(&self, items: Vec<crate::ports::Item>, low_water: Timestamp) -> Vec<Classified> {
        let now = (self.around.config.clock)();
        let after = self.around.config.sweep_after;
        items
            .into_iter()
            .filter(|item| {
                // The stream brought it before, and does not bring it again.
                let again = AGAIN.iter().any(|again| item.contains_key(*again));
                let occurred_at = item
                    .get(attribute::OCCURRED_AT)
                    .and_then(|at| at.as_s().ok()?.parse().ok());
                again || is_overdue(occurred_at, now, after, low_water)
            })
            .map(|item| classify(Change::Insert(item), &self.around.config.routes))
            .collect()
    }

    /// Publishes what is still pending by the table itself: the index lags.
    async fn publish(
        &self,
        overdue: Vec<Classified>,
        succession: &mut Succession,
        random: &mut fastrand::Rng,
    ) -> usize {
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut rejected = Vec::new();
        for classified in overdue {
            match classified {
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
