use std::time::Duration;

use outbox::Message;
use outbox::trace_context::TraceContext;

use super::*;
use crate::ports::{EventKey, Generation};

fn event(aggregate: &str, sequence: u64, queue: &str, bytes: usize) -> Arc<Event> {
    Arc::new(Event {
        key: EventKey {
            aggregate_id: aggregate.to_owned(),
            sequence: sequence.to_string(),
        },
        sequence,
        event_id: format!("{aggregate}:{sequence}"),
        queue: QueueRef::new(queue),
        message: Message::new("x".repeat(bytes), Vec::new()),
        deduplication_id: String::new(),
        generation: Generation::default(),
        is_deferrable: true,
        occurred_at: None,
        trace: TraceContext::default(),
    })
}

fn reference(aggregate: &str, sequence: u64) -> EventRef {
    EventRef {
        aggregate_id: aggregate.to_owned(),
        sequence,
    }
}

fn names(batch: Option<Batch>) -> Vec<String> {
    batch
        .map(|batch| {
            batch
                .events
                .into_iter()
                .map(|out| out.event.event_id.clone())
                .collect()
        })
        .unwrap_or_default()
}

fn next(scheduler: &mut SendScheduler<u32>, now: Instant) -> Vec<String> {
    names(scheduler.next_batch(now, |_| Permission::Send))
}

#[test]
fn an_aggregate_has_one_event_in_flight_and_the_lowest_sequence_first() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    scheduler.push(event("a", 2, "q", 1), 0);
    scheduler.push(event("a", 1, "q", 1), 0);
    scheduler.push(event("b", 1, "q", 1), 0);
    assert_eq!(next(&mut scheduler, now), ["a:1", "b:1"]);
    assert!(next(&mut scheduler, now).is_empty());
    scheduler.record_sent(&reference("a", 1));
    assert_eq!(next(&mut scheduler, now), ["a:2"]);
}

#[test]
fn a_failed_entry_delays_its_aggregate_only() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for sequence in 1..=2 {
        scheduler.push(event("a", sequence, "q", 1), 0);
        scheduler.push(event("b", sequence, "q", 1), 0);
    }
    assert_eq!(next(&mut scheduler, now), ["a:1", "b:1"]);
    let later = now + Duration::from_secs(1);
    scheduler.retry(&reference("a", 1), Some(later), false);
    scheduler.record_sent(&reference("b", 1));
    scheduler.record_batch_success(&QueueRef::new("q"));
    assert_eq!(next(&mut scheduler, now), ["b:2"]);
    assert_eq!(scheduler.next_due(now), Some(later));
    assert_eq!(next(&mut scheduler, later), ["a:1"]);
}

#[test]
fn a_rejected_event_does_not_block_later_ones() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    scheduler.push(event("a", 1, "q", 1), 7);
    scheduler.push(event("a", 2, "q", 1), 8);
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    assert_eq!(scheduler.remove_rejected(&reference("a", 1)), [7]);
    assert_eq!(next(&mut scheduler, now), ["a:2"]);
}

#[test]
fn a_batch_has_at_most_ten_messages_and_one_mebibyte() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for n in 0..11 {
        scheduler.push(event(&format!("s{n:02}"), 1, "small", 1), 0);
    }
    for n in 0..3 {
        scheduler.push(event(&format!("l{n}"), 1, "large", 400 * 1024), 0);
    }
    let mut sizes = Vec::new();
    while let Some(batch) = scheduler.next_batch(now, |_| Permission::Send) {
        sizes.push((batch.queue.to_string(), batch.events.len()));
    }
    sizes.sort();
    let expected = [("large", 1), ("large", 2), ("small", 1), ("small", 10)]
        .map(|(queue, count)| (queue.to_owned(), count));
    assert_eq!(sizes, expected);
}

#[test]
fn a_failing_queue_is_probed_and_does_not_delay_another() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for n in 0..25 {
        scheduler.push(event(&format!("x{n:02}"), 1, "down", 1), 0);
    }
    scheduler.push(event("y", 1, "up", 1), 0);
    let down = QueueRef::new("down");
    let first = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert_eq!(first.queue, down);
    for outgoing in &first.events {
        scheduler.retry(&EventRef::of(&outgoing.event), None, false);
    }
    scheduler.record_batch_failure(&down, now, |_| Duration::from_secs(1));
    assert_eq!(next(&mut scheduler, now), ["y:1"]);
    assert!(next(&mut scheduler, now).is_empty());
    let later = now + Duration::from_secs(1);
    assert_eq!(next(&mut scheduler, later).len(), 10);
    assert!(
        next(&mut scheduler, later).is_empty(),
        "one probe at a time"
    );
    scheduler.record_batch_success(&down);
    assert_eq!(next(&mut scheduler, later).len(), 10);
}

#[test]
fn a_refused_batch_is_sent_one_by_one() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for name in ["a", "b"] {
        scheduler.push(event(name, 1, "q", 1), 0);
    }
    assert_eq!(next(&mut scheduler, now).len(), 2);
    for name in ["a", "b"] {
        scheduler.retry(&reference(name, 1), None, true);
    }
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    assert_eq!(next(&mut scheduler, now), ["b:1"]);
}

#[test]
fn an_event_read_twice_is_sent_once_and_acknowledged_twice() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    scheduler.push(event("a", 1, "q", 1), 1);
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    scheduler.push(event("a", 1, "q", 1), 2);
    scheduler.record_sent(&reference("a", 1));
    assert!(next(&mut scheduler, now).is_empty());
    scheduler.push(event("a", 1, "q", 1), 3);
    assert!(next(&mut scheduler, now).is_empty());
    assert_eq!(scheduler.record_marked(&reference("a", 1)), [1, 2, 3]);
    assert!(scheduler.aggregates.is_empty());
}

#[test]
fn events_of_a_lost_shard_are_not_sent() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    scheduler.push(event("a", 1, "q", 1), 1);
    scheduler.push(event("b", 1, "q", 1), 2);
    let batch = scheduler.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert_eq!(names(batch), ["b:1"]);
    let later = now + Duration::from_secs(1);
    scheduler.push(event("c", 1, "q", 1), 3);
    assert!(
        scheduler
            .next_batch(now, |_| Permission::Later(later))
            .is_none()
    );
    assert_eq!(scheduler.next_due(now), Some(later));
    assert_eq!(next(&mut scheduler, later), ["c:1"]);
}

#[test]
fn a_queue_is_in_use_until_its_events_are_sent_or_lost() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    let queue = QueueRef::new("q");
    assert!(!scheduler.is_in_use(&queue));
    scheduler.push(event("a", 1, "q", 1), 0);
    assert!(scheduler.is_in_use(&queue));
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    assert!(scheduler.is_in_use(&queue));
    scheduler.retry(&reference("a", 1), None, false);
    scheduler.record_batch_failure(&queue, now, |_| Duration::from_secs(1));
    assert!(scheduler.is_in_use(&queue));
    let later = now + Duration::from_secs(1);
    assert!(scheduler.next_batch(later, |_| Permission::Never).is_none());
    assert!(!scheduler.is_in_use(&queue));
}

#[test]
fn lost_events_of_one_queue_do_not_delay_another_queue() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for (sequence, queue) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let lost = u32::from(sequence < 4);
        scheduler.push(event("x", sequence, queue, 1), lost);
    }
    let batch = scheduler.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert_eq!(names(batch), ["x:4"]);
}
