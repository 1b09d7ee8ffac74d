use super::*;

/// Returns whether the batch with the event "a:1", of which a send failed at `failed_at`, is looked
/// up before it is sent again at `sent_at`. The event is pushed at 10 s. Times are in milliseconds.
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
