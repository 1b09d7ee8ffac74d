//! A small valid history, which each test changes in one way.

use super::super::history::{
    CloudService, Delivery, End, EndSignal, Ending, Fault, FaultKind, History, IdempotencyRecord,
    Level, Life, LogKind, LogLine, MemorySample, OrderLine, Post, Program, Publish, PublishedMark,
    Settings, ShardReader, Step, Stock, StoredEvent, StoredOrder, StreamRecord,
};
use super::{Invariant, Violation, check};

const DURATION: u64 = 120_000;
const LEASE: u64 = 3_000;
pub(crate) const SHARD: &str = "shard-1";

/// Asserts that the valid history, changed by `how`, has exactly this many violations, all of
/// `invariant`, and returns them.
#[track_caller]
pub(super) fn assert_violations(
    invariant: Invariant,
    count: usize,
    how: impl FnOnce(&mut History),
) -> Vec<Violation> {
    let mut history = valid();
    how(&mut history);
    let found = check(&history);
    assert!(
        found.len() == count && found.iter().all(|one| one.invariant == invariant),
        "expected {count} of {invariant:?}, found {found:#?}"
    );
    found
}

/// Asserts that the valid history, changed by `how`, has no violation.
#[track_caller]
pub(super) fn assert_valid(how: impl FnOnce(&mut History)) {
    let mut history = valid();
    how(&mut history);
    assert_eq!(check(&history), []);
}

/// Returns a history of two relays, the first of which is killed at 10 s with one event in flight.
///
/// - `c-1`: a request that was cut and repeated with its key; processed.
/// - `c-2`: no key; processed; its event is the one in flight at the kill.
/// - `c-3`: rejected, insufficient stock. `c-4`: rejected, unknown SKU. `c-5`: answered with 503
///   and not stored.
/// - `steps`: three events of one aggregate. The response to the first send of the first is lost,
///   so it is sent twice; the third waits for the takeover.
pub(crate) fn valid() -> History {
    let mut history = History {
        settings: Settings {
            duration_ms: DURATION,
            lease_duration_ms: LEASE,
            api_concurrency: 512,
            drain_limit_ms: 30_000,
            in_flight_bound: 2,
            memory_limit_bytes: 100 << 20,
            ..Settings::default()
        },
        ..History::default()
    };
    posts(&mut history);
    processes(&mut history);
    history.end = end();
    for order in &history.end.orders {
        let at = if order.order_id == "o-2" {
            9_950
        } else {
            order.created_at + 20
        };
        history
            .publishes
            .push(publish("relay-1", at, &order.order_id, 1));
    }
    history.steps = vec![step(1, 3_000), step(2, 3_000), step(3, 9_990)];
    history.publishes.extend([
        Publish {
            response_delivered: false,
            ..publish("relay-1", 3_010, "steps", 1)
        },
        publish("relay-1", 3_110, "steps", 1),
        publish("relay-1", 3_200, "steps", 2),
        publish("relay-2", 13_400, "o-2", 1),
        publish("relay-2", 13_400, "steps", 3),
    ]);
    history.publishes.sort_by_key(|publish| publish.at);
    history.readers = vec![reader(300, "relay-1"), reader(13_300, "relay-2")];
    for publish in &history.publishes {
        history.records.push(StreamRecord {
            at: publish.at,
            shard: SHARD.to_owned(),
            aggregate_id: publish.aggregate_id.clone(),
            sequence: publish.sequence,
            trimmed: false,
        });
        // The relay was killed before it could mark `o-2`, and did not receive the response to the
        // first send of `steps`.
        if publish.at != 9_950 && publish.response_delivered {
            history.marks.push(PublishedMark {
                at: publish.answered_at + 10,
                aggregate_id: publish.aggregate_id.clone(),
                sequence: publish.sequence,
            });
        }
    }
    for publish in &history.publishes {
        history.deliveries.push(Delivery {
            at: publish.answered_at + 5,
            consumer: "worker-1".to_owned(),
            event_id: publish.event_id.clone(),
            injected: None,
        });
    }
    history
}

/// Returns the observation that `relay` reads the shard, and thus owns its lease, from `at` on.
pub(crate) fn reader(at: u64, relay: &str) -> ShardReader {
    ShardReader {
        at,
        shard: SHARD.to_owned(),
        relay: relay.to_owned(),
        incarnation: 1,
    }
}

fn posts(history: &mut History) {
    let post = |customer: &str, key: Option<&str>, at: u64, sku: &str, quantity| Post {
        at,
        took_ms: 20,
        key: key.map(str::to_owned),
        customer_id: customer.to_owned(),
        lines: vec![OrderLine {
            sku: sku.to_owned(),
            quantity,
        }],
        ..Post::default()
    };
    let confirmed = |post: Post, id: &str| Post {
        status: Some(201),
        order_id: Some(id.to_owned()),
        ..post
    };
    let repeated = confirmed(post("c-1", Some("k-1"), 1_100, "A", 2), "o-1");
    history.posts = vec![
        post("c-1", Some("k-1"), 1_000, "A", 2),
        Post {
            replayed: true,
            ..repeated
        },
        confirmed(post("c-2", None, 9_900, "A", 1), "o-2"),
        confirmed(post("c-3", Some("k-3"), 2_100, "SCARCE", 5), "o-3"),
        confirmed(post("c-4", None, 2_200, "NOPE", 1), "o-4"),
        Post {
            status: Some(503),
            ..post("c-5", Some("k-5"), 1_300, "A", 1)
        },
    ];
    history.faults = vec![
        fault(
            1_010,
            FaultKind::CutAfter,
            "order-api",
            CloudService::Dynamodb,
        ),
        fault(3_020, FaultKind::CutAfter, "relay-1", CloudService::Sqs),
        Fault {
            service: None,
            ..fault(10_000, FaultKind::Kill, "relay-1", CloudService::Sqs)
        },
    ];
    history.logs = vec![error(1_310, "order-api", "an order was not confirmed")];
}

/// Returns an error line as a process logs it.
pub(super) fn error(at: u64, process: &str, message: &str) -> LogLine {
    LogLine {
        at,
        process: process.to_owned(),
        kind: LogKind::Error,
        text: format!(r#"{{"level":"ERROR","message":"{message}"}}"#),
    }
}

pub(crate) fn fault(at: u64, kind: FaultKind, process: &str, service: CloudService) -> Fault {
    Fault {
        at,
        until: None,
        kind,
        process: Some(process.to_owned()),
        service: Some(service),
        operation: None,
        queue: None,
    }
}

fn processes(history: &mut History) {
    let life = |program, process: &str| Life {
        program,
        process: process.to_owned(),
        incarnation: 1,
        pid: 4711,
        started: 0,
        ready: Some(200),
        ended: Some(DURATION + 5_000),
        how: Some(Ending::Exited(0)),
        told_to_end: Some(DURATION + 4_900),
        told_by: Some(EndSignal::Term),
    };
    let killed = Life {
        ended: Some(10_010),
        how: Some(Ending::Signalled(9)),
        told_to_end: Some(10_000),
        told_by: Some(EndSignal::Kill),
        ..life(Program::OutboxRelay, "relay-1")
    };
    let restarted = Life {
        incarnation: 2,
        started: 15_000,
        ready: Some(15_200),
        ..life(Program::OutboxRelay, "relay-1")
    };
    history.lives = vec![
        life(Program::OrderApi, "order-api"),
        killed,
        restarted,
        life(Program::OutboxRelay, "relay-2"),
        life(Program::InventoryWorker, "worker-1"),
    ];
    history.memory = (0..DURATION / 1_000)
        .map(|second| MemorySample {
            at: second * 1_000,
            process: "relay-2".to_owned(),
            incarnation: 1,
            rss_bytes: 20 << 20,
        })
        .collect();
}

fn end() -> End {
    let order = |id: &str, customer: &str, at: u64, sku: &str, quantity| StoredOrder {
        order_id: id.to_owned(),
        customer_id: customer.to_owned(),
        lines: vec![OrderLine {
            sku: sku.to_owned(),
            quantity,
        }],
        status: "PROCESSED".to_owned(),
        rejection_reason: None,
        reservation: Some([(sku.to_owned(), quantity)].into()),
        version: 2,
        created_at: at,
        updated_at: at + 80,
    };
    let rejected = |order: StoredOrder, reason: &str| StoredOrder {
        status: "REJECTED".to_owned(),
        rejection_reason: Some(format!("Not enough stock: {reason}")),
        reservation: None,
        ..order
    };
    let orders = vec![
        order("o-1", "c-1", 1_005, "A", 2),
        order("o-2", "c-2", 9_910, "A", 1),
        rejected(
            order("o-3", "c-3", 2_105, "SCARCE", 5),
            "SKU SCARCE has 1 available, 5 wanted",
        ),
        rejected(
            order("o-4", "c-4", 2_205, "NOPE", 1),
            "SKU NOPE is unknown (1 wanted)",
        ),
    ];
    let placed = orders
        .iter()
        .map(|order| stored_event(&order.order_id, 1, "order.placed"));
    let steps = (1..=3).map(|sequence| stored_event("steps", sequence, "chaos.step"));
    let outbox = placed.chain(steps);
    let key = |key: &str, order: &str| IdempotencyRecord {
        key: key.to_owned(),
        order_id: order.to_owned(),
    };
    let stock = |before: i64, moved: i64| Stock {
        before: Level {
            available: before,
            reserved: 0,
        },
        after: Level {
            available: before - moved,
            reserved: moved,
        },
    };
    End {
        drained_after_ms: Some(1_500),
        outbox: outbox.collect(),
        orders,
        idempotency: vec![key("c-1#k-1", "o-1"), key("c-3#k-3", "o-3")],
        inventory: [
            ("A".to_owned(), stock(100, 3)),
            ("SCARCE".to_owned(), stock(1, 0)),
        ]
        .into(),
        left_in_queues: [("order-events".to_owned(), 0)].into(),
        dead_letters: Vec::new(),
    }
}

fn event_id(aggregate_id: &str, sequence: u64) -> String {
    format!("{aggregate_id}:{sequence}")
}

pub(super) fn stored_event(aggregate_id: &str, sequence: u64, event_type: &str) -> StoredEvent {
    StoredEvent {
        aggregate_id: aggregate_id.to_owned(),
        sequence,
        event_id: event_id(aggregate_id, sequence),
        event_type: event_type.to_owned(),
        status: "PUBLISHED".to_owned(),
    }
}

fn step(sequence: u64, at: u64) -> Step {
    Step {
        at,
        took_ms: 0,
        aggregate_id: "steps".to_owned(),
        sequence,
        event_id: event_id("steps", sequence),
    }
}

pub(crate) fn publish(relay: &str, at: u64, aggregate_id: &str, sequence: u64) -> Publish {
    Publish {
        requested_at: at,
        at,
        answered_at: at + 5,
        response_delivered: true,
        relay: relay.to_owned(),
        incarnation: 1,
        queue: match aggregate_id {
            "steps" => "chaos-events.fifo".to_owned(),
            _ => "order-events".to_owned(),
        },
        event_id: event_id(aggregate_id, sequence),
        aggregate_id: aggregate_id.to_owned(),
        sequence,
    }
}

/// Removes the marks of the aggregate's events.
pub(super) fn unmark(history: &mut History, aggregate_id: &str) {
    history
        .marks
        .retain(|mark| mark.aggregate_id != aggregate_id);
}

#[test]
fn the_valid_history_has_no_violation() {
    assert_valid(|_| {});
}
