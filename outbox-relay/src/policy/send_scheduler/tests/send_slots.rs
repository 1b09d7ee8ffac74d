use super::*;

/// Takes batches until none may be sent, and returns their number for each queue.
fn take_batches(scheduler: &mut SendScheduler<u32>, now: Instant) -> BTreeMap<String, usize> {
    let mut batches = BTreeMap::new();
    while let Some(batch) = scheduler.next_batch(now, |_| Permission::Send) {
        *batches.entry(batch.queue.to_string()).or_default() += 1;
    }
    batches
}

fn push_many(scheduler: &mut SendScheduler<u32>, queue: &str, count: usize) {
    for n in 0..count {
        push(scheduler, event(&format!("{queue}{n:03}"), 1, queue, 1), 0);
    }
}

#[test]
fn a_slow_queue_leaves_slots_to_another_that_was_active_a_moment_ago() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("fast", 1, "fast", 1), 0);
    assert_eq!(next(&mut scheduler, now), ["fast:1"]);
    scheduler.record_sent(&reference("fast", 1), now);
    push_many(&mut scheduler, "slow", 200);
    let expected = BTreeMap::from([("slow".to_owned(), 12)]);
    assert_eq!(take_batches(&mut scheduler, now), expected);
    push(&mut scheduler, event("fast", 2, "fast", 1), 0);
    assert_eq!(next(&mut scheduler, now), ["fast:2"]);
}

#[test]
fn a_queue_with_a_request_in_flight_is_active_however_long_the_request_takes() {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    push(&mut scheduler, event("a", 1, "hanging", 1), 0);
    let hanging = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    let later = start + Duration::from_secs(60);
    push_many(&mut scheduler, "busy", 200);
    let expected = BTreeMap::from([("busy".to_owned(), 12)]);
    assert_eq!(take_batches(&mut scheduler, later), expected);
    scheduler.record_batch_success(&hanging);
    let expected = BTreeMap::from([("busy".to_owned(), 4)]);
    assert_eq!(take_batches(&mut scheduler, later), expected);
}

#[test]
fn requests_to_healthy_queues_do_not_count_against_an_impaired_one() {
    let mut scheduler = SendScheduler::default();
    let start = Instant::now();
    push(&mut scheduler, event("a", 1, "failing", 1), 0);
    let batch = scheduler.next_batch(start, |_| Permission::Send).unwrap();
    scheduler.retry(&reference("a", 1), None, false, start);
    scheduler.record_batch_failure(&batch, start, |_| Duration::from_secs(1));
    push_many(&mut scheduler, "healthy", 200);
    let expected = BTreeMap::from([("healthy".to_owned(), 12)]);
    let before = start + Duration::from_millis(500);
    assert_eq!(take_batches(&mut scheduler, before), expected);
    let probed_at = start + Duration::from_secs(1);
    let expected = BTreeMap::from([("failing".to_owned(), 1)]);
    assert_eq!(take_batches(&mut scheduler, probed_at), expected);
}

#[test]
fn a_queue_alone_has_all_slots() {
    let mut scheduler = SendScheduler::default();
    push_many(&mut scheduler, "only", 200);
    let expected = BTreeMap::from([("only".to_owned(), MAX_SENDS)]);
    assert_eq!(take_batches(&mut scheduler, Instant::now()), expected);
}
