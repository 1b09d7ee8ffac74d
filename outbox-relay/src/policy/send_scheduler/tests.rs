use std::time::Duration;

use outbox::Message;
use outbox::trace_context::TraceContext;

use super::*;

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
        replay: None,
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

fn next(schedule: &mut Schedule<u32>, now: Instant) -> Vec<String> {
    names(schedule.next_batch(now, |_| Permission::Send))
}

#[test]
fn an_aggregate_has_one_event_in_flight_and_the_lowest_first() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.push(event("a", 2, "q", 1), 0);
    schedule.push(event("a", 1, "q", 1), 0);
    schedule.push(event("b", 1, "q", 1), 0);
    assert_eq!(next(&mut schedule, now), ["a:1", "b:1"]);
    assert!(next(&mut schedule, now).is_empty());
    schedule.sent(
        &reference("a", 1),
        "m".to_owned(),
        Timestamp::from_millis(0),
    );
    assert_eq!(next(&mut schedule, now), ["a:2"]);
}

#[test]
fn a_failed_entry_holds_back_its_aggregate_only() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for sequence in 1..=2 {
        schedule.push(event("a", sequence, "q", 1), 0);
        schedule.push(event("b", sequence, "q", 1), 0);
    }
    assert_eq!(next(&mut schedule, now), ["a:1", "b:1"]);
    let later = now + Duration::from_secs(1);
    schedule.retry(&reference("a", 1), Some(later), false);
    schedule.sent(
        &reference("b", 1),
        "m".to_owned(),
        Timestamp::from_millis(0),
    );
    schedule.batch_went_through(&QueueRef::new("q"));
    assert_eq!(next(&mut schedule, now), ["b:2"]);
    assert_eq!(schedule.next_due(later, false), None);
    assert_eq!(schedule.next_due(now, true), Some(later));
    assert_eq!(next(&mut schedule, later), ["a:1"]);
}

#[test]
fn a_rejected_event_lets_the_later_ones_go() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.push(event("a", 1, "q", 1), 7);
    schedule.push(event("a", 2, "q", 1), 8);
    assert_eq!(next(&mut schedule, now), ["a:1"]);
    assert_eq!(schedule.rejected(&reference("a", 1)), [7]);
    assert_eq!(next(&mut schedule, now), ["a:2"]);
}

#[test]
fn batches_keep_to_ten_messages_and_a_mebibyte() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for n in 0..11 {
        schedule.push(event(&format!("s{n:02}"), 1, "small", 1), 0);
    }
    for n in 0..3 {
        schedule.push(event(&format!("l{n}"), 1, "large", 400 * 1024), 0);
    }
    let mut sizes = Vec::new();
    while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
        sizes.push((batch.queue.to_string(), batch.events.len()));
    }
    sizes.sort();
    let expected = [("large", 1), ("large", 2), ("small", 1), ("small", 10)]
        .map(|(queue, count)| (queue.to_owned(), count));
    assert_eq!(sizes, expected);
}

#[test]
fn a_failing_queue_is_probed_and_does_not_hold_up_another() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for n in 0..25 {
        schedule.push(event(&format!("x{n:02}"), 1, "down", 1), 0);
    }
    schedule.push(event("y", 1, "up", 1), 0);
    let down = QueueRef::new("down");
    let first = schedule.next_batch(now, |_| Permission::Send).unwrap();
    assert_eq!(first.queue, down);
    for outgoing in &first.events {
        schedule.retry(&EventRef::of(&outgoing.event), None, false);
    }
    schedule.batch_failed(&down, now, |_| Duration::from_secs(1));
    assert_eq!(next(&mut schedule, now), ["y:1"]);
    assert!(next(&mut schedule, now).is_empty());
    let later = now + Duration::from_secs(1);
    assert_eq!(next(&mut schedule, later).len(), 10);
    assert!(next(&mut schedule, later).is_empty(), "one probe at a time");
    schedule.batch_went_through(&down);
    assert_eq!(next(&mut schedule, later).len(), 10);
}

#[test]
fn a_refused_batch_is_sent_one_by_one() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for name in ["a", "b"] {
        schedule.push(event(name, 1, "q", 1), 0);
    }
    assert_eq!(next(&mut schedule, now).len(), 2);
    for name in ["a", "b"] {
        schedule.retry(&reference(name, 1), None, true);
    }
    assert_eq!(next(&mut schedule, now), ["a:1"]);
    assert_eq!(next(&mut schedule, now), ["b:1"]);
}

#[test]
fn an_event_read_twice_is_sent_once_and_acknowledged_twice() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.push(event("a", 1, "q", 1), 1);
    assert_eq!(next(&mut schedule, now), ["a:1"]);
    schedule.push(event("a", 1, "q", 1), 2);
    schedule.sent(
        &reference("a", 1),
        "m".to_owned(),
        Timestamp::from_millis(0),
    );
    assert!(next(&mut schedule, now).is_empty());
    let marks = schedule.next_marks(now, true);
    assert_eq!(marks.len(), 1);
    schedule.push(event("a", 1, "q", 1), 3);
    assert!(next(&mut schedule, now).is_empty());
    assert_eq!(schedule.marked(&marks[0].event), [1, 2, 3]);
    assert!(schedule.aggregates.is_empty());
}

#[test]
fn marks_are_gathered_unless_eager() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for n in 0..30 {
        schedule.push(event(&format!("x{n:02}"), 1, "q", 1), n);
    }
    while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
        for outgoing in batch.events {
            schedule.sent(
                &EventRef::of(&outgoing.event),
                "m".to_owned(),
                Timestamp::from_millis(0),
            );
        }
        schedule.batch_went_through(&batch.queue);
    }
    assert_eq!(schedule.next_marks(now, false).len(), 25);
    assert!(schedule.next_marks(now, false).is_empty());
    assert_eq!(schedule.next_marks(now, true).len(), 5);
}

#[test]
fn sending_waits_for_marks() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for n in 0..2 * MAX_UNMARKED {
        schedule.push(event(&format!("x{n:04}"), 1, "q", 1), 0);
    }
    let mut sent = 0;
    while let Some(batch) = schedule.next_batch(now, |_| Permission::Send) {
        for outgoing in &batch.events {
            let at = Timestamp::from_millis(0);
            schedule.sent(&EventRef::of(&outgoing.event), "m".to_owned(), at);
        }
        schedule.batch_went_through(&batch.queue);
        sent += batch.events.len();
    }
    assert_eq!(sent, MAX_UNMARKED);
    for mark in schedule.next_marks(now, true) {
        schedule.marked(&mark.event);
    }
    assert_eq!(next(&mut schedule, now).len(), 10);
}

#[test]
fn a_lost_shard_sends_nothing_more() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.push(event("a", 1, "q", 1), 1);
    schedule.push(event("b", 1, "q", 1), 2);
    let batch = schedule.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert_eq!(names(batch), ["b:1"]);
    let later = now + Duration::from_secs(1);
    schedule.push(event("c", 1, "q", 1), 3);
    assert!(
        schedule
            .next_batch(now, |_| Permission::Later(later))
            .is_none()
    );
    assert_eq!(schedule.next_due(now, true), Some(later));
    assert_eq!(next(&mut schedule, later), ["c:1"]);
}

#[test]
fn a_queue_is_in_use_until_what_waits_for_it_is_sent_or_lost() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    let queue = QueueRef::new("q");
    assert!(!schedule.is_in_use(&queue));
    schedule.push(event("a", 1, "q", 1), 0);
    assert!(schedule.is_in_use(&queue));
    assert_eq!(next(&mut schedule, now), ["a:1"]);
    assert!(schedule.is_in_use(&queue));
    schedule.retry(&reference("a", 1), None, false);
    schedule.batch_failed(&queue, now, |_| Duration::from_secs(1));
    assert!(schedule.is_in_use(&queue));
    let later = now + Duration::from_secs(1);
    assert!(schedule.next_batch(later, |_| Permission::Never).is_none());
    assert!(!schedule.is_in_use(&queue));
}

#[test]
fn what_is_lost_on_one_queue_holds_up_nothing_on_another() {
    let mut schedule = Schedule::default();
    let now = Instant::now();
    for (sequence, queue) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let lost = u32::from(sequence < 4);
        schedule.push(event("x", sequence, queue, 1), lost);
    }
    let batch = schedule.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert_eq!(names(batch), ["x:4"]);
}
