//! The faults that all processes share: outages, armed faults, trimmed stream records and
//! redelivered messages.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use local_cloud::FidelityControl;
use test_support::fault_proxy::{AwsRequest, CloudService, Cut, HttpResponse, Tasks, Upstream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::redelivery::DeliveredMessages;
use super::sampling::FaultSampler;
use super::streams::Trims;
use super::{service_errors, sqs};
use crate::degradation::Degradation;
use crate::history::{Fault, FaultKind};
use crate::recorder::Recorder;
use crate::schedule::Manner;

/// Shared by the proxies of a run.
#[derive(Debug)]
pub(crate) struct ActiveFaults {
    pub(super) recorder: Arc<Recorder>,
    pub(super) upstream: Upstream,
    /// `None` for another cloud than the embedded one.
    cloud: Option<FidelityControl>,
    pub(super) trims: Trims,
    pub(super) delivered: DeliveredMessages,
    seed: u64,
    kinds: Vec<FaultKind>,
    phase: watch::Sender<Phase>,
    outages: Mutex<Vec<Outage>>,
    /// Armed kills after a send: the downtime of each relay.
    kills: Mutex<VecDeque<Duration>>,
    /// Number of pages to be trimmed.
    pages: AtomicU32,
    /// Of all proxies.
    pub(super) tasks: Arc<Tasks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Faults,
    Quiet,
    /// No further fault begins.
    Ended,
}

/// An outage of services or of a queue.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    scope: Scope,
    manner: Manner,
    over: CancellationToken,
}

/// Requests that an outage affects.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Requests to one service, or to all if `None`.
    Service(Option<CloudService>),
    /// Sends to the queue of this name.
    Queue(String),
}

impl Scope {
    fn affects(&self, request: &AwsRequest) -> bool {
        match self {
            Self::Service(service) => service.is_none_or(|affected| affected == request.service),
            Self::Queue(queue) => {
                request.operation == sqs::SEND && sqs::queue_name(&request.json()) == *queue
            }
        }
    }
}

impl ActiveFaults {
    pub(crate) fn new(
        recorder: Arc<Recorder>,
        upstream: Upstream,
        cloud: Option<FidelityControl>,
        seed: u64,
        kinds: &[FaultKind],
    ) -> Self {
        Self {
            recorder,
            upstream,
            cloud,
            seed,
            kinds: kinds.to_vec(),
            trims: Trims::default(),
            delivered: DeliveredMessages::default(),
            phase: watch::Sender::new(Phase::Faults),
            outages: Mutex::default(),
            kills: Mutex::default(),
            pages: AtomicU32::new(0),
            tasks: Arc::default(),
        }
    }

    /// Makes services or a queue unavailable for this time, at most until the phase ends.
    pub(crate) async fn outage_of(&self, scope: Scope, manner: Manner, lasting: Duration) {
        let at = self.recorder.now();
        let over = CancellationToken::new();
        // The outage also ends if this future is dropped.
        let _ends = over.clone().drop_guard();
        // An outage ends with the fault phase at the latest.
        let phase = self.phase.subscribe();
        if *phase.borrow() == Phase::Ended {
            return;
        }
        lock(&self.outages).push(Outage {
            scope: scope.clone(),
            manner,
            over: over.clone(),
        });
        in_this_phase(phase, lasting).await;
        over.cancel();
        lock(&self.outages).retain(|outage| !outage.over.is_cancelled());
        let (kind, service, queue) = match scope {
            Scope::Service(service) => (FaultKind::Outage, service, None),
            Scope::Queue(queue) => (FaultKind::QueueOutage, Some(CloudService::Sqs), Some(queue)),
        };
        self.recorder.fault(Fault {
            at,
            until: Some(self.recorder.now()),
            kind,
            process: None,
            service,
            operation: queue.is_some().then(|| sqs::SEND.to_owned()),
            queue,
        });
    }

    /// Degrades the embedded cloud for this time, at most until the phase ends.
    pub(crate) async fn degrade(&self, degradation: Degradation, lasting: Duration) {
        let phase = self.phase.subscribe();
        let is_fault_phase = *phase.borrow() == Phase::Faults;
        let Some(cloud) = self.cloud.as_ref().filter(|_| is_fault_phase) else {
            return;
        };
        let at = self.recorder.now();
        cloud.update(|fidelity| degradation.begin(fidelity));
        // It also ends if this future is dropped.
        let ends = Ends { cloud, degradation };
        in_this_phase(phase, lasting).await;
        drop(ends);
        self.recorder.fault(Fault {
            at,
            until: Some(self.recorder.now()),
            kind: degradation.kind(),
            process: None,
            service: Some(degradation.service()),
            operation: None,
            queue: None,
        });
    }

    /// Kills the next relay whose send was answered, before it receives the response; the relay is
    /// started again after `pause`.
    pub(crate) fn arm_kill(&self, pause: Duration) {
        lock(&self.kills).push_back(pause);
    }

    /// Trims records of the next page that a relay reads.
    pub(crate) fn arm_trim(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// Pauses the sampled faults of requests.
    pub(crate) fn begin_quiet_phase(&self) {
        self.phase.send_replace(Phase::Quiet);
    }

    /// Resumes the sampled faults of requests.
    pub(crate) fn begin_fault_phase(&self) {
        self.phase.send_replace(Phase::Faults);
    }

    /// Ends all faults permanently. Trimmed records stay trimmed.
    pub(crate) fn end_faults(&self) {
        self.phase.send_replace(Phase::Ended);
    }

    /// Closes all proxies and cuts their connections.
    pub(crate) async fn close(&self) {
        self.tasks.close().await;
    }

    pub(super) fn in_fault_phase(&self) -> bool {
        *self.phase.borrow() == Phase::Faults
    }

    pub(super) fn sampler(&self, process: &str) -> FaultSampler {
        FaultSampler::new(self.seed, process, &self.kinds)
    }

    /// Returns the outage that affects `request`.
    pub(super) fn outage(&self, request: &AwsRequest) -> Option<Outage> {
        let outages = lock(&self.outages);
        let hits = |outage: &&Outage| !outage.over.is_cancelled() && outage.scope.affects(request);
        outages.iter().find(hits).cloned()
    }

    pub(super) fn take_kill(&self) -> Option<Duration> {
        if !self.in_fault_phase() {
            return None;
        }
        lock(&self.kills).pop_front()
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.in_fault_phase() && self.pages.load(Ordering::Relaxed) > 0
    }

    pub(super) fn trim_is_done(&self) {
        // Two readers may have trimmed a page at the same time; the count must not go below zero.
        let less = |pages: u32| pages.checked_sub(1);
        let _ = self
            .pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Waits for this time, at most until the phase changes.
async fn in_this_phase(mut phase: watch::Receiver<Phase>, lasting: Duration) {
    tokio::select! {
        () = tokio::time::sleep(lasting) => {}
        _ = phase.changed() => {}
    }
}

/// Ends a degradation.
struct Ends<'a> {
    cloud: &'a FidelityControl,
    degradation: Degradation,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.cloud.update(|fidelity| self.degradation.end(fidelity));
    }
}

impl Outage {
    /// Responds to a request during the outage.
    pub(super) async fn respond(&self, service: CloudService) -> Result<HttpResponse, Cut> {
        match self.manner {
            Manner::Refuses => Ok(service_errors::unavailable().response(service)),
            Manner::Cuts => Err(Cut),
            Manner::Silent => {
                self.over.cancelled().await;
                Err(Cut)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::Settings;

    const LONG: Duration = Duration::from_secs(3600);

    fn active_faults() -> Arc<ActiveFaults> {
        let unreachable = http::Uri::from_static("http://127.0.0.1:9");
        let upstream = Upstream::new(unreachable.clone(), unreachable.clone(), unreachable);
        let recorder = Arc::new(Recorder::new(Settings::default()));
        Arc::new(ActiveFaults::new(recorder, upstream, None, 1, &[]))
    }

    async fn silence(active_faults: &ActiveFaults) {
        let all = Scope::Service(None);
        active_faults.outage_of(all, Manner::Silent, LONG).await;
    }

    fn send(queue: &str) -> AwsRequest {
        let body = json!({"QueueUrl": format!("http://127.0.0.1:9324/000000000000/{queue}")});
        AwsRequest::of(CloudService::Sqs, sqs::SEND, &body)
    }

    #[tokio::test]
    async fn dropping_an_outage_ends_it_and_releases_held_requests() {
        let active_faults = active_faults();
        let held = {
            let outage = silence(&active_faults);
            tokio::select! {
                biased;
                () = outage => unreachable!("the outage lasts an hour"),
                () = tokio::task::yield_now() => {}
            }
            // A request that arrived during the outage.
            lock(&active_faults.outages)[0].clone()
        };
        assert!(active_faults.outage(&send("q")).is_none());
        assert!(held.respond(CloudService::Sqs).await.is_err());
    }

    #[tokio::test]
    async fn ending_faults_ends_outages_and_prevents_new_ones() {
        let active_faults = active_faults();
        let lasting = tokio::spawn({
            let active_faults = Arc::clone(&active_faults);
            async move { silence(&active_faults).await }
        });
        while active_faults.outage(&send("q")).is_none() {
            tokio::task::yield_now().await;
        }
        active_faults.end_faults();
        lasting.await.unwrap();
        silence(&active_faults).await;
        assert!(active_faults.outage(&send("q")).is_none());
        assert_eq!(active_faults.recorder.take().faults.len(), 1);
    }

    #[tokio::test]
    async fn an_outage_of_a_queue_affects_the_sends_to_it_only() {
        let active_faults = active_faults();
        let lasting = tokio::spawn({
            let active_faults = Arc::clone(&active_faults);
            async move {
                let queue = Scope::Queue("q".to_owned());
                active_faults.outage_of(queue, Manner::Refuses, LONG).await;
            }
        });
        while active_faults.outage(&send("q")).is_none() {
            tokio::task::yield_now().await;
        }
        assert!(active_faults.outage(&send("other-q")).is_none());
        let receive = AwsRequest::of(CloudService::Sqs, "ReceiveMessage", &send("q").json());
        assert!(active_faults.outage(&receive).is_none());
        active_faults.end_faults();
        lasting.await.unwrap();
        let faults = active_faults.recorder.take().faults;
        assert_eq!(faults[0].kind, FaultKind::QueueOutage);
        assert_eq!(faults[0].queue.as_deref(), Some("q"));
    }
}
