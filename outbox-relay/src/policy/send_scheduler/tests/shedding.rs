//! Events that are deferred while their queue does not accept them.

use super::*;

const BUFFER_KIB: usize = 80;

/// Fails the queue `down` for ten seconds, and returns the time of the last failure.
fn fail_for_ten_seconds(scheduler: &mut SendScheduler<u32>) -> Instant {
    let now = Instant::now();
    push(scheduler, event("probe", 1, "down", 1), 99);
    for at in [now, now + DEFER_AFTER] {
        let batch = scheduler.next_batch(at, |_| Permission::Send).unwrap();
        scheduler.retry(&reference("probe", 1), None, false, at);
        scheduler.record_batch_failure(&batch, at, |_| Duration::from_secs(1));
    }
    now + DEFER_AFTER
}

fn shed_excess(scheduler: &mut SendScheduler<u32>, now: Instant) -> Vec<String> {
    let excess = scheduler.excess(now, BUFFER_KIB);
    let shed = excess.iter().flat_map(|first| scheduler.shed(first, now));
    shed.map(|shed| shed.event.event_id.clone()).collect()
}

#[test]
fn an_impaired_queue_keeps_the_aggregates_that_came_first_within_a_quarter_of_the_buffer() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for n in 0..20 {
        push(&mut scheduler, event(&format!("a{n:02}"), 1, "down", 1), 0);
    }
    push(&mut scheduler, event("b", 1, "up", 1), 0);
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert_eq!(shed_excess(&mut scheduler, now), [""; 0], "healthy");
    for outgoing in &batch.events {
        scheduler.retry(&EventRef::of(&outgoing.event), None, false, now);
    }
    scheduler.record_batch_failure(&batch, now, |_| Duration::from_secs(1));
    let expected: Vec<_> = (10..20).map(|n| format!("a{n}:1")).collect();
    assert_eq!(shed_excess(&mut scheduler, now), expected);
    assert_eq!(shed_excess(&mut scheduler, now), [""; 0]);
    assert_eq!(next(&mut scheduler, now), ["b:1"]);
}

#[test]
fn selected_events_of_an_impaired_queue_are_shed_within_its_share() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for (ack, aggregate_id) in [(1, "a"), (2, "b"), (1, "c"), (1, "d")] {
        let queue = if aggregate_id == "d" { "up" } else { "down" };
        push(&mut scheduler, event(aggregate_id, 1, queue, 1), ack);
    }
    let selected = |scheduler: &SendScheduler<u32>| scheduler.impaired(now, |ack| *ack == 1);
    assert_eq!(selected(&scheduler), [], "healthy");
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    assert_eq!(batch.queue, QueueRef::new("down"));
    for outgoing in &batch.events {
        scheduler.retry(&EventRef::of(&outgoing.event), None, false, now);
    }
    scheduler.record_batch_failure(&batch, now, |_| Duration::from_secs(1));
    assert_eq!(shed_excess(&mut scheduler, now), [""; 0]);
    assert_eq!(selected(&scheduler), [reference("a", 1), reference("c", 1)]);
}

#[test]
fn all_waiting_events_of_an_aggregate_are_shed_together_whatever_their_queue() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    push(&mut scheduler, event("a", 1, "down", 1), 1);
    push(&mut scheduler, event("a", 2, "up", 1), 2);
    push(&mut scheduler, event("b", 1, "up", 1), 3);
    let first = reference("a", 1);
    let acks: Vec<_> = scheduler.waiting_acks(&first).copied().collect();
    assert_eq!(acks, [1, 2]);
    assert_eq!(
        shed_excess(&mut scheduler, now),
        ["a:1", "a:2", "probe:1"],
        "also the failed probe"
    );
    assert_eq!(next(&mut scheduler, now), ["b:1"]);
}

#[test]
fn a_queue_that_fails_for_ten_seconds_keeps_nothing_but_a_probe() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    push(&mut scheduler, event("a", 1, "down", 1), 1);
    assert!(scheduler.next_batch(now, |_| Permission::Send).is_none());
    assert_eq!(shed_excess(&mut scheduler, now), ["a:1"], "it is blocked");
    let later = now + Duration::from_secs(1);
    push(&mut scheduler, event("b", 1, "down", 1), 1);
    let probe = scheduler.next_batch(later, |_| Permission::Send).unwrap();
    push(&mut scheduler, event("c", 1, "down", 1), 1);
    assert_eq!(shed_excess(&mut scheduler, later), ["c:1"]);
    let down = QueueRef::new("down");
    assert_eq!(
        scheduler.reports(later, BUFFER_KIB)[&down].health,
        QueueHealth::Deferring
    );
    scheduler.record_sent(&reference("b", 1), later);
    scheduler.record_batch_success(&probe);
    push(&mut scheduler, event("d", 1, "down", 1), 1);
    assert_eq!(shed_excess(&mut scheduler, later), [""; 0]);
    assert_eq!(
        scheduler.reports(later, BUFFER_KIB)[&down].health,
        QueueHealth::Healthy
    );
}

#[test]
fn one_batch_of_events_from_the_table_may_wait_for_an_impaired_queue() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    let down = QueueRef::new("down");
    assert!(!scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch);
    for sequence in 1..=12 {
        scheduler.push(event("a", sequence, "down", 1), 0, true, now);
    }
    assert_eq!(
        shed_excess(&mut scheduler, now),
        ["a:11", "a:12"],
        "the later ones of the aggregate"
    );
    assert!(scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch);
    let later = now + Duration::from_secs(1);
    assert_eq!(next(&mut scheduler, later), ["a:1"], "it is the probe");
}

#[test]
fn impaired_queues_leave_half_of_the_table_events_in_the_buffer_to_the_others() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    let down = QueueRef::new("down");
    let has_table_batch = |scheduler: &mut SendScheduler<u32>| {
        scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch
    };
    // 6 KiB each, of 10 KiB, or 20 KiB at most.
    let large = 5 * 1_024;
    scheduler.push(event("a", 1, "down", large), 0, true, now);
    assert!(!has_table_batch(&mut scheduler));
    for (aggregate_id, sequence) in [("a", 2), ("a", 3), ("a", 4), ("b", 1)] {
        scheduler.push(event(aggregate_id, sequence, "down", large), 0, true, now);
    }
    scheduler.push(event("c", 1, "up", large), 0, true, now);
    assert_eq!(shed_excess(&mut scheduler, now), ["a:4", "b:1"]);
    assert!(has_table_batch(&mut scheduler));
    assert_eq!(shed_excess(&mut scheduler, now), [""; 0]);
}

#[test]
fn one_event_from_the_table_waits_for_an_impaired_queue_whatever_its_size() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    for sequence in 1..=2 {
        let large = event("a", sequence, "down", BUFFER_KIB * 1_024);
        scheduler.push(large, 0, true, now);
    }
    assert_eq!(shed_excess(&mut scheduler, now), ["a:2"]);
}

#[test]
fn an_event_without_a_route_is_shed_at_once_and_never_sent() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    let mut unrouted = event("a", 1, "q", 1);
    Arc::make_mut(&mut unrouted).queue = QueueRef::unrouted();
    push(&mut scheduler, unrouted, 1);
    push(&mut scheduler, event("a", 2, "q", 1), 2);
    assert!(scheduler.next_batch(now, |_| Permission::Send).is_none());
    assert_eq!(shed_excess(&mut scheduler, now), ["a:1", "a:2"]);
    assert!(scheduler.aggregates.is_empty());
}

#[test]
fn an_aggregate_with_an_event_that_is_not_in_the_index_stays() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    let mut unindexed = event("a", 2, "down", 1);
    Arc::make_mut(&mut unindexed).is_deferrable = false;
    push(&mut scheduler, event("a", 1, "down", 1), 1);
    push(&mut scheduler, unindexed, 2);
    assert_eq!(shed_excess(&mut scheduler, now), ["probe:1"]);
    assert_eq!(scheduler.shed(&reference("a", 1), now).len(), 0);
    let later = now + Duration::from_secs(1);
    assert_eq!(next(&mut scheduler, later), ["a:1"]);
}

#[test]
fn a_request_without_an_answer_for_a_second_impairs_its_queue() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 0);
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    let slow = now + Duration::from_secs(1);
    assert_eq!(scheduler.next_change(now), Some(slow));
    let health = |scheduler: &mut SendScheduler<u32>| {
        scheduler.reports(slow, BUFFER_KIB)[&QueueRef::new("q")].health
    };
    assert_eq!(health(&mut scheduler), QueueHealth::Impaired);
    scheduler.record_batch_success(&batch);
    assert_eq!(health(&mut scheduler), QueueHealth::Healthy);
    assert_eq!(scheduler.next_change(now), None);
}

#[test]
fn an_event_that_fails_alone_is_timed_from_its_first_failure() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    push(&mut scheduler, event("a", 1, "q", 1), 0);
    let failing = reference("a", 1);
    assert_eq!(scheduler.record_own_failure(&failing, now), Duration::ZERO);
    let later = now + DEFER_AFTER;
    assert_eq!(scheduler.record_own_failure(&failing, later), DEFER_AFTER);
    let shed = scheduler.shed(&failing, later);
    assert_eq!(shed.len(), 1);
    assert!(!shed[0].is_from_table);
}

#[test]
fn no_event_waits_behind_the_probes_of_a_queue_that_fails() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    let later = now + Duration::from_secs(1);
    scheduler.push(event("a", 1, "down", 1), 0, true, later);
    push(&mut scheduler, event("a", 2, "up", 1), 0);
    scheduler.push(event("b", 1, "down", 1), 0, true, later);
    scheduler.push(event("b", 2, "up", 1), 0, true, later);
    let probe = scheduler.next_batch(later, |_| Permission::Send).unwrap();
    assert_eq!(probe.queue.name(), "down");
    assert_eq!(shed_excess(&mut scheduler, later), [""; 0]);
    for aggregate in ["a", "b"] {
        scheduler.retry(&reference(aggregate, 1), None, false, later);
    }
    scheduler.record_batch_failure(&probe, later, |_| Duration::from_secs(1));
    assert_eq!(
        scheduler.behind_probes(&probe, later),
        [reference("a", 2), reference("b", 2)],
        "the probes themselves stay"
    );
}

#[test]
fn events_wait_behind_an_event_of_a_queue_that_fails_for_a_moment() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    scheduler.push(event("a", 1, "down", 1), 0, true, now);
    push(&mut scheduler, event("a", 2, "up", 1), 0);
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    scheduler.retry(&reference("a", 1), None, false, now);
    scheduler.record_batch_failure(&batch, now, |_| Duration::from_secs(1));
    assert_eq!(scheduler.behind_probes(&batch, now), []);
}

#[test]
fn any_number_of_events_from_the_table_may_wait_for_a_healthy_queue() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for sequence in 1..=12 {
        scheduler.push(event("a", sequence, "up", 1), 0, true, now);
    }
    let up = QueueRef::new("up");
    assert!(!scheduler.reports(now, BUFFER_KIB)[&up].has_table_batch);
}

#[test]
fn events_of_other_queues_do_not_count_towards_the_limit_of_an_impaired_one() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    for sequence in 1..=12 {
        let queue = if sequence <= 8 { "up" } else { "down" };
        scheduler.push(event("a", sequence, queue, 1), 0, true, now);
    }
    for sequence in 1..=7 {
        scheduler.push(event("b", sequence, "down", 1), 0, true, now);
    }
    assert_eq!(shed_excess(&mut scheduler, now), ["b:7"]);
}

#[test]
fn impaired_queues_share_the_capacity_for_events_from_the_table() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    shed_excess(&mut scheduler, now);
    let down = QueueRef::new("down");
    // 6 KiB, of 10 KiB for one impaired queue, or of 5 KiB for each of two.
    scheduler.push(event("a", 1, "down", 5 * 1_024), 0, true, now);
    assert!(!scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch);
    push(&mut scheduler, event("other", 1, "other", 1), 0);
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    scheduler.record_batch_failure(&batch, now, |_| Duration::from_secs(1));
    assert!(scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch);
}

#[test]
fn events_from_the_table_that_were_sent_do_not_count_towards_the_limit() {
    let mut scheduler = SendScheduler::default();
    let now = Instant::now();
    for n in 0..MAX_BATCH {
        scheduler.push(event(&format!("a{n}"), 1, "down", 1), 0, true, now);
    }
    let batch = scheduler.next_batch(now, |_| Permission::Send).unwrap();
    scheduler.record_batch_success(&batch);
    for n in 0..MAX_BATCH {
        scheduler.record_sent(&reference(&format!("a{n}"), 1), now);
    }
    let now = fail_for_ten_seconds(&mut scheduler);
    let down = QueueRef::new("down");
    assert!(!scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch);
}

#[test]
fn events_that_were_also_read_from_the_stream_do_not_count_as_from_the_table() {
    let mut scheduler = SendScheduler::default();
    let now = fail_for_ten_seconds(&mut scheduler);
    let down = QueueRef::new("down");
    let mut has_table_batch = |is_from_table| {
        for n in 0..MAX_BATCH {
            let event = event(&format!("a{n}"), 1, "down", 1);
            scheduler.push(event, 0, is_from_table, now);
        }
        scheduler.reports(now, BUFFER_KIB)[&down].has_table_batch
    };
    assert!(has_table_batch(true));
    assert!(has_table_batch(true));
    assert!(!has_table_batch(false));
    assert!(!has_table_batch(true));
}
