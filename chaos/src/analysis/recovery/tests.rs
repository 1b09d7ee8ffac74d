use super::super::super::checkers::fixture;
use super::super::super::history::{CloudService, ShardReader, StreamRecord};
use super::*;

fn of_relays(history: &History) -> Vec<(u64, Option<u64>, Option<String>)> {
    recoveries(history)
        .into_iter()
        .filter(|one| one.trigger == Trigger::RelayKilled)
        .map(|one| (one.at, one.took_ms, one.disturbed_by))
        .collect()
}

#[test]
fn a_takeover_ends_when_the_event_that_waited_longest_is_accepted() {
    assert_eq!(of_relays(&fixture::valid()), [(10_000, Some(3_405), None)]);
    let mut history = fixture::valid();
    history.steps[2].at = 12_000;
    assert_eq!(of_relays(&history), [(10_000, Some(1_405), None)]);
    // A publish of this event does not show that the one that had waited longer is published.
    let mut waiting = history.steps[2].clone();
    waiting.at = 9_990;
    waiting.aggregate_id = "steps-2".to_owned();
    waiting.sequence = 1;
    history.steps.push(waiting);
    history
        .publishes
        .push(fixture::publish("relay-2", 15_000, "steps-2", 1));
    assert_eq!(of_relays(&history), [(10_000, Some(5_005), None)]);
}

#[test]
fn a_relay_without_a_shard_has_no_takeover() {
    let mut history = fixture::valid();
    history.readers = vec![fixture::reader(300, "relay-2")];
    assert_eq!(of_relays(&history), []);
}

#[test]
fn events_of_another_shard_do_not_end_a_takeover() {
    let mut history = fixture::valid();
    history.readers.insert(
        0,
        ShardReader {
            shard: "shard-2".to_owned(),
            ..fixture::reader(200, "relay-2")
        },
    );
    // It had waited longest and was sent at once, from the shard of the live relay.
    let mut elsewhere = history.steps[2].clone();
    elsewhere.at = 9_980;
    elsewhere.aggregate_id = "steps-2".to_owned();
    elsewhere.sequence = 1;
    history.steps.push(elsewhere);
    let publish = fixture::publish("relay-2", 10_001, "steps-2", 1);
    let at = history.publishes.partition_point(|one| one.at < publish.at);
    history.publishes.insert(at, publish);
    history.records.push(StreamRecord {
        at: 10_000,
        shard: "shard-2".to_owned(),
        aggregate_id: "steps-2".to_owned(),
        sequence: 1,
        trimmed: false,
    });
    assert_eq!(of_relays(&history), [(10_000, Some(3_405), None)]);
    // The killed relay read both shards: the slower one counts.
    history.readers[0].relay = "relay-1".to_owned();
    assert_eq!(of_relays(&history), [(10_000, Some(3_405), None)]);
}

#[test]
fn events_left_to_the_sweeper_are_not_counted() {
    let mut history = fixture::valid();
    let trimmed = |one: &mut StreamRecord| one.trimmed = one.sequence == 3;
    history.records.iter_mut().for_each(trimmed);
    for record in &mut history.records {
        record.at = record.at.min(5_000);
    }
    assert_eq!(of_relays(&history), []);
}

#[test]
fn time_without_a_waiting_event_is_not_counted() {
    let mut history = fixture::valid();
    // The event in flight is not repeated, and the next one is committed late.
    history
        .publishes
        .retain(|one| one.relay == "relay-1" || one.event_id == "steps:3");
    history.steps[2].at = 13_000;
    assert_eq!(of_relays(&history), [(10_000, Some(405), None)]);
}

#[test]
fn a_backlog_is_a_disturbance() {
    let mut history = fixture::valid();
    history.steps[2].at = 8_945;
    let disturbed = Some("a backlog of 1055 ms".to_owned());
    assert_eq!(of_relays(&history), [(10_000, Some(3_405), disturbed)]);
}

#[test]
fn a_takeover_needs_another_relay() {
    let mut history = fixture::valid();
    let successor = history
        .lives
        .iter_mut()
        .find(|life| life.process == "relay-2");
    successor.expect("it is in the valid history").ready = Some(11_000);
    let disturbed = Some("no other relay".to_owned());
    assert_eq!(of_relays(&history), [(10_000, Some(3_405), disturbed)]);
}

#[test]
fn an_event_that_is_committed_long_after_an_outage_is_not_counted() {
    let mut history = fixture::valid();
    let mut outage = fixture::fault(10_500, FaultKind::Outage, "", CloudService::Sqs);
    outage.process = None;
    outage.until = Some(11_000);
    history.faults.push(outage);
    let of_outages = |history: &History| -> Vec<Option<u64>> {
        let all = recoveries(history).into_iter();
        let of_outages = all.filter(|one| one.trigger == Trigger::Outage);
        of_outages.map(|one| one.took_ms).collect()
    };
    let took = of_outages(&history);
    assert_eq!(took.len(), 1);
    // In a shard of its own, which was created meanwhile.
    let mut late = history.steps[2].clone();
    late.at = 20_000;
    late.aggregate_id = "steps-2".to_owned();
    late.sequence = 1;
    history.steps.push(late);
    let publish = fixture::publish("relay-2", 50_000, "steps-2", 1);
    history.publishes.push(publish);
    history.records.push(StreamRecord {
        at: 49_000,
        shard: "shard-2".to_owned(),
        aggregate_id: "steps-2".to_owned(),
        sequence: 1,
        trimmed: false,
    });
    history.readers.push(ShardReader {
        shard: "shard-2".to_owned(),
        ..fixture::reader(49_000, "relay-2")
    });
    assert_eq!(of_outages(&history), took);
}
