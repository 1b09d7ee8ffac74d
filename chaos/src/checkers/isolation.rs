//! Checks that an outage of one queue delays the events of that queue only, and that they are
//! deferred.

use super::super::analysis::isolation::queue_outages;
use super::super::analysis::latency::Percentiles;
use super::super::history::History;
use super::{Findings, Invariant};

/// Limits for the time from commit to acceptance of the events of the other queues: for 99 % of
/// them, and for each. Events of a shard whose parent has just closed wait until it is consumed.
const P99_MS: u64 = 1_000;
const MAX_MS: u64 = 3_000;

/// Length of an outage from which relays defer the events of the queue. During shorter ones the
/// events wait in their buffers.
const DEFERRED_FROM_MS: u64 = 14_000;

/// Checks each outage of one queue.
pub(super) fn isolation(history: &History, found: &mut Findings) {
    for outage in queue_outages(history) {
        let mut wrong = |at, what| found.add(Invariant::Isolation, Some(at), what);
        let (queue, span) = (outage.queue, outage.span);
        let is_complete = span.to - span.from >= DEFERRED_FROM_MS;
        let lag = Percentiles::of(outage.others.iter().map(|(_, took)| *took));
        if lag.p99 > P99_MS {
            wrong(
                span.from,
                format!(
                    "the 99th percentile from commit to acceptance of {} events of other queues was {} ms, while only {queue} was unavailable; the limit is {P99_MS} ms",
                    lag.count, lag.p99
                ),
            );
        }
        for (event, took) in &outage.others {
            if *took > MAX_MS
                && let Some(first) = event.first
            {
                wrong(
                    event.committed,
                    format!(
                        "event {} was accepted by {} {took} ms after its commit, while only {queue} was unavailable; the limit is {MAX_MS} ms",
                        first.event_id, first.queue
                    ),
                );
            }
        }
        if is_complete && outage.others.is_empty() {
            wrong(
                span.from,
                format!(
                    "expected events of other queues to be accepted while only {queue} was unavailable, but other faults affected all of them"
                ),
            );
        }
        if is_complete && outage.deferred == 0 {
            wrong(
                span.from,
                format!(
                    "{queue} was unavailable for {} ms, and outbox_events_deferred_total of no relay increased",
                    span.to - span.from
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        assert_valid, assert_violations, fault, publish, stored_event, unmark,
    };
    use super::*;
    use crate::history::{
        CloudService, Deferral, Delivery, FaultKind, PublishedMark, Step, StreamRecord,
    };

    const FROM: u64 = 60_000;
    const QUEUE: &str = "order-events";

    /// Adds an outage of the queue of the orders with a deferral, and an event of the other queue
    /// that is accepted `took` milliseconds after its commit.
    fn add_outage(history: &mut History, lasted: u64, took: u64) {
        let mut outage = fault(FROM, FaultKind::QueueOutage, "", CloudService::Sqs);
        outage.process = None;
        outage.until = Some(FROM + lasted);
        outage.queue = Some(QUEUE.to_owned());
        history.faults.push(outage);
        history.deferrals.push(Deferral {
            at: FROM + lasted + 1_000,
            relay: "relay-2".to_owned(),
            incarnation: 1,
            queue: QUEUE.to_owned(),
            events: 1,
        });
        let committed = FROM + 1_000;
        history.steps.push(Step {
            at: committed,
            took_ms: 0,
            aggregate_id: "steps".to_owned(),
            sequence: 4,
            event_id: "steps:4".to_owned(),
        });
        history
            .end
            .outbox
            .push(stored_event("steps", 4, "chaos.step"));
        let sent = publish("relay-2", committed + took - 5, "steps", 4);
        history.records.push(StreamRecord {
            at: sent.at,
            shard: super::super::fixture::SHARD.to_owned(),
            aggregate_id: "steps".to_owned(),
            sequence: 4,
            trimmed: false,
        });
        history.marks.push(PublishedMark {
            at: sent.answered_at + 10,
            aggregate_id: "steps".to_owned(),
            sequence: 4,
        });
        history.deliveries.push(Delivery {
            at: sent.answered_at + 5,
            consumer: "chaos".to_owned(),
            event_id: "steps:4".to_owned(),
            injected: None,
        });
        history.publishes.push(sent);
    }

    #[test]
    fn a_delay_of_another_queue_is_detected() {
        assert_valid(|history| add_outage(history, 14_000, 1_000));
        assert_violations(Invariant::Isolation, 1, |history| {
            add_outage(history, 14_000, 1_001);
        });
        let found = assert_violations(Invariant::Isolation, 2, |history| {
            add_outage(history, 14_000, 3_001);
        });
        assert!(found[1].what.contains("event steps:4"), "{found:?}");
    }

    #[test]
    fn events_of_the_unavailable_queue_may_be_late() {
        assert_valid(|history| {
            add_outage(history, 14_000, 1_000);
            // The event of an order, committed during the outage and accepted after it.
            let order = &mut history.end.orders[0];
            order.created_at = FROM + 1_000;
            order.updated_at = FROM + 15_000;
            let post = &mut history.posts[1];
            post.at = FROM + 1_000;
            history.posts[0].at = FROM + 990;
            let mut cut = history.faults[0].clone();
            cut.at = FROM + 995;
            history.faults.push(cut);
            unmark(history, "o-1");
            for publish in &mut history.publishes {
                if publish.event_id == "o-1:1" {
                    publish.at = FROM + 14_100;
                    publish.answered_at = FROM + 14_105;
                }
            }
        });
    }

    #[test]
    fn an_outage_without_a_deferred_event_is_detected() {
        assert_violations(Invariant::Isolation, 1, |history| {
            add_outage(history, 14_000, 10);
            history.deferrals.clear();
        });
        // That of another queue, or of another time.
        assert_violations(Invariant::Isolation, 1, |history| {
            add_outage(history, 14_000, 10);
            history.deferrals[0].queue = "chaos-events.fifo".to_owned();
        });
        assert_violations(Invariant::Isolation, 1, |history| {
            add_outage(history, 14_000, 10);
            history.deferrals[0].at = FROM - 1;
        });
        // A run that was interrupted.
        assert_valid(|history| {
            add_outage(history, 13_999, 10);
            history.deferrals.clear();
        });
    }

    #[test]
    fn an_outage_in_which_every_event_was_disturbed_is_detected() {
        let disturb = |history: &mut History, process: &str| {
            add_outage(history, 14_000, 2_000);
            for second in 0..20 {
                let at = FROM - 3_000 + second * 1_000;
                let service = CloudService::Dynamodb;
                let disturbance = fault(at, FaultKind::Throttle, process, service);
                history.faults.push(disturbance);
            }
        };
        assert_violations(Invariant::Isolation, 1, |history| {
            disturb(history, "relay-2");
        });
        // The other one is the delay, which this does not explain.
        let found = assert_violations(Invariant::Isolation, 1, |history| {
            disturb(history, "worker-1");
        });
        assert!(found[0].what.contains("2000 ms"));
    }
}
