//! Outcomes of sends: marks, retries, isolates or quarantines the events of a batch (the "error
//! classes" rule).

use outbox::timestamp::Timestamp;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::marker::Mark;
use super::publisher::Publisher;
use super::sender::SendAnswer;
use crate::engine::crash;
use crate::engine::health::publish_history::PublishRecord;
use crate::engine::metrics::seconds_between;
use crate::policy::backoff;
use crate::policy::error_policy::{self, SendFailure};
use crate::policy::event_source::EventSource;
use crate::policy::record_classifier::Rejected;
use crate::policy::send_scheduler::{Batch, DEFER_AFTER, EventRef, Outgoing};
use crate::ports::{EntryFailure, SendError};
use crate::routes::QueueRef;

impl Publisher {
    pub(super) fn process(&mut self, answer: Result<SendAnswer, JoinError>) {
        let now = Instant::now();
        match answer {
            Ok(SendAnswer::Sent { batch, result }) => match result {
                Ok(results) => self.process_entries(&batch, results, now),
                Err(error) => self.process_failure(&batch, &error, now),
            },
            Ok(SendAnswer::LookedUp { batch, result }) => match result {
                Ok(statuses) => self.process_statuses(&batch, &statuses, now),
                Err(error) => {
                    // Sending it could deliver events that were discarded.
                    let kind = "look_up".to_owned();
                    let message = error.to_string();
                    let error = SendError::Unavailable { kind, message };
                    self.process_failure(&batch, &error, now);
                }
            },
            Err(error) => crash(error),
        }
    }

    /// Processes the answer of a queue, which has one result for each entry.
    fn process_entries(
        &mut self,
        batch: &Batch,
        results: Vec<Result<String, EntryFailure>>,
        now: Instant,
    ) {
        let is_accepting = self.scheduler.is_accepting(&batch.queue);
        match error_policy::outage_of(&results, is_accepting) {
            Some(failure) => {
                let reason = format!("{}: {}", failure.code, failure.message);
                let count = batch.events.len();
                self.status
                    .record_queue_failure(&batch.queue, &failure.code, reason, count);
                self.block(batch, now);
            }
            None => {
                self.scheduler.record_batch_success(batch);
                self.status.record_queue_success(&batch.queue);
            }
        }
        let wall = (self.clock)();
        for (outgoing, result) in batch.events.iter().zip(results) {
            match result {
                Ok(message_id) => {
                    self.process_sent(&batch.queue, outgoing, message_id, (now, wall))
                }
                Err(failure) => match error_policy::of_entry(&failure) {
                    SendFailure::Rejected { failure } => self.reject(outgoing, failure, now),
                    _ => {
                        let EntryFailure { code, message, .. } = &failure;
                        self.retry_alone(&batch.queue, outgoing, code, message, now);
                    }
                },
            }
        }
    }

    /// Processes an event that the queue accepted: it must be marked.
    fn process_sent(
        &mut self,
        queue: &QueueRef,
        outgoing: &Outgoing,
        message_id: String,
        (now, wall): (Instant, Timestamp),
    ) {
        let event = &outgoing.event;
        let reference = EventRef::of(event);
        let lag = event.occurred_at.map(|at| seconds_between(at, wall));
        let path = self.source(&reference).map_or("stream", EventSource::path);
        self.metrics.record_published(queue.name(), path, lag);
        let record = PublishRecord::of(event, path, wall);
        self.status.record_published(record);
        if self.scheduler.record_sent(&reference, now) {
            self.marker.push(Mark {
                event: reference,
                key: event.key.clone(),
                generation: event.generation.clone(),
                message_id,
                sent_at: wall,
            });
        }
    }

    /// Schedules an event again that failed while its queue accepts others. Only its aggregate is
    /// delayed. It is deferred when it has failed for so long that it would delay the checkpoint.
    fn retry_alone(
        &mut self,
        queue: &QueueRef,
        outgoing: &Outgoing,
        code: &str,
        reason: &str,
        now: Instant,
    ) {
        let event = &outgoing.event;
        let reference = EventRef::of(event);
        self.metrics.record_retries(code, 1);
        let attempt = u32::try_from(outgoing.attempt).unwrap_or(u32::MAX);
        let delay = backoff::delay(attempt, self.random.f64());
        // An event may fail for hours: the 1st, 2nd, 4th, 8th ... failure is logged.
        if outgoing.attempt.is_power_of_two() {
            tracing::warn!(
                queue = queue.name(),
                event_id = event.event_id,
                attempt = outgoing.attempt,
                code,
                reason,
                trace_id = event.trace.trace_id(),
                "send of a message failed; retrying in {} ms; an event that is never accepted can be discarded",
                delay.as_millis()
            );
        }
        let failing_for = self.scheduler.record_own_failure(&reference, now);
        self.scheduler
            .retry(&reference, Some(now + delay), false, now);
        if failing_for >= DEFER_AFTER {
            self.shed(&[reference], now);
        }
    }

    /// Blocks a queue for a delay; one batch then probes it.
    fn block(&mut self, batch: &Batch, now: Instant) {
        let random = &mut self.random;
        self.scheduler.record_batch_failure(batch, now, |failures| {
            backoff::delay(failures, random.f64())
        });
        let behind = self.scheduler.behind_probes(batch, now);
        if !behind.is_empty() {
            self.shed(&behind, now);
        }
    }

    /// Processes the failure of a whole request.
    fn process_failure(&mut self, batch: &Batch, error: &SendError, now: Instant) {
        let is_accepting = self.scheduler.is_accepting(&batch.queue);
        match error_policy::of_batch(error, batch.events.len(), is_accepting) {
            SendFailure::Outage { kind } => {
                self.report_outage(batch, &kind, error);
                self.retry_all(batch, false, now);
                self.block(batch, now);
            }
            SendFailure::Split { blocks_queue } => {
                if blocks_queue {
                    self.report_outage(batch, "refused", error);
                    self.block(batch, now);
                } else {
                    self.scheduler.record_batch_end(batch);
                }
                self.retry_all(batch, true, now);
            }
            SendFailure::Alone { code, message } => {
                self.scheduler.record_batch_end(batch);
                for outgoing in &batch.events {
                    self.retry_alone(&batch.queue, outgoing, &code, &message, now);
                }
            }
            SendFailure::Rejected { failure } => {
                self.scheduler.record_batch_success(batch);
                for outgoing in &batch.events {
                    self.reject(outgoing, failure.clone(), now);
                }
            }
        }
    }

    fn report_outage(&self, batch: &Batch, kind: &str, error: &SendError) {
        let count = batch.events.len();
        self.metrics.record_retries(kind, count as u64);
        self.status
            .record_queue_failure(&batch.queue, kind, error.to_string(), count);
    }

    fn retry_all(&mut self, batch: &Batch, isolated: bool, now: Instant) {
        for outgoing in &batch.events {
            self.scheduler
                .retry(&EventRef::of(&outgoing.event), None, isolated, now);
        }
    }

    /// Quarantines an event whose message the queue rejects.
    fn reject(&mut self, outgoing: &Outgoing, failure: String, now: Instant) {
        let event = &outgoing.event;
        let reference = EventRef::of(event);
        self.hold_successors(&reference, now);
        let acks = self.scheduler.remove_rejected(&reference, now);
        let rejected = Rejected {
            key: event.key.clone(),
            generation: event.generation.clone(),
            reason: "refused_by_queue",
            failure,
            trace_id: event.trace.trace_id(),
        };
        self.quarantine.push(rejected, acks, outgoing.attempt);
    }
}
