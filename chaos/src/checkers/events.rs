//! Checks the events between the outbox and their consumers: none is lost, none is pending at the
//! end.

use std::collections::{HashMap, HashSet};

use super::super::history::{History, StoredEvent};
use super::{Findings, Invariant};

/// Checks that every event was published and delivered, and that only events of the outbox were.
pub(super) fn nothing_lost(history: &History, found: &mut Findings) {
    let mut wrong = |at: Option<u64>, what: String| found.add(Invariant::NothingLost, at, what);
    let stored: HashMap<&str, &StoredEvent> = history
        .end
        .outbox
        .iter()
        .map(|event| (event.event_id.as_str(), event))
        .collect();
    for step in &history.steps {
        if !stored.contains_key(step.event_id.as_str()) {
            wrong(
                Some(step.at),
                format!(
                    "event {} was committed and is missing in the outbox",
                    step.event_id
                ),
            );
        }
    }
    let published: HashSet<&str> = ids(history.publishes.iter().map(|one| &one.event_id));
    let delivered: HashSet<&str> = ids(history.deliveries.iter().map(|one| &one.event_id));
    for event in &history.end.outbox {
        let id = event.event_id.as_str();
        match event.status.as_str() {
            // Checked by `drained`.
            "PENDING" => {}
            "PUBLISHED" if !published.contains(id) => {
                wrong(
                    None,
                    format!("event {id} is marked PUBLISHED, and no queue accepted it"),
                );
            }
            "PUBLISHED" if !delivered.contains(id) => {
                wrong(
                    None,
                    format!("event {id} was published and not delivered to any consumer"),
                );
            }
            "PUBLISHED" => {}
            "FAILED" => wrong(
                None,
                format!("event {id} is FAILED: a relay quarantined it"),
            ),
            other => wrong(
                None,
                format!("event {id} has the status {other}; expected is PUBLISHED"),
            ),
        }
    }
    for publish in &history.publishes {
        let same = |event: &&StoredEvent| {
            event.aggregate_id == publish.aggregate_id && event.sequence == publish.sequence
        };
        if stored
            .get(publish.event_id.as_str())
            .is_none_or(|event| !same(event))
        {
            wrong(
                Some(publish.at),
                format!(
                    "event {} was published, and the outbox has no event with its id, aggregate and sequence",
                    publish.event_id
                ),
            );
        }
    }
    for delivery in &history.deliveries {
        if !published.contains(delivery.event_id.as_str()) {
            wrong(
                Some(delivery.at),
                format!(
                    "event {} was delivered, and no queue had accepted it from a relay",
                    delivery.event_id
                ),
            );
        }
    }
}

fn ids<'a>(ids: impl Iterator<Item = &'a String>) -> HashSet<&'a str> {
    ids.map(String::as_str).collect()
}

/// Checks that the outbox and the queues were drained within the limit.
pub(super) fn drained(history: &History, found: &mut Findings) {
    let mut wrong = |what: String| found.add(Invariant::Drained, None, what);
    let limit = history.settings.drain_limit_ms;
    match history.end.drained_after_ms {
        Some(took) if took <= limit => {}
        Some(took) => wrong(format!("draining took {took} ms; the limit is {limit} ms")),
        None => wrong(format!("the system was not drained within {limit} ms")),
    }
    for event in history
        .end
        .outbox
        .iter()
        .filter(|event| event.status == "PENDING")
    {
        wrong(format!(
            "event {} is PENDING after the drain",
            event.event_id
        ));
    }
    for (queue, &count) in &history.end.left_in_queues {
        if count > 0 {
            wrong(format!(
                "{count} messages are in queue {queue} after the drain"
            ));
        }
    }
}

/// Checks that no message is in a dead-letter queue.
pub(super) fn dead_letters(history: &History, found: &mut Findings) {
    for letter in &history.end.dead_letters {
        let what = letter.event_id.as_deref().map_or_else(
            || "a message without an event id".to_owned(),
            |id| format!("event {id}"),
        );
        found.add(
            Invariant::DeadLetters,
            None,
            format!("{what} is in dead-letter queue {}", letter.queue),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_violations, publish};
    use super::*;
    use crate::history::DeadLetter;

    #[test]
    fn an_event_that_no_queue_accepted_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            history.publishes.retain(|one| one.event_id != "o-1:1");
            history.deliveries.retain(|one| one.event_id != "o-1:1");
        });
    }

    #[test]
    fn an_event_that_was_never_delivered_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            history.deliveries.retain(|one| one.event_id != "o-1:1");
        });
    }

    #[test]
    fn a_quarantined_event_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            history.end.outbox[5].status = "FAILED".to_owned();
        });
    }

    #[test]
    fn a_committed_event_missing_in_the_outbox_is_detected() {
        // One violation for the commit, one for the publish.
        assert_violations(Invariant::NothingLost, 2, |history| {
            history.end.outbox.remove(5);
        });
    }

    #[test]
    fn a_published_event_that_is_not_in_the_outbox_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            history
                .publishes
                .push(publish("relay-2", 90_000, "ghost", 1));
        });
    }

    #[test]
    fn an_event_published_with_another_sequence_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            let publish = history
                .publishes
                .iter_mut()
                .find(|one| one.event_id == "o-1:1");
            publish.expect("it is in the valid history").sequence = 7;
        });
    }

    #[test]
    fn a_delivery_of_an_event_that_no_queue_accepted_is_detected() {
        assert_violations(Invariant::NothingLost, 1, |history| {
            let mut delivery = history.deliveries[0].clone();
            delivery.event_id = "ghost:1".to_owned();
            history.deliveries.push(delivery);
        });
    }

    #[test]
    fn a_pending_event_is_detected() {
        assert_violations(Invariant::Drained, 1, |history| {
            history.end.outbox[4].status = "PENDING".to_owned();
        });
    }

    #[test]
    fn a_message_left_in_a_queue_is_detected() {
        assert_violations(Invariant::Drained, 1, |history| {
            history
                .end
                .left_in_queues
                .insert("chaos-events".to_owned(), 1);
        });
    }

    #[test]
    fn draining_beyond_the_limit_is_detected() {
        for took in [Some(30_001), None] {
            assert_violations(Invariant::Drained, 1, |history| {
                history.end.drained_after_ms = took;
            });
        }
    }

    #[test]
    fn a_dead_letter_is_detected() {
        for event_id in [Some("o-1:1".to_owned()), None] {
            assert_violations(Invariant::DeadLetters, 1, |history| {
                history.end.dead_letters.push(DeadLetter {
                    queue: "order-events-dlq".to_owned(),
                    event_id,
                });
            });
        }
    }
}
