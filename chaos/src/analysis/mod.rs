//! What a history says, in numbers: pure functions that [`super::checkers`]
//! judges by and [`super::report`] shows.
//!
//! - [`spans`]: when something was done to the system, and to whom.
//! - [`repeats`]: events that a queue took more than once, and why.
//! - [`leases`]: what can cost a relay its lease.
//! - [`event_timeline`]: each event from its commit to the first queue that took it.
//! - [`recovery`]: how long events stood still after a fault.
//! - [`latency`]: how long clients and orders waited, with faults and without.
//! - [`timeline`]: backlog and throughput over the run.

pub(super) mod event_timeline;
pub(super) mod fault_windows;
pub(super) mod latency;
pub(super) mod leases;
pub(super) mod recovery;
pub(super) mod repeats;
pub(super) mod timeline;

use std::collections::HashMap;

use super::history::History;

/// When each event was marked as published for the first time.
pub(super) fn first_marked_at(history: &History) -> HashMap<(&str, u64), u64> {
    let mut first = HashMap::new();
    for mark in &history.marks {
        let at = first
            .entry((mark.aggregate_id.as_str(), mark.sequence))
            .or_insert(mark.at);
        *at = mark.at.min(*at);
    }
    first
}

/// When each event was committed, by its aggregate and sequence: an order's
/// with the order, a step's when the write was answered.
pub(super) fn committed_at(history: &History) -> HashMap<(&str, u64), u64> {
    let orders = history
        .end
        .orders
        .iter()
        .map(|order| ((order.order_id.as_str(), 1), order.created_at));
    let steps = history
        .steps
        .iter()
        .map(|step| ((step.aggregate_id.as_str(), step.sequence), step.at));
    orders.chain(steps).collect()
}
