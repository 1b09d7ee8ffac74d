use super::*;
use crate::policy::send_scheduler::look_ups::LOOK_UP_AFTER;

/// Returns `true` if the batch with the event "a:1", of which a send failed at `failed_at`, is
/// looked up before it is sent again at `sent_at`. The event is pushed at 10 s. Times are in
/// milliseconds.
fn is_looked_up(failed_at: u64, sent_at: u64) -> bool {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let known_at = at(10_000);
    // Another event of the queue fails, so that the breaker stays closed for this one.
    scheduler.push(event("other", 1, "q", 1), 0, false, at(0));
    let batch = scheduler.next_batch(at(0), |_| Permission::Send).unwrap();
    scheduler.push(event("a", 1, "q", 1), 0, false, known_at);
    scheduler.record_batch_failure(&batch, at(failed_at), |_| Duration::ZERO);
    let batch = scheduler.next_batch(at(sent_at), |_| Permission::Send);
    batch.unwrap().is_look_up
}

#[test]
fn events_that_waited_two_seconds_for_a_queue_that_failed_are_looked_up() {
    assert!(!is_looked_up(10_000, 11_999));
    assert!(is_looked_up(10_000, 12_000));
    assert!(is_looked_up(11_000, 12_000));
}

#[test]
fn events_that_were_read_after_the_last_failure_are_not_looked_up() {
    assert!(!is_looked_up(9_999, 60_000));
}

/// Returns a scheduler with the event "a:1", the batch that looks it up, and the time of the batch.
fn looking_up() -> (SendScheduler<u32>, Batch, Instant) {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    scheduler.push(event("a", 1, "q", 1), 0, false, start);
    let batch = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    scheduler.retry(&reference("a", 1), None, false, start);
    scheduler.record_batch_failure(&batch, start, |_| Duration::ZERO);
    let at = start + LOOK_UP_AFTER;
    let look_up = scheduler.next_batch(at, |_| Permission::Send).unwrap();
    assert!(look_up.is_look_up);
    scheduler.record_batch_end(&look_up);
    (scheduler, look_up, at)
}

#[test]
fn an_event_that_was_looked_up_is_sent_next() {
    let (mut scheduler, _, at) = looking_up();
    assert_eq!(next(&mut scheduler, at), [""; 0]);
    scheduler.push(event("b", 1, "q", 1), 0, false, at);
    scheduler.resume([reference("a", 1)].iter(), at);
    let batch = scheduler.next_batch(at, |_| Permission::Send).unwrap();
    assert!(!batch.is_look_up);
    assert_eq!(names(Some(batch)), ["a:1", "b:1"]);
}

#[test]
fn a_look_up_does_not_apply_to_an_event_that_was_dispatched_since() {
    let (mut scheduler, look_up, at) = looking_up();
    let dispatched = reference("a", 1);
    scheduler.push(event("a", 1, "q", 1), 1, true, at);
    assert!(
        !scheduler.is_newer(&dispatched, &look_up),
        "at the same moment"
    );
    let later = at + Duration::from_millis(1);
    scheduler.push(event("a", 1, "q", 1), 2, true, later);
    assert!(scheduler.is_newer(&dispatched, &look_up));
}
