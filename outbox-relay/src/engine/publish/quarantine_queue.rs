//! Quarantines the events that can never be sent as they are.
//!
//! They wait in line, with a few requests in flight: a producer of nothing but
//! bad events must not take up the connections that good ones need.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::health::table_health::Trouble;
use crate::engine::publish::publisher::{Done, InFlight, Publisher};
use crate::engine::shard_state::{self, Ack};
use crate::policy::backoff;
use crate::policy::record_classifier::Rejected;
use crate::policy::send_scheduler::{EventRef, Outgoing, Permission};
use crate::ports::{MarkOutcome, Quarantine, TableError};

/// Requests in flight.
const MAX_REQUESTS: usize = 16;

/// An event to be quarantined, and what waits for it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) request: Quarantine,
    pub(crate) rejected: Rejected,
    pub(crate) acks: Vec<Ack>,
}

/// The line. Its length is bounded by the room that each of its events takes.
#[derive(Debug)]
pub(crate) struct Quarantines {
    waiting: VecDeque<Case>,
    in_flight: usize,
    /// Failures in a row.
    failures: u32,
    blocked_until: Option<Instant>,
    trouble: Trouble,
}

impl Quarantines {
    pub(crate) fn new(trouble: Trouble) -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: 0,
            failures: 0,
            blocked_until: None,
            trouble,
        }
    }

    pub(crate) fn push(&mut self, case: Case) {
        self.waiting.push_back(case);
    }

    /// The next to ask for; it must be answered with
    /// [`Quarantines::went_through`] or [`Quarantines::failed`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<Case> {
        let blocked = self.blocked_until.is_some_and(|until| now < until);
        // While the table is away, one request finds out whether it is back.
        let most = if self.failures > 0 { 1 } else { MAX_REQUESTS };
        if blocked || self.in_flight >= most {
            return None;
        }
        while let Some(case) = self.waiting.pop_front() {
            if shard_state::permission(&case.acks, now) != Permission::Never {
                self.in_flight += 1;
                return Some(case);
            }
        }
        if self.in_flight == 0 {
            self.trouble.over();
        }
        None
    }

    pub(crate) fn went_through(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = 0;
        self.blocked_until = None;
        self.trouble.over();
    }

    /// Tried again after `delay`, which is given the number of failures in a
    /// row.
    pub(crate) fn failed(
        &mut self,
        case: Case,
        reason: String,
        now: Instant,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = self.failures.saturating_add(1);
        self.blocked_until = Some(now + delay(self.failures));
        self.trouble.because(reason, now);
        self.waiting.push_front(case);
    }

    /// Forgets what was read from shards that are closed: their next owner
    /// reads it again.
    pub(crate) fn forget_lost(&mut self, now: Instant) {
        self.waiting
            .retain(|case| shard_state::permission(&case.acks, now) != Permission::Never);
    }

    /// When to go on after a failure.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.blocked_until.filter(|until| *until > now)
    }
}

impl Publisher {
    /// The queue says that it will never take the message.
    pub(crate) fn reject(
        &mut self,
        in_flight: &mut InFlight,
        outgoing: &Outgoing,
        failure: String,
    ) {
        let event = &outgoing.event;
        let acks = self.schedule.rejected(&EventRef::of(event));
        let rejected = Rejected {
            key: event.key.clone(),
            reason: "refused_by_queue",
            failure,
            trace_id: event.trace.trace_id(),
        };
        self.quarantine(in_flight, rejected, acks, outgoing.attempt);
    }

    /// `attempts`: how often it was sent in vain.
    pub(crate) fn quarantine(
        &mut self,
        in_flight: &mut InFlight,
        rejected: Rejected,
        acks: Vec<Ack>,
        attempts: u64,
    ) {
        let request = Quarantine {
            key: rejected.key.clone(),
            failed_at: (self.config.clock)(),
            failure: rejected.failure.clone(),
            attempts,
        };
        in_flight.quarantines.push(Case {
            request,
            rejected,
            acks,
        });
    }

    pub(crate) fn start_quarantines(&mut self, in_flight: &mut InFlight, now: Instant) {
        while let Some(case) = in_flight.quarantines.next(now) {
            let outbox = Arc::clone(&self.ports.outbox);
            in_flight.tasks.spawn(async move {
                let answer = outbox.quarantine(&case.request).await;
                Done::Quarantined { case, answer }
            });
        }
    }

    /// Tried until it is written, as the checkpoint waits for it; but a stop
    /// does not wait for a table that is away.
    pub(crate) fn quarantine_answered(
        &mut self,
        quarantines: &mut Quarantines,
        case: Case,
        answer: Result<MarkOutcome, TableError>,
        now: Instant,
    ) {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(error) => {
                self.metrics.retried("quarantine", 1);
                tracing::warn!(%error, "an event could not be quarantined; trying again");
                let random = &mut self.random;
                quarantines.failed(case, error.to_string(), now, |failures| {
                    backoff::delay(failures, random.f64())
                });
                return;
            }
        };
        quarantines.went_through();
        let rejected = case.rejected;
        let (aggregate_id, sequence) = (&rejected.key.aggregate_id, &rejected.key.sequence);
        match outcome {
            MarkOutcome::Marked => {
                self.metrics.quarantined(rejected.reason);
                self.status.quarantined((self.config.clock)());
                tracing::error!(
                    aggregate_id,
                    sequence,
                    reason = rejected.reason,
                    failure = rejected.failure,
                    trace_id = rejected.trace_id,
                    "event quarantined: it can never be sent as it is"
                );
            }
            MarkOutcome::Impossible => tracing::error!(
                aggregate_id,
                sequence,
                reason = rejected.reason,
                failure = rejected.failure,
                trace_id = rejected.trace_id,
                "an event can never be sent as it is, and its item can not be written"
            ),
            // Read again, most often.
            MarkOutcome::NotPending | MarkOutcome::TryAgain => tracing::info!(
                aggregate_id,
                sequence,
                reason = rejected.reason,
                "an event that can never be sent as it is was settled already"
            ),
        }
        case.acks.into_iter().for_each(Ack::done);
    }
}
