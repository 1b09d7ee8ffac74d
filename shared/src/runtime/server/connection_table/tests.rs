use std::time::Duration;

use futures::FutureExt;
use tokio::time::advance;

use super::entry::{
    BUFFER_BYTES, FIRST_REQUEST_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, MAX_COUNTED, REUSED_ADVANTAGE,
};
use super::*;

const LIMITS: Limits = Limits {
    connections: 4,
    connections_per_address: 3,
    arriving_bytes: 3 * BUFFER_BYTES + 1_000,
    arrival_timeout: Duration::from_secs(30),
};

fn table() -> Arc<ConnectionTable> {
    Arc::new(ConnectionTable::new(LIMITS))
}

fn connect(table: &Arc<ConnectionTable>, address: &str) -> Option<Slot> {
    let address = SocketAddr::new(address.parse().unwrap(), 1);
    table.admit(address, Instant::now())
}

/// Returns connections of different addresses, one a millisecond.
async fn open<const N: usize>(table: &Arc<ConnectionTable>) -> [Slot; N] {
    let mut slots = Vec::new();
    for n in 0..N {
        slots.push(connect(table, &format!("192.0.2.{n}")).unwrap());
        advance(Duration::from_millis(1)).await;
    }
    slots.try_into().unwrap()
}

fn is_closed(slot: &Slot) -> bool {
    !slot.table.connections.lock().open.contains_key(&slot.id)
}

fn closed<const N: usize>(slots: &[Slot; N]) -> [bool; N] {
    slots.each_ref().map(is_closed)
}

/// Handles a complete request without a body.
fn exchange(slot: &Slot) {
    slot.received(100);
    slot.request_started(false);
    slot.response_started();
    slot.response_ended();
    slot.sent();
}

#[tokio::test(start_paused = true)]
async fn the_longest_waiting_connection_is_closed_whatever_it_waits_for() {
    let begin: [fn(&Slot); 4] = [
        |_idle| {},
        |head| head.received(1),
        |body| {
            body.received(1);
            body.request_started(true);
        },
        |responding| {
            responding.request_started(false);
            responding.response_started();
        },
    ];
    for begin in begin {
        let table = table();
        let [first] = open(&table).await;
        begin(&first);
        advance(REUSED_ADVANTAGE * 2).await;
        let [second, third, fourth] = open(&table).await;
        let fifth = connect(&table, "192.0.2.9").unwrap();
        let slots = [first, second, third, fourth, fifth];
        assert_eq!(closed(&slots), [true, false, false, false, false]);
        let _sixth = connect(&table, "192.0.2.8").unwrap();
        assert_eq!(closed(&slots), [true, true, false, false, false]);
        let is_told = |slot: &Slot| slot.closed().now_or_never().is_some();
        assert_eq!(
            slots.each_ref().map(is_told),
            [true, true, false, false, false]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_request_is_handled_is_not_closed() {
    let table = table();
    let slots: [Slot; 4] = open(&table).await;
    for slot in &slots {
        slot.received(100);
        slot.request_started(true);
        slot.request_arrived(true);
    }
    advance(Duration::from_secs(3_600)).await;
    table.close_overdue(Instant::now());
    assert!(connect(&table, "192.0.2.9").is_none());
    assert_eq!(closed(&slots), [false; 4]);
    assert!(slots.iter().all(Slot::has_arrived));
    slots[2].response_started();
    assert!(connect(&table, "192.0.2.9").is_some());
    assert_eq!(closed(&slots), [false, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_address_are_closed_for_its_own() {
    let table = table();
    let other = connect(&table, "198.51.100.1").unwrap();
    let [first, second, third] = std::array::from_fn(|_| connect(&table, "192.0.2.1").unwrap());
    let fourth = connect(&table, "192.0.2.1").unwrap();
    let slots = [other, first, second, third, fourth];
    assert_eq!(closed(&slots), [false, true, false, false, false]);
    for slot in &slots[2..] {
        slot.received(1);
        slot.request_started(false);
    }
    assert!(connect(&table, "192.0.2.1").is_none());
    assert_eq!(closed(&slots), [false, true, false, false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_reused_connection_outlasts_a_burst_of_new_ones() {
    let table = table();
    let [reused, idle] = open(&table).await;
    exchange(&reused);
    advance(REUSED_ADVANTAGE / 2).await;
    let burst: [Slot; 8] = open(&table).await;
    assert!(!is_closed(&reused) && is_closed(&idle));
    advance(REUSED_ADVANTAGE).await;
    let more: [Slot; 3] = open(&table).await;
    assert!(is_closed(&burst[7]));
    let last = connect(&table, "192.0.2.9").unwrap();
    assert!(is_closed(&reused), "it has waited longer than the others");
    drop((more, last));
}

#[tokio::test(start_paused = true)]
async fn clients_have_time_limits_and_idle_time_is_not_part_of_a_request() {
    let moment = Duration::from_millis(1);
    let overdue = async |slot: &Slot, limit: Duration| {
        advance(limit - moment).await;
        slot.table.close_overdue(Instant::now());
        assert!(!is_closed(slot), "{limit:?}");
        advance(moment).await;
        slot.table.close_overdue(Instant::now());
        assert!(is_closed(slot), "{limit:?}");
    };
    let table = table();
    let silent = connect(&table, "192.0.2.1").unwrap();
    overdue(&silent, FIRST_REQUEST_TIMEOUT).await;

    let idle = connect(&table, "192.0.2.1").unwrap();
    exchange(&idle);
    overdue(&idle, IDLE_TIMEOUT).await;

    let head = connect(&table, "192.0.2.1").unwrap();
    exchange(&head);
    advance(IDLE_TIMEOUT - moment).await;
    head.received(1);
    advance(HEAD_TIMEOUT / 2).await;
    // A byte more is not more time.
    head.received(1);
    overdue(&head, HEAD_TIMEOUT / 2).await;

    let pipelined = connect(&table, "192.0.2.1").unwrap();
    pipelined.received(1);
    pipelined.request_started(false);
    pipelined.received(1);
    pipelined.response_started();
    pipelined.response_ended();
    pipelined.sent();
    overdue(&pipelined, HEAD_TIMEOUT).await;

    let body = connect(&table, "192.0.2.1").unwrap();
    body.received(1);
    advance(HEAD_TIMEOUT / 2).await;
    body.request_started(true);
    overdue(&body, LIMITS.arrival_timeout - HEAD_TIMEOUT / 2).await;
}

#[tokio::test(start_paused = true)]
async fn arriving_bytes_are_bounded_and_the_longest_arriving_request_is_cut_off() {
    let table = table();
    let slots: [Slot; 3] = open(&table).await;
    slots[1].received(400);
    advance(Duration::from_millis(1)).await;
    slots[0].received(400);
    slots[2].received(200);
    assert_eq!(closed(&slots), [false; 3], "at the limit");
    slots[2].received(1);
    assert_eq!(closed(&slots), [false, true, false]);

    // What has arrived no longer counts, its buffers included.
    slots[0].request_started(false);
    slots[2].received(2 * BUFFER_BYTES + 799);
    assert_eq!(closed(&slots), [false, true, false]);
    slots[2].request_started(true);
    slots[2].received(1);
    assert_eq!(closed(&slots), [false, true, true], "the only one left");
}

#[tokio::test(start_paused = true)]
async fn a_discarded_body_counts_as_what_is_buffered_of_it() {
    let limits = Limits {
        arriving_bytes: MAX_COUNTED,
        ..LIMITS
    };
    let table = Arc::new(ConnectionTable::new(limits));
    let slot = connect(&table, "192.0.2.1").unwrap();
    for _ in 0..100 {
        slot.received(MAX_COUNTED / 2);
    }
    assert!(!is_closed(&slot));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_connections_that_ended() {
    let table = table();
    let slots: [Slot; 6] = open(&table).await;
    slots[3].received(2 * BUFFER_BYTES);
    slots[4].received(2 * BUFFER_BYTES);
    exchange(&slots[5]);
    slots[0].request_arrived(true);
    drop(slots);
    let connections = table.connections.lock();
    assert!(connections.open.is_empty() && connections.networks.is_empty());
    assert!(connections.waiting.is_empty() && connections.arriving.is_empty());
    assert_eq!(connections.arriving_bytes, 0);
}
