//! Handles one request: injects its fault and records what was sent and delivered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use http::StatusCode;
use serde_json::Value;
use test_support::fault_proxy::{
    AwsRequest, AwsResponse, Cut, HttpResponse, ServiceError, json_response,
};

use super::partial::{self, Failed};
use super::streams::{self, Page, Trimmed};
use super::{ProxyContext, marks, sampling, service_errors, sqs};
use crate::history::{
    Delivery, Fault, FaultKind, Publish, PublishedMark, Redelivery, ShardReader, StreamRecord,
    TrimmedRead,
};

pub(super) struct Interceptor {
    context: Arc<ProxyContext>,
    /// Incarnation of the sending process.
    incarnation: u32,
    request: AwsRequest,
    fault: Option<FaultKind>,
    random: fastrand::Rng,
    at: u64,
    /// Alive as long as the process waits for the response.
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
                self.record(FaultKind::CutBefore);
                return Err(Cut);
            }
            Some(FaultKind::Throttle) => {
                Some(service_errors::throttled(&self.request, &mut self.random))
            }
            Some(FaultKind::TransactionConflict) => {
                Some(service_errors::conflict(&self.request, &mut self.random))
            }
            Some(FaultKind::ExpiredIterator) => Some(service_errors::expired()),
            // These two faults are injected before the effect as often as after it.
            Some(FaultKind::ServerError) if self.random.bool() => {
                Some(service_errors::failed(self.request.service))
            }
            Some(FaultKind::TransactionInProgress) if self.random.bool() => {
                Some(service_errors::in_progress())
            }
            Some(FaultKind::Latency) => {
                self.delay().await;
                None
            }
            _ => None,
        };
        match (self.fault, error) {
            (Some(kind), Some(error)) => Ok(self.reject(kind, &error)),
            _ => self.forward().await,
        }
    }

    async fn delay(&mut self) {
        tokio::time::sleep(sampling::delay(&mut self.random)).await;
        self.record_until(
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
            self.record(kind);
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
        let mut is_oldest = false;
        if self.request.operation == "GetShardIterator" {
            is_oldest = streams::is_of_oldest_record(&self.request);
            self.request = match active_faults.trims.locate(self.request.clone()) {
                Ok(request) => request,
                // Follows from an earlier trim, so it is not recorded as a fault.
                Err(error) => {
                    let shard = streams::shard_id(&self.request);
                    self.trimmed_read(shard, false);
                    return Ok(error.response(self.request.service));
                }
            };
        }
        let forwarded_at = active_faults.recorder.now();
        let response = active_faults.upstream.send(&self.request).await?;
        match self.request.operation.as_str() {
            sqs::SEND => self.sent(forwarded_at, &response).await?,
            "BatchExecuteStatement" => self.marked(&response),
            "GetShardIterator" => {
                active_faults
                    .trims
                    .located(&self.request, &response, is_oldest);
            }
            "GetRecords" => {
                if let Some(lost) = self.trimmed(&response) {
                    self.trimmed_read(lost.page.shard.clone(), lost.is_first);
                    self.record_stream_records(lost.page, true);
                    return Ok(self.reject(FaultKind::TrimmedIterator, &service_errors::trimmed()));
                }
                if let Some(page) = active_faults.trims.read(&self.request, &response) {
                    self.record_reader(&page);
                    self.record_stream_records(page, false);
                }
            }
            _ => {}
        }
        self.respond_after_effect(response, failed).await
    }

    /// Returns `true` if the process receives the service's response.
    fn is_response_delivered(&self) -> bool {
        let answered = !matches!(
            self.fault,
            Some(FaultKind::CutAfter | FaultKind::ServerError | FaultKind::TransactionInProgress)
        );
        // A request that was delayed for longer than its timeout is abandoned.
        answered && self.waiting.strong_count() > 0
    }

    /// Responds to a request that took effect.
    async fn respond_after_effect(
        mut self,
        response: AwsResponse,
        failed: Option<Failed>,
    ) -> Result<HttpResponse, Cut> {
        match self.fault {
            Some(FaultKind::CutAfter) => {
                self.record(FaultKind::CutAfter);
                Err(Cut)
            }
            Some(FaultKind::ServerError) => {
                let error = service_errors::failed(self.request.service);
                Ok(self.reject(FaultKind::ServerError, &error))
            }
            Some(FaultKind::TransactionInProgress) => Ok(self.reject(
                FaultKind::TransactionInProgress,
                &service_errors::in_progress(),
            )),
            _ if self.request.operation == "ReceiveMessage" => Ok(self.deliver(response).await),
            _ => Ok(match (failed, response.json()) {
                (Some(failed), Some(body)) => response.with_body(&failed.merge(body)),
                _ => response,
            }
            .into_http()),
        }
    }

    /// Records the events that a queue accepted, and kills the relay if a kill is armed.
    async fn sent(&self, forwarded_at: u64, response: &AwsResponse) -> Result<(), Cut> {
        let Some(body) = response.json() else {
            return Ok(());
        };
        let active_faults = &self.context.active_faults;
        let sent = sqs::sent(&self.request, &body);
        let answered_at = active_faults.recorder.now();
        let killed = self.is_response_delivered() && !sent.events.is_empty() && self.kill().await;
        active_faults.recorder.write(|history| {
            let publishes = sent.events.into_iter().map(|event| Publish {
                requested_at: self.at,
                at: forwarded_at,
                answered_at,
                response_delivered: self.is_response_delivered() && !killed,
                relay: self.context.process.name.clone(),
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

    /// Records the events that were marked as published.
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

    /// Kills the sending relay if a kill is armed.
    async fn kill(&self) -> bool {
        let Some(pause) = self.context.active_faults.take_kill() else {
            return false;
        };
        let kind = Some(FaultKind::KillAfterSend);
        let killed = self.context.process.kill(kind, pause).await;
        if !killed {
            // The relay is already ending; the kill applies to the next one.
            self.context.active_faults.arm_kill(pause);
        }
        killed
    }

    /// Returns the records that are trimmed before the process reads them.
    fn trimmed(&mut self, response: &AwsResponse) -> Option<Trimmed> {
        let active_faults = &self.context.active_faults;
        if !self.is_response_delivered() || !active_faults.wants_trim() {
            return None;
        }
        let lost = active_faults
            .trims
            .trim(&self.request, response, &mut self.random)?;
        active_faults.trim_is_done();
        Some(lost)
    }

    /// Records that the process learns that its position is trimmed, unless it has abandoned the
    /// request.
    fn trimmed_read(&self, shard: String, is_first: bool) {
        if self.waiting.strong_count() > 0 {
            let recorder = &self.context.active_faults.recorder;
            let read = TrimmedRead {
                at: recorder.now(),
                shard,
                is_first,
                relay: self.context.process.name.clone(),
                incarnation: self.incarnation,
            };
            recorder.write(|history| history.trimmed_reads.push(read));
        }
    }

    fn record_stream_records(&self, page: Page, trimmed: bool) {
        let recorder = &self.context.active_faults.recorder;
        let at = recorder.now();
        let Page { shard, events, .. } = page;
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

    /// Records the reader of a shard if it changed.
    fn record_reader(&self, page: &Page) {
        let recorder = &self.context.active_faults.recorder;
        let reader = ShardReader {
            at: recorder.now(),
            shard: page.shard.clone(),
            relay: self.context.process.name.clone(),
            incarnation: self.incarnation,
        };
        recorder.write(|history| {
            if page.is_last {
                history.closed_shards.insert(reader.shard.clone());
            }
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

    /// Responds to a ReceiveMessage, possibly with a duplicate message or in another order, and
    /// records the deliveries.
    async fn deliver(&mut self, response: AwsResponse) -> HttpResponse {
        let Some(mut body) = response.json() else {
            return response.into_http();
        };
        let active_faults = Arc::clone(&self.context.active_faults);
        let process = &self.context.process.name;
        let taken = sqs::messages(&body).to_vec();
        let mut repeated = active_faults
            .delivered
            .share(process, &self.request, &mut body)
            .map(|message| (message, Redelivery::Concurrent));
        match self.fault {
            Some(FaultKind::DuplicateDelivery) if !taken.is_empty() && self.random.bool() => {
                let message = taken[self.random.usize(..taken.len())].clone();
                active_faults.delivered.offer(process, message).await;
            }
            Some(FaultKind::DuplicateDelivery) if repeated.is_none() => {
                repeated = active_faults
                    .delivered
                    .repeat(&self.request, &mut body, &mut self.random)
                    .map(|message| (message, Redelivery::Later));
            }
            Some(FaultKind::ReorderDelivery) if sqs::reorder(&mut body, &mut self.random) => {
                self.record(FaultKind::ReorderDelivery);
            }
            _ => {}
        }
        if repeated.is_some() {
            // Recorded for the process that receives it.
            self.record(FaultKind::DuplicateDelivery);
        }
        active_faults.delivered.remember(&taken);
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

    fn reject(&self, kind: FaultKind, error: &ServiceError) -> HttpResponse {
        self.record(kind);
        error.response(self.request.service)
    }

    fn record(&self, kind: FaultKind) {
        self.record_until(kind, None);
    }

    fn record_until(&self, kind: FaultKind, until: Option<u64>) {
        self.context.active_faults.recorder.fault(Fault {
            at: self.at,
            until,
            kind,
            process: Some(self.context.process.name.clone()),
            service: Some(self.request.service),
            operation: Some(self.request.operation.clone()),
            queue: None,
        });
    }
}
