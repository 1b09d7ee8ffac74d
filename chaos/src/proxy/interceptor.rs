//! One request, its fault, and its answer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use test_support::fault_proxy::{
    AwsRequest, AwsResponse, Cut, HttpResponse, ServiceError, json_response,
};

use super::partial::{self, Failed};
use super::streams::Page;
use super::{ProxyContext, marks, service_errors, sqs};
use crate::history::{
    Delivery, Fault, FaultKind, Publish, PublishedMark, Redelivery, ShardReader, StreamRecord,
    TrimmedRead,
};

pub(super) struct Interceptor {
    context: Arc<ProxyContext>,
    /// Of the process that asks.
    incarnation: u32,
    request: AwsRequest,
    fault: Option<FaultKind>,
    random: fastrand::Rng,
    at: u64,
    /// There is one as long as the process waits for the answer.
    waiting: Weak<()>,
}

impl Interceptor {
    pub(super) fn new(context: &Arc<ProxyContext>, request: AwsRequest, waiting: Weak<()>) -> Self {
        let (fault, random) = context.sampler.sample(&request.operation);
        Self {
            incarnation: context.incarnation.load(Ordering::Acquire),
            at: context.active_faults.recorder.now(),
            fault: fault.filter(|_| context.active_faults.in_fault_phase()),
            context: Arc::clone(context),
            request,
            random,
            waiting,
        }
    }

    pub(super) async fn run(mut self) -> Result<HttpResponse, Cut> {
        let error = match self.fault {
            Some(FaultKind::CutBefore) => {
                self.note(FaultKind::CutBefore);
                return Err(Cut);
            }
            Some(FaultKind::Throttle) => {
                Some(service_errors::throttled(&self.request, &mut self.random))
            }
            Some(FaultKind::TransactionConflict) => {
                Some(service_errors::conflict(&self.request, &mut self.random))
            }
            Some(FaultKind::ExpiredIterator) => Some(service_errors::expired()),
            // These two come before the effect as often as after it.
            Some(FaultKind::ServerError) if self.random.bool() => {
                Some(service_errors::failed(self.request.service))
            }
            Some(FaultKind::TransactionInProgress) if self.random.bool() => {
                Some(service_errors::in_progress())
            }
            Some(FaultKind::Latency) => {
                self.hold_up().await;
                None
            }
            _ => None,
        };
        match (self.fault, error) {
            (Some(kind), Some(error)) => Ok(self.refuse(kind, &error)),
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

    async fn forward(mut self) -> Result<HttpResponse, Cut> {
        let active_faults = Arc::clone(&self.context.active_faults);
        let split = match self.fault {
            Some(FaultKind::PartialSend | FaultKind::PartialDelete) => {
                partial::split_entries(&self.request, &mut self.random)
            }
            Some(FaultKind::PartialStatement) => {
                partial::split_statements(&self.request, &mut self.random)
            }
            _ => None,
        };
        let mut failed = None;
        if let (Some(kind), Some(split)) = (self.fault, split) {
            self.note(kind);
            let Some(rest) = split.rest else {
                let body = split.failed.merge(Value::Null);
                return Ok(json_response(
                    self.request.service,
                    StatusCode::OK,
                    body.to_string(),
                ));
            };
            self.request = rest;
            failed = Some(split.failed);
        }
        if self.request.operation == "GetShardIterator" {
            self.request = match active_faults.trims.locate(self.request.clone()) {
                Ok(request) => request,
                // What was trimmed before: no fault of its own.
                Err(error) => {
                    self.trimmed_read();
                    return Ok(error.response(self.request.service));
                }
            };
        }
        let forwarded_at = active_faults.recorder.now();
        let response = active_faults.upstream.send(&self.request).await?;
        match self.request.operation.as_str() {
            "SendMessageBatch" => self.sent(forwarded_at, &response).await?,
            "BatchExecuteStatement" => self.marked(&response),
            "GetShardIterator" => active_faults.trims.located(&self.request, &response),
            "GetRecords" => {
                if let Some(lost) = self.trimmed(&response) {
                    self.note_records(lost, true);
                    self.trimmed_read();
                    return Ok(self.refuse(FaultKind::TrimmedIterator, &service_errors::trimmed()));
                }
                if let Some(page) = active_faults.trims.read(&self.request, &response) {
                    self.note_reader(&page);
                    self.note_records(page, false);
                }
            }
            _ => {}
        }
        self.after_the_effect(response, failed).await
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
        response: AwsResponse,
        failed: Option<Failed>,
    ) -> Result<HttpResponse, Cut> {
        match self.fault {
            Some(FaultKind::CutAfter) => {
                self.note(FaultKind::CutAfter);
                Err(Cut)
            }
            Some(FaultKind::ServerError) => {
                let error = service_errors::failed(self.request.service);
                Ok(self.refuse(FaultKind::ServerError, &error))
            }
            Some(FaultKind::TransactionInProgress) => Ok(self.refuse(
                FaultKind::TransactionInProgress,
                &service_errors::in_progress(),
            )),
            _ if self.request.operation == "ReceiveMessage" => Ok(self.handed_out(response).await),
            _ => Ok(match (failed, response.json()) {
                (Some(failed), Some(body)) => response.with_body(&failed.merge(body)),
                _ => response,
            }
            .into_http()),
        }
    }

    /// Notes what a queue took, and kills the relay that sent it when that is
    /// what is waited for.
    async fn sent(&self, forwarded_at: u64, response: &AwsResponse) -> Result<(), Cut> {
        let Some(body) = response.json() else {
            return Ok(());
        };
        let active_faults = &self.context.active_faults;
        let sent = sqs::sent(&self.request, &body);
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
    fn marked(&self, response: &AwsResponse) {
        let Some(body) = response.json() else {
            return;
        };
        let recorder = &self.context.active_faults.recorder;
        let at = recorder.now();
        let marks = marks::marked(&self.request, &body);
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
    fn trimmed(&mut self, response: &AwsResponse) -> Option<Page> {
        let active_faults = &self.context.active_faults;
        if !self.is_told() || !active_faults.wants_trim() {
            return None;
        }
        let lost = active_faults
            .trims
            .trim(&self.request, response, &mut self.random)?;
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
    async fn handed_out(&mut self, response: AwsResponse) -> HttpResponse {
        let Some(mut body) = response.json() else {
            return response.into_http();
        };
        let active_faults = Arc::clone(&self.context.active_faults);
        let process = &self.context.process;
        let taken = sqs::messages(&body).to_vec();
        let mut repeated = active_faults
            .handed_out
            .share(process, &self.request, &mut body)
            .map(|message| (message, Redelivery::Concurrent));
        match self.fault {
            Some(FaultKind::DuplicateDelivery) if !taken.is_empty() && self.random.bool() => {
                let message = taken[self.random.usize(..taken.len())].clone();
                active_faults.handed_out.offer(process, message).await;
            }
            Some(FaultKind::DuplicateDelivery) if repeated.is_none() => {
                repeated = active_faults
                    .handed_out
                    .repeat(&self.request, &mut body, &mut self.random)
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
        response.with_body(&body).into_http()
    }

    fn refuse(&self, kind: FaultKind, error: &ServiceError) -> HttpResponse {
        self.note(kind);
        error.response(self.request.service)
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
            service: Some(self.request.service),
            operation: Some(self.request.operation.clone()),
        });
    }
}
