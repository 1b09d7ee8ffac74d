//! One request, its fault, and its answer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::partial::{self, Failed};
use super::protocol::{self, Answer, Call, Refusal, Reply};
use super::streams::Page;
use super::{Cut, ProxyContext, marks, refusals, sqs};
use crate::history::{
    Delivery, Fault, FaultKind, Publish, PublishedMark, Redelivery, ShardReader, StreamRecord,
    TrimmedRead,
};

pub(super) struct Interceptor {
    context: Arc<ProxyContext>,
    /// Of the process that asks.
    incarnation: u32,
    call: Call,
    fault: Option<FaultKind>,
    random: fastrand::Rng,
    at: u64,
    /// There is one as long as the process waits for the answer.
    waiting: Weak<()>,
}

impl Interceptor {
    pub(super) fn new(context: &Arc<ProxyContext>, call: Call, waiting: Weak<()>) -> Self {
        let (fault, random) = context.sampler.sample(&call.operation);
        Self {
            incarnation: context.incarnation.load(Ordering::Acquire),
            at: context.active_faults.recorder.now(),
            fault: fault.filter(|_| context.active_faults.is_stormy()),
            context: Arc::clone(context),
            call,
            random,
            waiting,
        }
    }

    pub(super) async fn run(mut self) -> Result<Answer, Cut> {
        let refusal = match self.fault {
            Some(FaultKind::CutBefore) => {
                self.note(FaultKind::CutBefore);
                return Err(Cut);
            }
            Some(FaultKind::Throttle) => Some(refusals::throttled(&self.call, &mut self.random)),
            Some(FaultKind::TransactionConflict) => {
                Some(refusals::conflict(&self.call, &mut self.random))
            }
            Some(FaultKind::ExpiredIterator) => Some(refusals::expired()),
            // These two come before the effect as often as after it.
            Some(FaultKind::ServerError) if self.random.bool() => {
                Some(refusals::failed(self.call.service))
            }
            Some(FaultKind::TransactionInProgress) if self.random.bool() => {
                Some(refusals::in_progress())
            }
            Some(FaultKind::Latency) => {
                self.hold_up().await;
                None
            }
            _ => None,
        };
        match (self.fault, refusal) {
            (Some(kind), Some(refusal)) => Ok(self.refuse(kind, &refusal)),
            _ => self.forward().await,
        }
    }

    async fn hold_up(&mut self) {
        // Mostly the hiccups of a network; one in fifty is longer than the
        // clients wait.
        let millis = match self.random.u8(..50) {
            0 => 6_000,
            1..10 => self.random.u64(300..1_500),
            _ => self.random.u64(5..300),
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.note_until(
            FaultKind::Latency,
            Some(self.context.active_faults.recorder.now()),
        );
    }

    async fn forward(mut self) -> Result<Answer, Cut> {
        let active_faults = Arc::clone(&self.context.active_faults);
        let split = match self.fault {
            Some(FaultKind::PartialSend | FaultKind::PartialDelete) => {
                partial::split_entries(&self.call, &mut self.random)
            }
            Some(FaultKind::PartialStatement) => {
                partial::split_statements(&self.call, &mut self.random)
            }
            _ => None,
        };
        let mut failed = None;
        if let (Some(kind), Some(split)) = (self.fault, split) {
            self.note(kind);
            let Some(rest) = split.rest else {
                let body = split.failed.merge(Value::Null);
                return Ok(protocol::answer(self.call.service, StatusCode::OK, &body));
            };
            self.call = rest;
            failed = Some(split.failed);
        }
        if self.call.operation == "GetShardIterator" {
            self.call = match active_faults.trims.locate(self.call.clone()) {
                Ok(call) => call,
                // What was trimmed before: no fault of its own.
                Err(refusal) => {
                    self.trimmed_read();
                    return Ok(refusal.answer(self.call.service));
                }
            };
        }
        let forwarded_at = active_faults.recorder.now();
        let reply = active_faults.upstream.send(&self.call).await?;
        match self.call.operation.as_str() {
            "SendMessageBatch" => self.sent(forwarded_at, &reply).await?,
            "BatchExecuteStatement" => self.marked(&reply),
            "GetShardIterator" => active_faults.trims.located(&self.call, &reply),
            "GetRecords" => {
                if let Some(lost) = self.trimmed(&reply) {
                    self.note_records(lost, true);
                    self.trimmed_read();
                    return Ok(self.refuse(FaultKind::TrimmedIterator, &refusals::trimmed()));
                }
                if let Some(page) = active_faults.trims.read(&self.call, &reply) {
                    self.note_reader(&page);
                    self.note_records(page, false);
                }
            }
            _ => {}
        }
        self.after_the_effect(reply, failed).await
    }

    /// Whether the process learns what the service answered.
    fn is_told(&self) -> bool {
        let answered = !matches!(
            self.fault,
            Some(FaultKind::CutAfter | FaultKind::ServerError | FaultKind::TransactionInProgress)
        );
        // What is held up for longer than it waits, the process has given up.
        answered && self.waiting.strong_count() > 0
    }

    /// The answer to a request that took effect.
    async fn after_the_effect(
        mut self,
        reply: Reply,
        failed: Option<Failed>,
    ) -> Result<Answer, Cut> {
        match self.fault {
            Some(FaultKind::CutAfter) => {
                self.note(FaultKind::CutAfter);
                Err(Cut)
            }
            Some(FaultKind::ServerError) => {
                let refusal = refusals::failed(self.call.service);
                Ok(self.refuse(FaultKind::ServerError, &refusal))
            }
            Some(FaultKind::TransactionInProgress) => {
                Ok(self.refuse(FaultKind::TransactionInProgress, &refusals::in_progress()))
            }
            _ if self.call.operation == "ReceiveMessage" => Ok(self.handed_out(reply).await),
            _ => Ok(match (failed, reply.json()) {
                (Some(failed), Some(body)) => reply.with_body(&failed.merge(body)),
                _ => reply,
            }
            .into_answer()),
        }
    }

    /// Notes what a queue took, and kills the relay that sent it when that is
    /// what is waited for.
    async fn sent(&self, forwarded_at: u64, reply: &Reply) -> Result<(), Cut> {
        let Some(body) = reply.json() else {
            return Ok(());
        };
        let active_faults = &self.context.active_faults;
        let sent = sqs::sent(&self.call, &body);
        let answered_at = active_faults.recorder.now();
        let killed = self.is_told() && !sent.events.is_empty() && self.kill().await;
        active_faults.recorder.write(|history| {
            let publishes = sent.events.into_iter().map(|event| Publish {
                asked_at: self.at,
                at: forwarded_at,
                answered_at,
                told: self.is_told() && !killed,
                relay: self.context.process.clone(),
                incarnation: self.incarnation,
                queue: sent.queue.clone(),
                event_id: event.id,
                aggregate_id: event.subject,
                sequence: event.sequence.parse().unwrap_or_default(),
            });
            history.publishes.extend(publishes);
        });
        if killed { Err(Cut) } else { Ok(()) }
    }

    /// Notes which events are marked as published now.
    fn marked(&self, reply: &Reply) {
        let Some(body) = reply.json() else {
            return;
        };
        let recorder = &self.context.active_faults.recorder;
        let at = recorder.now();
        let marks = marks::marked(&self.call, &body);
        recorder.write(|history| {
            history.marks.extend(
                marks
                    .into_iter()
                    .map(|(aggregate_id, sequence)| PublishedMark {
                        at,
                        aggregate_id,
                        sequence,
                    }),
            );
        });
    }

    /// Kills the relay that asks, when that is what is waited for.
    async fn kill(&self) -> bool {
        let Some(pause) = self.context.active_faults.take_kill() else {
            return false;
        };
        let killed = self.context.kill_switch.kill(pause).await;
        if !killed {
            // It is ending anyway: the next one, then.
            self.context.active_faults.arm_kill(pause);
        }
        killed
    }

    /// The records that are taken away before the process reads them.
    fn trimmed(&mut self, reply: &Reply) -> Option<Page> {
        let active_faults = &self.context.active_faults;
        if !self.is_told() || !active_faults.wants_trim() {
            return None;
        }
        let lost = active_faults
            .trims
            .trim(&self.call, reply, &mut self.random)?;
        active_faults.trim_is_done();
        Some(lost)
    }

    /// The process is being told that its position is trimmed. What it has
    /// given up meanwhile, it is not told.
    fn trimmed_read(&self) {
        if self.waiting.strong_count() > 0 {
            let recorder = &self.context.active_faults.recorder;
            let read = TrimmedRead {
                at: recorder.now(),
                relay: self.context.process.clone(),
                incarnation: self.incarnation,
            };
            recorder.write(|history| history.trimmed_reads.push(read));
        }
    }

    fn note_records(&self, page: Page, trimmed: bool) {
        let recorder = &self.context.active_faults.recorder;
        let at = recorder.now();
        let Page { shard, events } = page;
        recorder.write(|history| {
            let records = events
                .into_iter()
                .map(|(aggregate_id, sequence)| StreamRecord {
                    at,
                    shard: shard.clone(),
                    aggregate_id,
                    sequence,
                    trimmed,
                });
            history.records.extend(records);
        });
    }

    /// Notes who reads a shard, when that is another one than before.
    fn note_reader(&self, page: &Page) {
        let recorder = &self.context.active_faults.recorder;
        let reader = ShardReader {
            at: recorder.now(),
            shard: page.shard.clone(),
            relay: self.context.process.clone(),
            incarnation: self.incarnation,
        };
        recorder.write(|history| {
            let mut earlier = history.readers.iter().rev();
            let before = earlier.find(|before| before.shard == reader.shard);
            let is_known = before.is_some_and(|before| {
                before.relay == reader.relay && before.incarnation == reader.incarnation
            });
            if !is_known {
                history.readers.push(reader);
            }
        });
    }

    /// The answer to a ReceiveMessage, perhaps with a message too many or in
    /// another order; notes who gets what.
    async fn handed_out(&mut self, reply: Reply) -> Answer {
        let Some(mut body) = reply.json() else {
            return reply.into_answer();
        };
        let active_faults = Arc::clone(&self.context.active_faults);
        let process = &self.context.process;
        let taken = sqs::messages(&body).to_vec();
        let mut repeated = active_faults
            .handed_out
            .share(process, &self.call, &mut body)
            .map(|message| (message, Redelivery::Concurrent));
        match self.fault {
            Some(FaultKind::DuplicateDelivery) if !taken.is_empty() && self.random.bool() => {
                let message = taken[self.random.usize(..taken.len())].clone();
                active_faults.handed_out.offer(process, message).await;
            }
            Some(FaultKind::DuplicateDelivery) if repeated.is_none() => {
                repeated = active_faults
                    .handed_out
                    .repeat(&self.call, &mut body, &mut self.random)
                    .map(|message| (message, Redelivery::Later));
            }
            Some(FaultKind::ReorderDelivery) if sqs::reorder(&mut body, &mut self.random) => {
                self.note(FaultKind::ReorderDelivery);
            }
            _ => {}
        }
        if repeated.is_some() {
            // Noted for the process that gets it.
            self.note(FaultKind::DuplicateDelivery);
        }
        active_faults.handed_out.remember(&taken);
        let at = active_faults.recorder.now();
        let delivery = |message, injected| {
            Some(Delivery {
                at,
                consumer: process.clone(),
                event_id: sqs::event_id(message)?,
                injected,
            })
        };
        active_faults.recorder.write(|history| {
            let first = taken.iter().filter_map(|message| delivery(message, None));
            history.deliveries.extend(first);
            let again = repeated
                .iter()
                .filter_map(|(message, how)| delivery(message, Some(*how)));
            history.deliveries.extend(again);
        });
        reply.with_body(&body).into_answer()
    }

    fn refuse(&self, kind: FaultKind, refusal: &Refusal) -> Answer {
        self.note(kind);
        refusal.answer(self.call.service)
    }

    fn note(&self, kind: FaultKind) {
        self.note_until(kind, None);
    }

    fn note_until(&self, kind: FaultKind, until: Option<u64>) {
        self.context.active_faults.recorder.fault(Fault {
            at: self.at,
            until,
            kind,
            process: Some(self.context.process.clone()),
            service: Some(self.call.service),
            operation: Some(self.call.operation.clone()),
        });
    }
}
