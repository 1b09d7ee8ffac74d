//! Sends and marks events: rules 8, 9 and 10.
//!
//! One task owns the [`Schedule`] and does what it says; requests run beside
//! it, a bounded number at a time. What comes in is bounded by the room its
//! readers must take first (G7), so the channel itself needs no bound.

use std::sync::Arc;
use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::health::publish_history::Sent;
use crate::engine::health::status::Status;
use crate::engine::health::table_health::{TableUse, Trouble};
use crate::engine::metrics::{RelayMetrics, seconds_between};
use crate::engine::publish::marker::Marked;
use crate::engine::publish::quarantine_queue::{Case, Quarantines};
use crate::engine::publish::send_spans::{BatchSpan, MessageOutcome, Source};
use crate::engine::shard_state::{self, Ack, Path};
use crate::engine::{EngineConfig, crash};
use crate::policy::backoff;
use crate::policy::error_policy::{self, Verdict};
use crate::policy::record_classifier::{Event, Rejected};
use crate::policy::send_scheduler::{Batch, EventRef, Mark, Outgoing, Schedule};
use crate::ports::{EntryFailure, MarkOutcome, Ports, SendEntry, SendError, TableError};
use crate::routes::QueueRef;

/// Send requests in flight. Enough to hide the round trip of a busy queue.
const MAX_SENDS: usize = 16;

/// What readers hand over.
#[derive(Debug)]
pub(crate) enum Work {
    Publish {
        event: Arc<Event>,
        ack: Ack,
    },
    Quarantine {
        rejected: Rejected,
        ack: Ack,
    },
    /// A shard was closed: forget what waits of it.
    ForgetClosed,
}

#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) ports: Ports,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) metrics: RelayMetrics,
    pub(crate) status: Status,
    pub(crate) schedule: Schedule<Ack>,
    pub(crate) marked: Marked,
    pub(crate) random: fastrand::Rng,
    pub(crate) stop: CancellationToken,
}

type SendAnswer = Result<Vec<Result<String, EntryFailure>>, SendError>;

/// A request that has ended.
pub(crate) enum Done {
    Sent {
        batch: Batch,
        answer: SendAnswer,
    },
    Marked {
        marks: Vec<Mark>,
        answer: Result<Vec<MarkOutcome>, TableError>,
    },
    Quarantined {
        case: Case,
        answer: Result<MarkOutcome, TableError>,
    },
}

/// Requests under way.
pub(crate) struct InFlight {
    pub(crate) tasks: JoinSet<Done>,
    sends: usize,
    pub(crate) marks: usize,
    mark_trouble: Trouble,
    pub(crate) quarantines: Quarantines,
}

impl InFlight {
    fn new(status: &Status) -> Self {
        Self {
            tasks: JoinSet::new(),
            sends: 0,
            marks: 0,
            mark_trouble: status.trouble(TableUse::Mark),
            quarantines: Quarantines::new(status.trouble(TableUse::Quarantine)),
        }
    }
}

impl Publisher {
    /// Works until it is to stop, then finishes what is in flight and
    /// its marks; what was not sent by then is left to the next owner.
    pub(crate) async fn run(mut self, mut work: mpsc::UnboundedReceiver<Work>) {
        let stop = self.stop.clone();
        let mut in_flight = InFlight::new(&self.status);
        let mut incoming = Vec::new();
        let mut open = true;
        loop {
            let now = Instant::now();
            let stopping = stop.is_cancelled();
            if !stopping {
                self.start_sends(&mut in_flight, now);
                self.start_quarantines(&mut in_flight, now);
                self.status
                    .forget_queues(|queue| self.schedule.is_in_use(queue));
            }
            self.start_marks(&mut in_flight, now);
            if (stopping || !open) && in_flight.tasks.is_empty() && self.schedule.is_settled() {
                return;
            }
            let sending = !stopping && in_flight.sends < MAX_SENDS;
            let due = self.schedule.next_due(now, sending);
            let quarantine_due = in_flight.quarantines.next_due(now).filter(|_| !stopping);
            let due = due.into_iter().chain(quarantine_due).min();
            tokio::select! {
                // Answers first: they free what the others wait for. A fixed
                // order also makes a simulated run repeat exactly.
                biased;
                Some(done) = in_flight.tasks.join_next() => match done {
                    Ok(done) => self.finish(&mut in_flight, done),
                    Err(error) => crash(error),
                },
                count = work.recv_many(&mut incoming, 1024), if open && !stopping => {
                    open = count > 0;
                    for work in incoming.drain(..) {
                        self.accept(&mut in_flight, work);
                    }
                }
                () = sleep_until(due) => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    fn accept(&mut self, in_flight: &mut InFlight, work: Work) {
        match work {
            // The reader looked it up before this process marked it.
            Work::Publish { event, ack }
                if ack.path() == Path::Stream && self.marked.contains(&event.key) =>
            {
                ack.done();
            }
            Work::Publish { event, ack } => self.schedule.push(event, ack),
            Work::Quarantine { rejected, ack } => {
                self.quarantine(in_flight, rejected, vec![ack], 0);
            }
            Work::ForgetClosed => {
                let now = Instant::now();
                self.schedule
                    .forget_lost(|acks| shard_state::permission(acks, now));
                in_flight.quarantines.forget_lost(now);
            }
        }
    }

    fn start_sends(&mut self, in_flight: &mut InFlight, now: Instant) {
        while in_flight.sends < MAX_SENDS {
            let Some(batch) = self
                .schedule
                .next_batch(now, |acks| shard_state::permission(acks, now))
            else {
                return;
            };
            in_flight.sends += 1;
            let sources = self.sources(&batch);
            let queue = Arc::clone(&self.ports.queue);
            in_flight.tasks.spawn(async move {
                let mut span = BatchSpan::start(&batch);
                let entries: Vec<_> = batch.events.iter().map(entry).collect();
                let answer = queue.send(&batch.queue, &entries).await;
                trace(&mut span, &batch, &sources, &answer);
                Done::Sent { batch, answer }
            });
        }
    }

    fn sources(&self, batch: &Batch) -> Vec<Option<Source>> {
        batch
            .events
            .iter()
            .map(|out| {
                self.schedule
                    .acks(&EventRef::of(&out.event))
                    .first()
                    .map(Ack::source)
            })
            .collect()
    }

    fn finish(&mut self, in_flight: &mut InFlight, done: Done) {
        let now = Instant::now();
        match done {
            Done::Sent { batch, answer } => {
                in_flight.sends -= 1;
                match answer {
                    Ok(answers) => self.batch_answered(in_flight, &batch, answers, now),
                    Err(error) => self.batch_failed(in_flight, &batch, &error, now),
                }
            }
            Done::Marked { marks, answer } => {
                in_flight.marks -= 1;
                self.marks_answered(&mut in_flight.mark_trouble, marks, answer, now);
            }
            Done::Quarantined { case, answer } => {
                self.quarantine_answered(&mut in_flight.quarantines, case, answer, now);
            }
        }
    }

    fn batch_answered(
        &mut self,
        in_flight: &mut InFlight,
        batch: &Batch,
        answers: Vec<Result<String, EntryFailure>>,
        now: Instant,
    ) {
        let missing = || {
            Err(EntryFailure {
                code: "NoAnswer".to_owned(),
                message: "the answer does not name the entry".to_owned(),
                sender_fault: false,
            })
        };
        let answers = answers.into_iter().chain(std::iter::repeat_with(missing));
        let answers: Vec<_> = answers.take(batch.events.len()).collect();
        match away(&answers) {
            Some(failure) => {
                let reason = format!("{}: {}", failure.code, failure.message);
                self.status.queue_failed(&batch.queue, reason);
                self.hold_back(&batch.queue, now);
            }
            None => {
                self.schedule.batch_went_through(&batch.queue);
                self.status.queue_well(&batch.queue);
            }
        }
        let wall = (self.config.clock)();
        for (outgoing, answer) in batch.events.iter().zip(answers) {
            let event = &outgoing.event;
            let reference = EventRef::of(event);
            match answer {
                Ok(message_id) => {
                    let lag = event.occurred_at.map(|at| seconds_between(at, wall));
                    let path = self
                        .schedule
                        .acks(&reference)
                        .first()
                        .map_or(Path::Stream, Ack::path);
                    self.metrics
                        .published(batch.queue.name(), path.as_str(), lag);
                    self.status.published(Sent::of(event, path, wall));
                    self.schedule.sent(&reference, message_id, wall);
                }
                Err(failure) => match error_policy::of_entry(&failure) {
                    Verdict::Outage { kind } => {
                        self.metrics.retried(&kind, 1);
                        tracing::warn!(
                            queue = batch.queue.name(),
                            event_id = event.event_id,
                            attempt = outgoing.attempt,
                            code = failure.code,
                            reason = failure.message,
                            trace_id = event.trace.trace_id(),
                            "the queue did not take a message; it is sent again"
                        );
                        let attempt = u32::try_from(outgoing.attempt).unwrap_or(u32::MAX);
                        let until = now + backoff::delay(attempt, self.random.f64());
                        self.schedule.retry(&reference, Some(until), false);
                    }
                    Verdict::Rejected { failure } => {
                        self.reject(in_flight, outgoing, failure);
                    }
                    Verdict::Split => self.schedule.retry(&reference, None, true),
                },
            }
        }
    }

    /// Nothing goes to the queue for a while, then one batch to find out.
    fn hold_back(&mut self, queue: &QueueRef, now: Instant) {
        let random = &mut self.random;
        self.schedule.batch_failed(queue, now, |failures| {
            backoff::delay(failures, random.f64())
        });
    }

    fn batch_failed(
        &mut self,
        in_flight: &mut InFlight,
        batch: &Batch,
        error: &SendError,
        now: Instant,
    ) {
        match error_policy::of_batch(error, batch.events.len()) {
            Verdict::Outage { kind } => {
                let count = batch.events.len();
                self.metrics.retried(&kind, count as u64);
                tracing::warn!(
                    queue = batch.queue.as_str(),
                    kind,
                    count,
                    %error,
                    "the queue does not take messages; they are sent again"
                );
                self.status.queue_failed(&batch.queue, error.to_string());
                for outgoing in &batch.events {
                    self.schedule
                        .retry(&EventRef::of(&outgoing.event), None, false);
                }
                self.hold_back(&batch.queue, now);
            }
            Verdict::Split => {
                self.schedule.batch_went_through(&batch.queue);
                for outgoing in &batch.events {
                    self.schedule
                        .retry(&EventRef::of(&outgoing.event), None, true);
                }
            }
            Verdict::Rejected { failure } => {
                self.schedule.batch_went_through(&batch.queue);
                for outgoing in &batch.events {
                    self.reject(in_flight, outgoing, failure.clone());
                }
            }
        }
    }
}

/// Why the queue is as good as away, when it answers and takes nothing.
fn away(answers: &[Result<String, EntryFailure>]) -> Option<&EntryFailure> {
    let is_outage =
        |failure: &&EntryFailure| matches!(error_policy::of_entry(failure), Verdict::Outage { .. });
    let failures: Option<Vec<_>> = answers
        .iter()
        .map(|answer| answer.as_ref().err().filter(is_outage))
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

/// Messages get their span when their fate is known. Those of a request that
/// failed as a whole do not: an outage would fill every trace with them.
fn trace(span: &mut BatchSpan, batch: &Batch, sources: &[Option<Source>], answer: &SendAnswer) {
    match answer {
        Ok(answers) => {
            let wall = Timestamp::now();
            let messages = batch.events.iter().zip(answers).zip(sources);
            for (n, ((outgoing, answer), source)) in messages.enumerate() {
                let outcome = match answer {
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
        // Something else will happen first.
        None => tokio::time::sleep(Duration::from_secs(3600)).await,
    }
}
