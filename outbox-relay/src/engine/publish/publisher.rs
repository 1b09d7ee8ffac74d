//! Publisher: routes events between the send scheduler, the queues, the marker and the quarantine
//! queue.
//!
//! One task owns all of them. Requests run beside it, a bounded number at a time.

use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::marker::Marker;
use super::quarantine_queue::QuarantineQueue;
use super::send_spans::{BatchSpan, MessageOutcome};
use crate::engine::health::publish_history::PublishRecord;
use crate::engine::health::status::EngineStatus;
use crate::engine::health::table_health::TableOperation;
use crate::engine::in_flight::{self, Ack};
use crate::engine::metrics::{RelayMetrics, seconds_between};
use crate::engine::publish_command::PublishCommand;
use crate::engine::{EngineConfig, crash};
use crate::policy::backoff;
use crate::policy::error_policy::{self, SendFailure};
use crate::policy::event_source::EventSource;
use crate::policy::mark_queue::Mark;
use crate::policy::record_classifier::Rejected;
use crate::policy::send_scheduler::{Batch, EventRef, Outgoing, SendScheduler};
use crate::ports::{EntryFailure, Ports, Queue, SendEntry, SendError};
use crate::routes::QueueRef;

/// Maximum number of send requests in flight: enough to hide the round trip of a busy queue.
const MAX_SENDS: usize = 16;

/// Maximum number of commands that are taken from the channel at once.
const MAX_COMMANDS: usize = 1024;

pub(crate) struct Publisher {
    queue: Arc<dyn Queue>,
    clock: fn() -> Timestamp,
    metrics: RelayMetrics,
    status: EngineStatus,
    scheduler: SendScheduler<Ack>,
    sends: JoinSet<SendAnswer>,
    marker: Marker,
    quarantine: QuarantineQueue,
    random: fastrand::Rng,
    stop: CancellationToken,
}

type SendResult = Result<Vec<Result<String, EntryFailure>>, SendError>;

/// Send request that has ended.
struct SendAnswer {
    batch: Batch,
    result: SendResult,
}

impl Publisher {
    pub(crate) fn new(
        ports: &Ports,
        config: &EngineConfig,
        metrics: RelayMetrics,
        status: EngineStatus,
        mut random: fastrand::Rng,
        stop: CancellationToken,
    ) -> Self {
        let marker = Marker::new(
            Arc::clone(&ports.outbox),
            config.retention,
            config.clock,
            metrics.clone(),
            status.monitor(TableOperation::Mark),
            random.fork(),
        );
        let quarantine = QuarantineQueue::new(
            Arc::clone(&ports.outbox),
            config.clock,
            metrics.clone(),
            status.clone(),
            random.fork(),
        );
        Self {
            queue: Arc::clone(&ports.queue),
            clock: config.clock,
            metrics,
            status,
            scheduler: SendScheduler::default(),
            sends: JoinSet::new(),
            marker,
            quarantine,
            random,
            stop,
        }
    }

    /// Publishes until the instance stops, then finishes the requests in flight and the marks of
    /// sent events. Events that were not sent by then are left to the next owner of their shard.
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<PublishCommand>) {
        let stop = self.stop.clone();
        let mut received = Vec::new();
        let mut is_open = true;
        loop {
            let now = Instant::now();
            let stopping = stop.is_cancelled();
            if !stopping {
                self.start_sends(now);
                self.quarantine.start_requests(now);
                self.status
                    .retain_queues(|queue| self.scheduler.is_in_use(queue));
            }
            self.marker.start_requests(now);
            if (stopping || !is_open) && self.is_idle() {
                return;
            }
            let due = self.next_due(now, stopping);
            tokio::select! {
                // Answers come first: they free the capacity that the others wait for. The fixed
                // order also makes a simulated run repeat exactly.
                biased;
                Some(answer) = self.sends.join_next() => self.process(answer),
                Some(answer) = self.marker.next_answer() => {
                    for event in self.marker.process(answer, Instant::now()) {
                        self.scheduler
                            .record_marked(&event)
                            .into_iter()
                            .for_each(Ack::settle);
                    }
                }
                Some(answer) = self.quarantine.next_answer() => {
                    self.quarantine.process(answer, Instant::now());
                }
                count = commands.recv_many(&mut received, MAX_COMMANDS), if is_open && !stopping => {
                    is_open = count > 0;
                    for command in received.drain(..) {
                        self.execute(command);
                    }
                }
                () = sleep_until(due) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Returns `true` if no request is in flight and every sent event is marked.
    fn is_idle(&self) -> bool {
        self.sends.is_empty()
            && self.scheduler.is_idle()
            && self.marker.is_idle()
            && self.quarantine.is_idle()
    }

    /// Returns the next instant at which a delayed request may start. Sends are left out while none
    /// may start, as an overdue one would be due at once, again and again.
    fn next_due(&self, now: Instant, stopping: bool) -> Option<Instant> {
        let may_send = !stopping && self.sends.len() < MAX_SENDS && !self.marker.is_full();
        let send = self.scheduler.next_due(now).filter(|_| may_send);
        let quarantine = self.quarantine.next_due(now).filter(|_| !stopping);
        [send, self.marker.next_due(now), quarantine]
            .into_iter()
            .flatten()
            .min()
    }

    fn execute(&mut self, command: PublishCommand) {
        match command {
            // The event was marked after it had been looked up.
            PublishCommand::Publish { event, ack }
                if matches!(ack.source(), EventSource::Stream { .. })
                    && self.marker.was_marked(&event.key) =>
            {
                ack.settle();
            }
            PublishCommand::Publish { event, ack } | PublishCommand::Defer { event, ack } => {
                self.scheduler.push(event, ack);
            }
            PublishCommand::Quarantine { rejected, ack } => {
                self.quarantine.push(rejected, vec![ack], 0);
            }
            PublishCommand::ForgetClosed => {
                let now = Instant::now();
                self.scheduler
                    .remove_lost(|acks| in_flight::permission(acks, now));
                self.quarantine.remove_lost(now);
            }
        }
    }

    fn start_sends(&mut self, now: Instant) {
        while self.sends.len() < MAX_SENDS && !self.marker.is_full() {
            let Some(batch) = self
                .scheduler
                .next_batch(now, |acks| in_flight::permission(acks, now))
            else {
                return;
            };
            let sources = self.sources(&batch);
            let queue = Arc::clone(&self.queue);
            let clock = self.clock;
            self.sends.spawn(async move {
                let mut span = BatchSpan::start(&batch);
                let entries: Vec<_> = batch.events.iter().map(entry).collect();
                let result = queue.send(&batch.queue, &entries).await;
                trace(&mut span, &batch, &sources, &result, clock);
                SendAnswer { batch, result }
            });
        }
    }

    /// Returns the source of each event of a batch.
    fn sources(&self, batch: &Batch) -> Vec<Option<EventSource>> {
        batch
            .events
            .iter()
            .map(|outgoing| self.source(&EventRef::of(&outgoing.event)).cloned())
            .collect()
    }

    fn source(&self, event: &EventRef) -> Option<&EventSource> {
        self.scheduler.acks(event).first().map(Ack::source)
    }

    fn process(&mut self, answer: Result<SendAnswer, JoinError>) {
        let now = Instant::now();
        let SendAnswer { batch, result } = match answer {
            Ok(answer) => answer,
            Err(error) => return crash(error),
        };
        match result {
            Ok(results) => self.process_entries(&batch, results, now),
            Err(error) => self.process_failure(&batch, &error, now),
        }
    }

    /// Processes the answer of a queue, which has one result for each entry.
    fn process_entries(
        &mut self,
        batch: &Batch,
        results: Vec<Result<String, EntryFailure>>,
        now: Instant,
    ) {
        let missing = || {
            Err(EntryFailure {
                code: "NoAnswer".to_owned(),
                message: "the answer has no result for the entry".to_owned(),
                sender_fault: false,
            })
        };
        let results = results.into_iter().chain(std::iter::repeat_with(missing));
        let results: Vec<_> = results.take(batch.events.len()).collect();
        match first_failure_of_outage(&results) {
            Some(failure) => {
                let reason = format!("{}: {}", failure.code, failure.message);
                self.status.record_queue_failure(&batch.queue, reason);
                self.block(&batch.queue, now);
            }
            None => {
                self.scheduler.record_batch_success(&batch.queue);
                self.status.record_queue_success(&batch.queue);
            }
        }
        let wall = (self.clock)();
        for (outgoing, result) in batch.events.iter().zip(results) {
            match result {
                Ok(message_id) => self.process_sent(&batch.queue, outgoing, message_id, wall),
                Err(failure) => self.process_failed_entry(&batch.queue, outgoing, failure, now),
            }
        }
    }

    /// Processes an event that the queue accepted: it must be marked.
    fn process_sent(
        &mut self,
        queue: &QueueRef,
        outgoing: &Outgoing,
        message_id: String,
        wall: Timestamp,
    ) {
        let event = &outgoing.event;
        let reference = EventRef::of(event);
        let lag = event.occurred_at.map(|at| seconds_between(at, wall));
        let path = self.source(&reference).map_or("stream", EventSource::path);
        self.metrics.record_published(queue.name(), path, lag);
        let record = PublishRecord::of(event, path, wall);
        self.status.record_published(record);
        if self.scheduler.record_sent(&reference) {
            self.marker.push(Mark {
                event: reference,
                key: event.key.clone(),
                generation: event.generation.clone(),
                message_id,
                sent_at: wall,
            });
        }
    }

    fn process_failed_entry(
        &mut self,
        queue: &QueueRef,
        outgoing: &Outgoing,
        failure: EntryFailure,
        now: Instant,
    ) {
        let event = &outgoing.event;
        let reference = EventRef::of(event);
        match error_policy::of_entry(&failure) {
            SendFailure::Outage { kind } => {
                self.metrics.record_retries(&kind, 1);
                let attempt = u32::try_from(outgoing.attempt).unwrap_or(u32::MAX);
                let delay = backoff::delay(attempt, self.random.f64());
                tracing::warn!(
                    queue = queue.name(),
                    event_id = event.event_id,
                    attempt = outgoing.attempt,
                    code = failure.code,
                    reason = failure.message,
                    trace_id = event.trace.trace_id(),
                    "send of a message failed; retrying in {} ms",
                    delay.as_millis()
                );
                self.scheduler.retry(&reference, Some(now + delay), false);
            }
            SendFailure::Rejected { failure } => self.quarantine(outgoing, failure),
            SendFailure::Split => self.scheduler.retry(&reference, None, true),
        }
    }

    /// Blocks a queue for a delay; one batch then probes it.
    fn block(&mut self, queue: &QueueRef, now: Instant) {
        let random = &mut self.random;
        self.scheduler.record_batch_failure(queue, now, |failures| {
            backoff::delay(failures, random.f64())
        });
    }

    /// Processes the failure of a whole request.
    fn process_failure(&mut self, batch: &Batch, error: &SendError, now: Instant) {
        match error_policy::of_batch(error, batch.events.len()) {
            SendFailure::Outage { kind } => {
                let count = batch.events.len();
                self.metrics.record_retries(&kind, count as u64);
                tracing::warn!(
                    queue = batch.queue.as_str(),
                    kind,
                    count,
                    %error,
                    "send failed; retrying until the queue accepts messages"
                );
                self.status
                    .record_queue_failure(&batch.queue, error.to_string());
                self.retry_all(batch, false);
                self.block(&batch.queue, now);
            }
            SendFailure::Split => {
                self.scheduler.record_batch_success(&batch.queue);
                self.retry_all(batch, true);
            }
            SendFailure::Rejected { failure } => {
                self.scheduler.record_batch_success(&batch.queue);
                for outgoing in &batch.events {
                    self.quarantine(outgoing, failure.clone());
                }
            }
        }
    }

    fn retry_all(&mut self, batch: &Batch, isolated: bool) {
        for outgoing in &batch.events {
            self.scheduler
                .retry(&EventRef::of(&outgoing.event), None, isolated);
        }
    }

    /// Quarantines an event whose message the queue rejects.
    fn quarantine(&mut self, outgoing: &Outgoing, failure: String) {
        let event = &outgoing.event;
        let acks = self.scheduler.remove_rejected(&EventRef::of(event));
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

/// Returns the first failure if the queue accepted no entry of the batch and none is at fault; that
/// is treated as an outage of the queue.
fn first_failure_of_outage(results: &[Result<String, EntryFailure>]) -> Option<&EntryFailure> {
    let is_outage = |failure: &&EntryFailure| {
        matches!(error_policy::of_entry(failure), SendFailure::Outage { .. })
    };
    let failures: Option<Vec<_>> = results
        .iter()
        .map(|result| result.as_ref().err().filter(is_outage))
        .collect();
    failures?.first().copied()
}

fn entry(outgoing: &Outgoing) -> SendEntry<'_> {
    SendEntry {
        message: &outgoing.event.message,
        group: &outgoing.event.key.aggregate_id,
        deduplication: &outgoing.event.deduplication_id,
    }
}

/// Ends the spans of a send. A message gets its span when its outcome is known. The messages of a
/// request that failed as a whole get none: an outage would fill every trace with them.
fn trace(
    span: &mut BatchSpan,
    batch: &Batch,
    sources: &[Option<EventSource>],
    result: &SendResult,
    clock: fn() -> Timestamp,
) {
    match result {
        Ok(results) => {
            let wall = clock();
            let messages = batch.events.iter().zip(results).zip(sources);
            for (n, ((outgoing, result), source)) in messages.enumerate() {
                let outcome = match result {
                    Ok(message_id) => MessageOutcome::Sent {
                        message_id,
                        lag_ms: outgoing
                            .event
                            .occurred_at
                            .map(|at| wall.as_millis() - at.as_millis()),
                    },
                    Err(failure) => MessageOutcome::Failed {
                        kind: &failure.code,
                    },
                };
                span.message(batch, n, source.as_ref(), &outcome);
            }
        }
        Err(SendError::Unavailable { kind, .. } | SendError::Refused { code: kind, .. }) => {
            span.fail(kind);
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        // Another branch of the select ends first.
        None => tokio::time::sleep(Duration::from_secs(3600)).await,
    }
}
