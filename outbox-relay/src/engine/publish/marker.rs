//! Marks events that are sent: the second half of rule 10.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::health::table_health::Trouble;
use crate::engine::publish::publisher::{Done, InFlight, Publisher};
use crate::engine::shard_state::Ack;
use crate::policy::backoff;
use crate::policy::send_scheduler::Mark;
use crate::ports::{EventKey, MarkOutcome, Published, TableError};

/// Requests in flight. Fewer than sends, so that each is full.
const MAX_REQUESTS: usize = 4;

/// Events remembered at least.
const REMEMBERED: usize = 2_000;

/// What was marked lately. An event can come twice within moments, from the
/// table because a later one waited for it, and then from the stream; a look at
/// the table between the two may be older than the first one's mark.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    // Two generations: when the young one is full, the old one is forgotten.
    young: HashSet<EventKey>,
    old: HashSet<EventKey>,
}

impl Marked {
    pub(crate) fn contains(&self, key: &EventKey) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }

    fn note(&mut self, key: EventKey) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

impl Publisher {
    pub(crate) fn start_marks(&mut self, in_flight: &mut InFlight, now: Instant) {
        while in_flight.marks < MAX_REQUESTS {
            let marks = self.schedule.next_marks(now, in_flight.marks == 0);
            if marks.is_empty() {
                return;
            }
            in_flight.marks += 1;
            let wall = (self.config.clock)();
            let retention = i64::try_from(self.config.retention.as_secs()).unwrap_or(i64::MAX);
            let published: Vec<_> = marks
                .iter()
                .map(|mark| Published {
                    key: mark.key.clone(),
                    message_id: mark.message_id.clone(),
                    published_at: mark.sent_at,
                    expires_at: wall.as_seconds().saturating_add(retention),
                })
                .collect();
            let outbox = Arc::clone(&self.ports.outbox);
            in_flight.tasks.spawn(async move {
                let answer = outbox.mark(&published).await;
                Done::Marked { marks, answer }
            });
        }
    }

    pub(crate) fn marks_answered(
        &mut self,
        trouble: &mut Trouble,
        marks: Vec<Mark>,
        answer: Result<Vec<MarkOutcome>, TableError>,
        now: Instant,
    ) {
        let outcomes = match answer {
            Ok(outcomes) => {
                // A permission that lacks is answered for each event.
                if outcomes
                    .iter()
                    .all(|outcome| *outcome == MarkOutcome::TryAgain)
                {
                    trouble.because("no event could be marked; the log says why".to_owned(), now);
                } else {
                    trouble.over();
                }
                outcomes
            }
            Err(error) => {
                self.metrics.retried("mark", marks.len() as u64);
                trouble.because(error.to_string(), now);
                tracing::warn!(%error, "published events could not be marked; trying again");
                Vec::new()
            }
        };
        let outcomes = outcomes
            .into_iter()
            .chain(std::iter::repeat(MarkOutcome::TryAgain));
        let mut again = false;
        for (mark, outcome) in marks.into_iter().zip(outcomes) {
            match outcome {
                MarkOutcome::Marked | MarkOutcome::NotPending | MarkOutcome::Impossible => {
                    if outcome == MarkOutcome::Impossible {
                        tracing::error!(
                            aggregate_id = mark.key.aggregate_id,
                            sequence = mark.key.sequence,
                            "an event is published, but its item can not be marked"
                        );
                    }
                    self.marked.note(mark.key);
                    self.schedule
                        .marked(&mark.event)
                        .into_iter()
                        .for_each(Ack::done);
                }
                MarkOutcome::TryAgain => {
                    again = true;
                    self.schedule.mark_again(mark.event);
                }
            }
        }
        self.schedule.marks_went(again, now, |failures| {
            backoff::delay(failures, self.random.f64())
        });
    }
}
