//! Figures computed from a history: pure functions that [`super::checkers`] compares with limits
//! and [`super::report`] shows.
//!
//! - [`fault_windows`]: times of faults and restarts, with the affected processes.
//! - [`repeats`]: events that a queue accepted more than once, with their causes.
//! - [`leases`]: causes of a lost lease.
//! - [`isolation`]: effects of the outage of one queue.
//! - [`event_timeline`]: each event from its commit to its first acceptance by a queue.
//! - [`recovery`]: time to recovery after a fault.
//! - [`latency`]: latency of responses and of orders, with faults and without.
//! - [`timeline`]: backlog and throughput over the run.

pub(super) mod event_timeline;
pub(super) mod fault_windows;
pub(super) mod isolation;
pub(super) mod latency;
pub(super) mod leases;
pub(super) mod recovery;
pub(super) mod repeats;
pub(super) mod timeline;

use std::collections::HashMap;

use super::history::History;

/// Returns the time of the first mark of each event, by its aggregate and sequence.
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

/// Returns the commit time of each event, by its aggregate and sequence: the creation of the order,
/// or the start of the write of a step.
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
