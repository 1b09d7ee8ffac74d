//! Events between the outbox and their consumers: none is lost, none is left.

use std::collections::{HashMap, HashSet};

use super::super::history::{History, OutboxRow};
use super::{Findings, Invariant};

pub(super) fn nothing_lost(history: &History, found: &mut Findings) {
    let mut wrong = |at: Option<u64>, what: String| found.add(Invariant::NothingLost, at, what);
    let rows: HashMap<&str, &OutboxRow> = history
        .end
        .outbox
        .iter()
        .map(|row| (row.event_id.as_str(), row))
        .collect();
    for step in &history.steps {
        if !rows.contains_key(step.event_id.as_str()) {
            wrong(
                Some(step.at),
                format!(
                    "event {} was committed and is not in the outbox",
                    step.event_id
                ),
            );
        }
    }
    let published: HashSet<&str> = ids(history.publishes.iter().map(|one| &one.event_id));
    let delivered: HashSet<&str> = ids(history.deliveries.iter().map(|one| &one.event_id));
    for row in &history.end.outbox {
        let id = row.event_id.as_str();
        match row.status.as_str() {
            // Whether it should have been published by now is another question.
            "PENDING" => {}
            "PUBLISHED" if !published.contains(id) => {
                wrong(
                    None,
                    format!("event {id} is marked PUBLISHED and no queue took it"),
                );
            }
            "PUBLISHED" if !delivered.contains(id) => {
                wrong(
                    None,
                    format!("event {id} was published and never delivered"),
                );
            }
            "PUBLISHED" => {}
            "FAILED" => wrong(None, format!("event {id} was quarantined")),
            other => wrong(None, format!("event {id} has the status {other}")),
        }
    }
    for publish in &history.publishes {
        let same = |row: &&OutboxRow| {
            row.aggregate_id == publish.aggregate_id && row.sequence == publish.sequence
        };
        if rows
            .get(publish.event_id.as_str())
            .is_none_or(|row| !same(row))
        {
            wrong(
                Some(publish.at),
                format!(
                    "event {} was published and is not in the outbox",
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
                    "event {} was delivered and no queue had taken it",
                    delivery.event_id
                ),
            );
        }
    }
}

fn ids<'a>(ids: impl Iterator<Item = &'a String>) -> HashSet<&'a str> {
    ids.map(String::as_str).collect()
}

pub(super) fn drained(history: &History, found: &mut Findings) {
    let mut wrong = |what: String| found.add(Invariant::Drained, None, what);
    let limit = history.settings.drain_limit_ms;
    match history.end.drained_after_ms {
        Some(took) if took <= limit => {}
        Some(took) => wrong(format!(
            "it took {took} ms to drain, and {limit} are allowed"
        )),
        None => wrong(format!("it was not drained after {limit} ms")),
    }
    for row in history
        .end
        .outbox
        .iter()
        .filter(|row| row.status == "PENDING")
    {
        wrong(format!("event {} is still PENDING", row.event_id));
    }
    for (queue, &count) in &history.end.left_in_queues {
        if count > 0 {
            wrong(format!("{count} messages are left in {queue}"));
        }
    }
}

pub(super) fn dead_letters(history: &History, found: &mut Findings) {
    for letter in &history.end.dead_letters {
        let what = letter
            .event_id
            .as_deref()
            .unwrap_or("a message without an event id");
        found.add(
            Invariant::DeadLetters,
            None,
            format!("{what} is in {}", letter.queue),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{caught, publish};
    use super::*;
    use crate::history::DeadLetter;

    #[test]
    fn an_event_that_no_queue_took_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            history.publishes.retain(|one| one.event_id != "o-1:1");
            history.deliveries.retain(|one| one.event_id != "o-1:1");
        });
    }

    #[test]
    fn an_event_that_was_never_delivered_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            history.deliveries.retain(|one| one.event_id != "o-1:1");
        });
    }

    #[test]
    fn a_quarantined_event_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            history.end.outbox[5].status = "FAILED".to_owned();
        });
    }

    #[test]
    fn a_committed_event_that_vanished_from_the_outbox_is_caught() {
        // Once for the commit, and once for its publish.
        caught(Invariant::NothingLost, 2, |history| {
            history.end.outbox.remove(5);
        });
    }

    #[test]
    fn an_invented_event_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            history
                .publishes
                .push(publish("relay-2", 90_000, "ghost", 1));
        });
    }

    #[test]
    fn an_event_published_as_another_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            let publish = history
                .publishes
                .iter_mut()
                .find(|one| one.event_id == "o-1:1");
            publish.expect("it is in the valid history").sequence = 7;
        });
    }

    #[test]
    fn a_delivery_of_what_no_queue_took_is_caught() {
        caught(Invariant::NothingLost, 1, |history| {
            let mut delivery = history.deliveries[0].clone();
            delivery.event_id = "ghost:1".to_owned();
            history.deliveries.push(delivery);
        });
    }

    #[test]
    fn what_is_left_pending_is_caught() {
        caught(Invariant::Drained, 1, |history| {
            history.end.outbox[4].status = "PENDING".to_owned();
        });
    }

    #[test]
    fn what_is_left_in_a_queue_is_caught() {
        caught(Invariant::Drained, 1, |history| {
            history
                .end
                .left_in_queues
                .insert("chaos-events".to_owned(), 1);
        });
    }

    #[test]
    fn draining_for_too_long_is_caught() {
        for took in [Some(30_001), None] {
            caught(Invariant::Drained, 1, |history| {
                history.end.drained_after_ms = took;
            });
        }
    }

    #[test]
    fn a_dead_letter_is_caught() {
        for event_id in [Some("o-1:1".to_owned()), None] {
            caught(Invariant::DeadLetters, 1, |history| {
                history.end.dead_letters.push(DeadLetter {
                    queue: "order-events-dlq".to_owned(),
                    event_id,
                });
            });
        }
    }
}
