//! Decides which of the waiting orders are processed together: pure bookkeeping over SKUs.
//!
//! An item inside a running transaction makes every other write of it fail, so two transactions of
//! one process must never name the same item. Each SKU and each order therefore has a *lane*: the
//! orders that wait for it, in the order of their arrival, and whether a running batch uses it.
//!
//! - An order can start if it is the first in each of its lanes and none of them is in use. So it
//!   never overtakes an earlier order for the same SKU, and an order of several SKUs is not
//!   overtaken indefinitely by orders of one.
//! - The orders behind it in those lanes join its batch, as long as they can start as well and the
//!   transaction stays within DynamoDB's limit. The stock of each SKU is one action then, however
//!   many orders need it.
//! - Orders without a common SKU are never in one batch: neither can delay or cancel the other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use shared::order::{OrderId, OrderPlaced, Sku};

/// Upper bound on the orders of a batch. A cancelled transaction is sent again without the orders
/// that cancelled it, so that larger ones would gain little and lose more.
pub(crate) const MAX_ORDERS: usize = 50;

/// The most actions that DynamoDB accepts in a transaction: one for each order and one for each
/// SKU. An order of 50 lines has 51.
pub(crate) const MAX_ACTIONS: usize = 100;

/// An order that is to be processed.
#[derive(Debug)]
pub(crate) struct Job<P> {
    /// Position in the order of arrival.
    arrival: u64,
    pub order: Arc<OrderPlaced>,
    /// Keeps the order in a batch of its own, for example because it makes others fail.
    pub alone: bool,
    pub payload: P,
}

impl<P> Job<P> {
    pub(crate) fn arrival(&self) -> u64 {
        self.arrival
    }
}

/// Orders of one transaction, in the order of their arrival.
#[derive(Debug)]
pub(crate) struct Batch<P> {
    pub jobs: Vec<Job<P>>,
    /// Passed to [`BatchPlanner::release`] when the batch has ended.
    pub lanes: Lanes,
}

/// The lanes that a batch uses.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Vec<Key>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Order(OrderId),
    Sku(Sku),
}

fn keys(order: &OrderPlaced) -> impl Iterator<Item = Key> + '_ {
    let skus = order.items.iter().map(|line| Key::Sku(line.sku.clone()));
    std::iter::once(Key::Order(order.order_id)).chain(skus)
}

#[derive(Debug, Default)]
struct Lane {
    /// A running batch uses it.
    is_busy: bool,
    /// Arrivals of the orders that wait.
    waiting: BTreeSet<u64>,
}

/// The orders that wait, and the lanes in use.
#[derive(Debug)]
pub(crate) struct BatchPlanner<P> {
    waiting: HashMap<u64, Job<P>>,
    lanes: HashMap<Key, Lane>,
    /// Arrivals of the orders that may be able to start since the last [`BatchPlanner::start`].
    candidates: BTreeSet<u64>,
    next_arrival: u64,
}

impl<P> BatchPlanner<P> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: HashMap::new(),
            lanes: HashMap::new(),
            candidates: BTreeSet::new(),
            next_arrival: 0,
        }
    }

    /// Adds an order that arrived just now. Returns its arrival.
    pub(crate) fn add(&mut self, order: Arc<OrderPlaced>, payload: P) -> u64 {
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.put_back(Job {
            arrival,
            order,
            alone: false,
            payload,
        });
        arrival
    }

    /// Adds an order of an ended batch again, at the place of its arrival.
    pub(crate) fn put_back(&mut self, job: Job<P>) {
        for key in keys(&job.order) {
            let lane = self.lanes.entry(key).or_default();
            lane.waiting.insert(job.arrival);
        }
        self.candidates.insert(job.arrival);
        self.waiting.insert(job.arrival, job);
    }

    /// Frees the lanes of an ended batch.
    pub(crate) fn release(&mut self, lanes: Lanes) {
        for key in lanes.0 {
            let Entry::Occupied(mut lane) = self.lanes.entry(key) else {
                continue;
            };
            lane.get_mut().is_busy = false;
            match lane.get().waiting.first() {
                Some(first) => {
                    self.candidates.insert(*first);
                }
                None => {
                    lane.remove();
                }
            }
        }
    }

    /// Returns the batches that can start now, and marks their lanes as in use.
    pub(crate) fn start(&mut self) -> Vec<Batch<P>> {
        let mut batches = Vec::new();
        while let Some(arrival) = self.candidates.pop_first() {
            if self.can_start(arrival) {
                batches.push(self.collect(arrival));
            }
        }
        batches
    }

    /// Returns the order of this arrival while it waits.
    pub(crate) fn waiting_mut(&mut self, arrival: u64) -> Option<&mut Job<P>> {
        self.waiting.get_mut(&arrival)
    }

    /// Removes all orders that wait.
    pub(crate) fn take_waiting(&mut self) -> Vec<Job<P>> {
        self.candidates.clear();
        self.lanes.retain(|_, lane| {
            lane.waiting.clear();
            lane.is_busy
        });
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Returns `true` if the order is the first in each of its lanes, and none is in use.
    fn can_start(&self, arrival: u64) -> bool {
        self.waiting.get(&arrival).is_some_and(|job| {
            keys(&job.order).all(|key| {
                let lane = self.lanes.get(&key);
                lane.is_some_and(|lane| !lane.is_busy && lane.waiting.first() == Some(&arrival))
            })
        })
    }

    /// Collects the batch of an order that can start.
    fn collect(&mut self, first: u64) -> Batch<P> {
        let mut jobs: Vec<Job<P>> = Vec::new();
        let mut skus: HashSet<Sku> = HashSet::new();
        // In the order of arrival: the orders behind another in a lane arrived after it.
        let mut next = BTreeSet::from([first]);
        while jobs.len() < MAX_ORDERS
            && let Some(arrival) = next.pop_first()
        {
            if !self.can_start(arrival) {
                continue;
            }
            let Some(job) = self.waiting.get(&arrival) else {
                continue;
            };
            let lines = job.order.items.iter();
            let new_skus = lines.filter(|line| !skus.contains(&line.sku)).count();
            let actions = jobs.len() + 1 + skus.len() + new_skus;
            // An order that cannot join keeps its place, and so holds back those behind it.
            if !jobs.is_empty() && (job.alone || actions > MAX_ACTIONS) {
                continue;
            }
            let Some(job) = self.remove(arrival) else {
                continue;
            };
            // At once, so that a second message of this order does not join: a transaction cannot
            // name an item twice.
            let order_lane = self.lanes.entry(Key::Order(job.order.order_id));
            order_lane.or_default().is_busy = true;
            for line in &job.order.items {
                let behind = self.lanes.get(&Key::Sku(line.sku.clone()));
                next.extend(behind.and_then(|lane| lane.waiting.first()));
                skus.insert(line.sku.clone());
            }
            let alone = job.alone;
            jobs.push(job);
            if alone {
                break;
            }
        }
        let orders = jobs.iter().map(|job| Key::Order(job.order.order_id));
        let lanes: Vec<Key> = orders.chain(skus.into_iter().map(Key::Sku)).collect();
        for key in &lanes {
            self.lanes.entry(key.clone()).or_default().is_busy = true;
        }
        Batch {
            jobs,
            lanes: Lanes(lanes),
        }
    }

    fn remove(&mut self, arrival: u64) -> Option<Job<P>> {
        let job = self.waiting.remove(&arrival)?;
        for key in keys(&job.order) {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.waiting.remove(&arrival);
            }
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests;
