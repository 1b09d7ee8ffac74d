mod look_ups;
mod send_slots;
mod shedding;

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
        left_to_sweepers_at: None,
        occurred_at: None,
        trace: TraceContext::default(),
    })
}

fn reference(aggregate: &str, sequence: u64) -> EventRef {
    EventRef {
        aggregate_id: aggregate.to_owned(),
        sequence,
        replay: None,
    }
}

fn push(scheduler: &mut SendScheduler<u32>, event: Arc<Event>, ack: u32) {
    scheduler.push(event, ack, false, Instant::now());
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

/// Returns the next batch, whose request ends at once, so that further events do not linger.
fn next(scheduler: &mut SendScheduler<u32>, now: Instant) -> Vec<String> {
    let batch = scheduler.next_batch(now, |_| Permission::Send);
    if let Some(batch) = &batch {
        scheduler.record_batch_end(batch);
    }
    names(batch)
}

#[test]
fn an_aggregate_has_one_event_in_flight_and_the_lowest_sequence_first() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 2, "q", 1), 0);
    push(&mut scheduler, event("a", 1, "q", 1), 0);
    push(&mut scheduler, event("b", 1, "q", 1), 0);
    assert_eq!(next(&mut scheduler, now), ["a:1", "b:1"]);
    assert!(next(&mut scheduler, now).is_empty());
    scheduler.record_sent(&reference("a", 1), now);
    assert_eq!(next(&mut scheduler, now), ["a:2"]);
}

#[test]
fn a_failed_entry_delays_its_aggregate_only() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for sequence in 1..=2 {
        push(&mut scheduler, event("a", sequence, "q", 1), 0);
        push(&mut scheduler, event("b", sequence, "q", 1), 0);
    }
    assert_eq!(next(&mut scheduler, now), ["a:1", "b:1"]);
    let later = now + Duration::from_secs(1);
    scheduler.retry(&reference("a", 1), Some(later), false, now);
    scheduler.record_sent(&reference("b", 1), now);
    assert_eq!(next(&mut scheduler, now), ["b:2"]);
    assert_eq!(scheduler.next_send(now), Some(later));
    let again = scheduler.next_batch(later, |_| Permission::Send).unwrap();
    assert_eq!(again.events[0].attempt, 2);
    assert_eq!(names(Some(again)), ["a:1"]);
}

#[test]
fn a_rejected_event_does_not_block_later_ones() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 7);
    push(&mut scheduler, event("a", 2, "q", 1), 8);
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    assert_eq!(scheduler.remove_rejected(&reference("a", 1), now), [7]);
    assert_eq!(next(&mut scheduler, now), ["a:2"]);
}

#[test]
fn a_batch_has_at_most_ten_messages_and_one_mebibyte() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for n in 0..11 {
        push(&mut scheduler, event(&format!("s{n:02}"), 1, "small", 1), 0);
    }
    for n in 0..3 {
        push(
            &mut scheduler,
            event(&format!("l{n}"), 1, "large", 400 * 1024),
            0,
        );
    }
    let mut sizes = Vec::new();
    while let Some(batch) = scheduler.next_batch(now, |_| Permission::Send) {
        scheduler.record_batch_end(&batch);
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
        push(&mut scheduler, event(&format!("x{n:02}"), 1, "down", 1), 0);
    }
    push(&mut scheduler, event("y", 1, "up", 1), 0);
    let down = QueueRef::new("down");
    let first = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert_eq!(first.queue, down);
    for outgoing in &first.events {
        scheduler.retry(&EventRef::of(&outgoing.event), None, false, now);
    }
    scheduler.record_batch_failure(&first, now, |_| Duration::from_secs(1));
    assert_eq!(next(&mut scheduler, now), ["y:1"]);
    assert!(next(&mut scheduler, now).is_empty());
    let later = now + Duration::from_secs(1);
    let probe = scheduler.next_batch(later, |_| Permission::Send).unwrap();
    assert_eq!(probe.events.len(), 10);
    assert!(
        next(&mut scheduler, later).is_empty(),
        "one probe at a time"
    );
    scheduler.record_batch_success(&probe);
    assert_eq!(next(&mut scheduler, later).len(), 10);
}

#[test]
fn a_refused_batch_is_sent_one_by_one() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for name in ["a", "b"] {
        push(&mut scheduler, event(name, 1, "q", 1), 0);
    }
    assert_eq!(next(&mut scheduler, now).len(), 2);
    for name in ["a", "b"] {
        scheduler.retry(&reference(name, 1), None, true, now);
    }
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    assert_eq!(next(&mut scheduler, now), ["b:1"]);
}

#[test]
fn an_event_read_twice_is_sent_once_and_acknowledged_twice() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 1);
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    push(&mut scheduler, event("a", 1, "q", 1), 2);
    scheduler.record_sent(&reference("a", 1), now);
    assert!(next(&mut scheduler, now).is_empty());
    push(&mut scheduler, event("a", 1, "q", 1), 3);
    assert!(next(&mut scheduler, now).is_empty());
    assert_eq!(scheduler.record_marked(&reference("a", 1), now), [1, 2, 3]);
    assert!(scheduler.aggregates.is_empty());
}

#[test]
fn events_of_a_lost_shard_are_not_sent() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 1);
    push(&mut scheduler, event("b", 1, "q", 1), 2);
    let batch = scheduler.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    scheduler.record_batch_end(batch.as_ref().unwrap());
    assert_eq!(names(batch), ["b:1"]);
    let later = now + Duration::from_secs(1);
    push(&mut scheduler, event("c", 1, "q", 1), 3);
    assert!(
        scheduler
            .next_batch(now, |_| Permission::Later(later))
            .is_none()
    );
    assert_eq!(scheduler.next_send(now), Some(later));
    assert_eq!(next(&mut scheduler, later), ["c:1"]);
}

#[test]
fn waiting_events_of_a_lost_shard_are_removed_before_they_are_first_in_line() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("sending", 1, "q", 1), 1);
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    push(&mut scheduler, event("lost", 1, "r", 1), 1);
    push(&mut scheduler, event("kept", 1, "r", 1), 2);
    scheduler.remove_lost(|acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert!(scheduler.contains(&reference("sending", 1)), "in flight");
    assert!(!scheduler.contains(&reference("lost", 1)));
    assert!(scheduler.contains(&reference("kept", 1)));
    scheduler.record_batch_success(&batch);
    assert_eq!(next(&mut scheduler, now), ["kept:1"]);
    let queue = QueueRef::new("r");
    assert!(!scheduler.is_in_use(&queue, now), "nothing waits for it");
}

#[test]
fn the_scheduler_is_idle_while_no_batch_is_sent() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 0);
    assert!(scheduler.is_idle());
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert!(!scheduler.is_idle());
    scheduler.record_batch_success(&batch);
    assert!(scheduler.is_idle());
}

#[test]
fn a_queue_is_in_use_until_its_events_are_sent_or_lost() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    let queue = QueueRef::new("q");
    assert!(!scheduler.is_in_use(&queue, now));
    push(&mut scheduler, event("a", 1, "q", 1), 0);
    assert!(scheduler.is_in_use(&queue, now));
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert!(scheduler.is_in_use(&queue, now));
    scheduler.retry(&reference("a", 1), None, false, now);
    scheduler.record_batch_failure(&batch, now, |_| Duration::from_secs(1));
    assert!(scheduler.is_in_use(&queue, now));
    let later = now + Duration::from_secs(1);
    assert!(scheduler.next_batch(later, |_| Permission::Never).is_none());
    assert!(!scheduler.is_in_use(&queue, later));
}

#[test]
fn lost_events_of_one_queue_do_not_delay_another_queue() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for (sequence, queue) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let lost = u32::from(sequence < 4);
        push(&mut scheduler, event("x", sequence, queue, 1), lost);
    }
    let batch = scheduler.next_batch(now, |acks| match acks {
        [1] => Permission::Never,
        _ => Permission::Send,
    });
    assert_eq!(names(batch), ["x:4"]);
}

#[test]
fn a_replay_waits_until_the_earlier_publication_is_marked() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    let replay = |sequence| {
        let mut event = event("a", sequence, "q", 1);
        Arc::make_mut(&mut event).generation.replays = Some(1);
        event
    };
    push(&mut scheduler, event("a", 1, "q", 1), 1);
    assert_eq!(next(&mut scheduler, now), ["a:1"]);
    scheduler.record_sent(&reference("a", 1), now);
    push(&mut scheduler, replay(1), 2);
    push(&mut scheduler, event("a", 2, "q", 1), 3);
    assert_eq!(next(&mut scheduler, now), ["a:2"], "the replay waits alone");
    scheduler.record_sent(&reference("a", 2), now);
    assert!(next(&mut scheduler, now).is_empty());
    assert_eq!(scheduler.record_marked(&reference("a", 1), now), [1]);
    assert_eq!(next(&mut scheduler, now), ["a:1"], "the replay is sent");
    let replayed = EventRef::of(&replay(1));
    scheduler.record_sent(&replayed, now);
    assert_eq!(scheduler.record_marked(&replayed, now), [2]);
    assert_eq!(scheduler.record_marked(&reference("a", 2), now), [3]);
    assert!(scheduler.aggregates.is_empty());
}

#[test]
fn an_incomplete_batch_lingers_while_a_request_to_its_queue_is_in_flight() {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    scheduler.push(event("a", 1, "q", 1), 0, false, start);
    let first = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    assert_eq!(first.events.len(), 1, "nothing is in flight");
    scheduler.push(event("b", 1, "q", 1), 0, false, start);
    scheduler.push(event("c", 1, "other", 1), 0, false, start);
    assert_eq!(next(&mut scheduler, start), ["c:1"], "another queue");
    assert!(next(&mut scheduler, start).is_empty());
    let end = scheduler.next_send(start).unwrap();
    assert!(end <= start + Duration::from_millis(5));
    for n in 0..9 {
        scheduler.push(event(&format!("d{n}"), 1, "q", 1), 0, false, start);
    }
    let full = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    assert_eq!(full.events.len(), 10, "a full batch does not wait");
    scheduler.push(event("e", 1, "q", 1), 0, false, start);
    assert!(next(&mut scheduler, start).is_empty());
    assert_eq!(next(&mut scheduler, end), ["e:1"]);
    scheduler.push(event("f", 1, "q", 1), 0, false, end);
    scheduler.record_batch_success(&first);
    scheduler.record_batch_success(&full);
    assert_eq!(next(&mut scheduler, end), ["f:1"], "nothing is in flight");
}

#[test]
fn an_event_lingers_from_its_own_arrival_while_a_request_is_in_flight() {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    scheduler.push(event("a", 1, "q", 1), 0, false, start);
    let first = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    scheduler.push(event("b", 1, "q", 1), 0, false, at(100));
    assert!(
        scheduler
            .next_batch(at(100), |_| Permission::Send)
            .is_none()
    );
    let end = at(100) + queue_state::LINGER;
    assert_eq!(scheduler.next_send(at(100)), Some(end));
    assert_eq!(next(&mut scheduler, end), ["b:1"]);
    scheduler.record_batch_success(&first);
    scheduler.push(event("c", 1, "q", 1), 0, false, at(200));
    assert_eq!(next(&mut scheduler, at(200)), ["c:1"]);
}

#[test]
fn a_queue_accepts_from_its_first_success_to_its_next_failure() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    let queue = QueueRef::new("q");
    let mut accepting = Vec::new();
    for is_accepted in [false, true, false] {
        push(&mut scheduler, event("a", 1, "q", 1), 0);
        let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
        if is_accepted {
            scheduler.record_batch_success(&batch);
        } else {
            scheduler.record_batch_failure(&batch, now, |_| Duration::ZERO);
        }
        scheduler.remove_rejected(&reference("a", 1), now);
        accepting.push(scheduler.is_accepting(&queue));
    }
    assert_eq!(accepting, [false, true, false]);
}
